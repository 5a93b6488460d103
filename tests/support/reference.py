"""Slow, plain references: double loops in float64, straight from the equations."""

import math

import numpy as np


def squared_distances(X):
    X = np.asarray(X, dtype=np.float64)
    return np.array([[sum((a - b) ** 2) for b in X] for a in X])


def row_perplexities(C):
    """exp(entropy) of each row of conditional probabilities, rows rescaled to total 1."""
    C = np.asarray(C, dtype=np.float64)
    C = C / C.sum(axis=1, keepdims=True)
    return np.array([math.exp(-sum(p * math.log(p) for p in row if p > 0)) for row in C])


def conditional_probabilities(X, perplexity, steps=200):
    """Bisection on log β, row by row."""
    D2 = squared_distances(X)
    C = np.zeros_like(D2)
    for i in range(len(D2)):
        others = np.delete(D2[i], i)
        others = (others - others.min()) / others.mean()
        low, high = -50.0, 50.0
        for _ in range(steps):
            middle = (low + high) / 2
            p = np.exp(-math.exp(middle) * others)
            p /= p.sum()
            entropy = -sum(q * math.log(q) for q in p if q > 0)
            low, high = (middle, high) if entropy > math.log(perplexity) else (low, middle)
        C[i, np.arange(len(D2)) != i] = p
    return C


def joint_probabilities(X, perplexity):
    C = conditional_probabilities(X, perplexity)
    return (C + C.T) / (2 * len(C))


def tsne(P, Y, dof=1.0, exaggeration=1.0):
    """Σ p log p - c Σ p log w + (Σ p) log Z, in nats."""
    P, D2 = np.asarray(P, dtype=np.float64), squared_distances(Y)
    n = len(D2)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    w = {pair: (1 + D2[pair] / dof) ** (-(dof + 1) / 2) for pair in pairs}
    Z = sum(w.values())
    total = 0.0
    for pair in pairs:
        p = P[pair]
        total += p * math.log(Z) - exaggeration * p * math.log(w[pair])
        total += p * math.log(p) if p > 0 else 0.0
    return total


def tsne_of_equal_pairs(Y, dof):
    """The loss of pairs p_ij = 1/B of rows B/2 apart."""
    Y = np.asarray(Y, np.float64)
    Z = sum(((1 + np.square(y - Y).sum(axis=1) / dof) ** (-(dof + 1) / 2)).sum() - 1 for y in Y)
    D2 = np.square(Y - np.roll(Y, len(Y) // 2, axis=0)).sum(axis=1)
    return (dof + 1) / 2 * np.log1p(D2 / dof).mean() - np.log(len(Y)) + np.log(Z)


def random_P(n, seed=0):
    """Symmetric, zero diagonal, total 1."""
    P = np.random.default_rng(seed).random((n, n)) ** 3
    P = P + P.T
    np.fill_diagonal(P, 0)
    return P / P.sum()

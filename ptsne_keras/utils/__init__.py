"""Helpers that know nothing of t-SNE: checks, files, arrays, principal components."""

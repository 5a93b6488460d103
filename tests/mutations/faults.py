"""Faults of one line in the core, and the everyday tests that should notice each of them.

Each entry is (file below ptsne_keras, right code, wrong code, folder or file of tests).
"""

FAULTS = [
    # The loss.
    (
        "losses/tsne.py",
        "negative_entropy - exaggeration * attraction",
        "negative_entropy + exaggeration * attraction",
        "losses",
    ),
    ("losses/tsne.py", "-0.5 * (alpha + 1.0) * ops.log1p", "-(alpha + 1.0) * ops.log1p", "losses"),
    ("losses/tsne.py", "ops.log1p(D2 / alpha)", "ops.log1p(D2)", "losses"),
    (
        "losses/tsne.py",
        "ops.where(diagonal, 0.0, 1.0 /",
        "ops.where(diagonal, 1.0, 1.0 /",
        "losses",
    ),
    (
        "losses/tsne.py",
        "ops.shape(Y)[0] // 2, axis=0",
        "ops.shape(Y)[0] // 2 - 1, axis=0",
        "losses",
    ),
    ("losses/tsne.py", "return shift + ops.cast(", "return ops.cast(", "losses"),
    # Probabilities.
    (
        "affinities/perplexity.py",
        "tf.reduce_sum(kernel, axis=1) - own",
        "tf.reduce_sum(kernel, axis=1)",
        "affinities",
    ),
    ("affinities/probabilities.py", "P = C + tf.transpose(C)", "P = C + C", "affinities"),
    (
        "affinities/probabilities.py",
        "D2 = tf.square(tf.math.divide_no_nan(distances, tf.reduce_max(distances)))",
        "D2 = tf.math.divide_no_nan(distances, tf.reduce_max(distances))",
        "affinities",
    ),
    (
        "affinities/neighbors.py",
        "found = arrays.without_self(found, skip)",
        "found = found[:, 1:]",
        "affinities",
    ),
    # Batches and pairs.
    (
        "data/_pairs.py",
        "tf.cast(cumulative < u, tf.int32)",
        "tf.cast(cumulative > u, tf.int32)",
        "data",
    ),
    ("data/_pairs.py", "tf.stack([number, 0])", "tf.constant([0, 0], tf.int64)", "data"),
    ("data/_pairs.py", "self._noise(both, number)", "self._noise(both[::-1], number)", "data"),
    ("data/order.py", "seed=[seed, number])", "seed=[seed, 0])", "data"),
    ("data/order.py", "np.int64) * used // count", "np.int64) * (used - 1) // count", "data"),
    # RBMs.
    (
        "networks/rbm.py",
        "ops.concatenate([V / -B, model_rows / M])",
        "ops.concatenate([V / B, model_rows / M])",
        "networks/test_rbm.py",
    ),
    (
        "networks/rbm.py",
        "+ self.weight_decay * self.kernel",
        "- self.weight_decay * self.kernel",
        "networks/test_rbm.py",
    ),
    ("networks/rbm.py", "else 0.5 * ops.square(A)", "else ops.square(A)", "networks/test_rbm.py"),
    (
        "networks/rbm.py",
        "self.gibbs(reconstruction, self.k - 1)",
        "self.gibbs(reconstruction, self.k)",
        "networks/test_rbm.py",
    ),
    (
        "networks/encoder.py",
        '"sigmoid" if rbm.hidden == "bernoulli" else "linear"',
        '"sigmoid"',
        "networks",
    ),
    # Placement.
    (
        "networks/placement.py",
        "weights = p / (1.0 +",
        "weights = p * (1.0 +",
        "networks/test_placement.py",
    ),
    (
        "networks/placement.py",
        "np.column_stack([features, -squares])",
        "np.column_stack([features, -2 * squares])",
        "networks/test_placement.py",
    ),
    (
        "networks/placement.py",
        "block * self._block + place % self._block",
        "block * self._block + place // self._block",
        "networks/test_placement.py",
    ),
    (
        "networks/placement.py",
        "> math.log(perplexity)",
        "> math.log(perplexity + 0.5)",
        "networks/test_placement.py",
    ),
    (
        "networks/assembly.py",
        "np.cumsum(sizes) - sizes)",
        "np.cumsum(sizes) - 1)",
        "networks/test_placed.py",
    ),
    (
        "estimators/_placer.py",
        "near = index.search(Z[chosen], min(layer.n_neighbors, len(Z) - 1), skip=chosen)",
        "near = index.search(Z[chosen], min(layer.n_neighbors, len(Z) - 1))",
        "estimators/test_placed.py",
    ),
    # Training.
    (
        "training/trainer.py",
        "self._exaggeration if training else 1.0",
        "self._exaggeration",
        "training",
    ),
    (
        "training/trainer.py",
        "self._step < self._dof_warmup",
        "self._step > self._dof_warmup",
        "training",
    ),
    ("training/descent.py", "exponent = (dof + 1) / 2", "exponent = dof", "training"),
    # Measures.
    ("metrics/quality.py", "2 * n - 3 * k - 1", "2 * n - 3 * k", "metrics"),
    (
        "metrics/ranks.py",
        "1 + np.count_nonzero(row < row[j])",
        "1 + np.count_nonzero(row <= row[j])",
        "metrics",
    ),
    (
        "metrics/procrustes.py",
        "orthogonal_procrustes(A, B)",
        "orthogonal_procrustes(B, A)",
        "metrics",
    ),
]

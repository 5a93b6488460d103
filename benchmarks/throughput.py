"""How fast a training step is, beside plain matrix products of the same shapes."""

import time
from statistics import median

import keras
import numpy as np
from keras import ops


def matmul_shapes(encoder: keras.Model, rows: int) -> list[tuple[int, int, int]]:
    """Shapes (m, k, n) of the matrix products in one training step of the Dense layers.

    Forward X [B, i] @ W [i, o]; backward Xᵀ @ G for the weights and G @ Wᵀ for the layer below,
    which the first layer has no need of.

    Examples
    --------
    >>> matmul_shapes(networks.encoder(64, 2, hidden_units=(500,)), 1257)[0]
    (1257, 64, 500)
    """
    shapes = []
    dense = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Dense)]
    for position, layer in enumerate(dense):
        i, o = layer.kernel.shape
        shapes += [(rows, i, o), (i, rows, o)]
        if position:
            shapes.append((rows, o, i))
    return shapes


def flops(shapes: list[tuple[int, int, int]]) -> int:
    """Floating-point operations of matrix products of these shapes: 2 m k n each."""
    return sum(2 * m * k * n for m, k, n in shapes)


def matmul_seconds(shapes: list[tuple[int, int, int]], repeats: int = 20) -> float:
    """Median seconds to compute all the products once, float32, nothing else.

    Examples
    --------
    >>> shapes = matmul_shapes(encoder, 1000)
    >>> gflops = flops(shapes) / matmul_seconds(shapes) / 1e9
    """
    rng = np.random.default_rng(0)
    pairs = [
        (
            ops.convert_to_tensor(rng.random((m, k), dtype=np.float32)),
            ops.convert_to_tensor(rng.random((k, n), dtype=np.float32)),
        )
        for m, k, n in shapes
    ]
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for A, B in pairs:
            product = ops.matmul(A, B)
        np.asarray(product)  # wait for the last one
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])

"""The yardstick of the benchmarks: what a step's matrix products cost by themselves."""

import throughput

from ptsne_keras import networks


def test_the_matrix_products_of_a_step_are_counted():
    encoder = networks.encoder(64, 2, hidden_units=(500, 300))
    shapes = throughput.matmul_shapes(encoder, 100)
    forward = 100 * (64 * 500 + 500 * 300 + 300 * 2)
    # Backward: once for the weights, once for the layer below, which the first layer lacks.
    assert throughput.flops(shapes) == 2 * (3 * forward - 100 * 64 * 500)
    assert throughput.matmul_seconds(shapes, repeats=3) > 0

"""Networks from rows to map coordinates, the layer that places rows, and RBMs for pretraining."""

from ptsne_keras.networks.assembly import front, network, placed, smaller
from ptsne_keras.networks.encoder import encoder, from_rows, head, unroll
from ptsne_keras.networks.placement import Placement
from ptsne_keras.networks.rbm import RBM

__all__ = [
    "RBM",
    "Placement",
    "encoder",
    "from_rows",
    "front",
    "head",
    "network",
    "placed",
    "smaller",
    "unroll",
]

"""Networks from rows to map coordinates, and the RBMs that pretrain them."""

from ptsne_keras.networks.encoder import encoder, from_rows, head, unroll
from ptsne_keras.networks.rbm import RBM

__all__ = ["RBM", "encoder", "from_rows", "head", "unroll"]

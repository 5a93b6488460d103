"""Networks from rows to map coordinates, and the RBMs that pretrain them."""

from ptsne_keras.networks.encoder import encoder, from_rbms, from_rows, head
from ptsne_keras.networks.rbm import RBM

__all__ = ["RBM", "encoder", "from_rbms", "from_rows", "head"]

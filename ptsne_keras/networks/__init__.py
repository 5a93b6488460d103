"""Networks from rows to map coordinates, and the RBMs that pretrain them."""

from ptsne_keras.networks.encoder import encoder, from_rbms, from_rows, head
from ptsne_keras.networks.placement import Placement
from ptsne_keras.networks.rbm import RBM

__all__ = ["RBM", "Placement", "encoder", "from_rbms", "from_rows", "head"]

"""Training: the three stages, the Keras model that trains an encoder, conjugate gradients."""

from ptsne_keras.training.stages import finetune, pretrain, unroll
from ptsne_keras.training.trainer import Trainer

__all__ = ["Trainer", "finetune", "pretrain", "unroll"]

"""Training: the stages, and the Keras models that train an encoder."""

from ptsne_keras.training.conjugate_gradient import ConjugateGradientTrainer
from ptsne_keras.training.descent import refine
from ptsne_keras.training.stages import finetune, pretrain, unroll
from ptsne_keras.training.trainer import Trainer

__all__ = ["ConjugateGradientTrainer", "Trainer", "finetune", "pretrain", "refine", "unroll"]

"""Optimizers and learning-rate schedules, with PyTorch's names, options and state."""

from jitseq.optim import lr_scheduler
from jitseq.optim.adagrad import Adagrad
from jitseq.optim.adam import Adam, AdamW
from jitseq.optim.checks import OptimizerError
from jitseq.optim.optimizer import Optimizer
from jitseq.optim.rmsprop import RMSprop
from jitseq.optim.rule import Rule
from jitseq.optim.sgd import SGD

__all__ = [
    "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "OptimizerError", "RMSprop",
    "Rule", "lr_scheduler",
]  # fmt: skip

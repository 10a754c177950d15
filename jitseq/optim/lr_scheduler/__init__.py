"""Learning-rate schedules, with PyTorch's names, values and saved state."""

from jitseq.optim.lr_scheduler.base import LRScheduler
from jitseq.optim.lr_scheduler.decay import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    StepLR,
)
from jitseq.optim.lr_scheduler.one_cycle import OneCycleLR
from jitseq.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "CosineAnnealingLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "ReduceLROnPlateau", "StepLR",
]  # fmt: skip

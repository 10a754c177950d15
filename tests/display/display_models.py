"""Models whose displays are tested: chains, branches, skips, a step of training."""

from __future__ import annotations

import numpy as np

from jitseq import nn
from jitseq.nn import functional as F


class Block(nn.Module):
    """Two convolutions with a skip connection through a third one."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.short = nn.Conv2d(channels, width, 1)

    def forward(self, x):
        y = self.conv2(F.relu(self.norm(self.conv1(x))))
        return F.relu(y + self.short(x))


class Branches(nn.Module):
    """Two blocks, the outputs of both joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block(3, 8)
        self.second = Block(8, 8)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        return self.head(F.mean(F.cat([a, b], dim=1), dim=(2, 3)))


def branches() -> Branches:
    return Branches().eval()


def images(count: int = 2) -> np.ndarray:
    shape = (count, 3, 8, 8)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def step_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 5),
    )

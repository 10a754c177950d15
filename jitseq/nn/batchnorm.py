"""Batch normalisation layers (Ioffe and Szegedy, Batch normalization, 2015).

Invariant: a call that fails leaves the buffers of its layer as they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.ir.builder import active_builder
from jitseq.ir.tracer import Tracer
from jitseq.ir.types import TensorType
from jitseq.ir.variable import Variable
from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import Array, integer, operand, require_rank
from jitseq.nn.init import float_dtype
from jitseq.nn.module import Module
from jitseq.nn.parameter import Parameter


class _BatchNorm(Module):
    _optional_state = ("num_batches_tracked",)
    _ranks: tuple[int, ...]
    _layout: str

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        kind = float_dtype(dtype, device)
        count = integer(num_features, f"{type(self).__name__}: num_features", 0)
        self.num_features = count
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        ones, zeros = np.ones(count, kind), np.zeros(count, kind)
        self.register_parameter("weight", Parameter(ones) if affine else None)
        self.register_parameter("bias", Parameter(zeros) if affine and bias else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros if tracked else None)
        self.register_buffer("running_var", ones if tracked else None)
        steps = np.zeros((), np.int64) if tracked else None
        self.register_buffer("num_batches_tracked", steps)

    def forward(self, input: Array) -> Array:
        name = type(self).__name__
        require_rank(operand(input), name, self._ranks, f"give {self._layout}")
        tracks = self.training and self.track_running_stats
        counter = self.num_batches_tracked if tracks else None
        used = tracks or not self.training
        mean = self.running_mean if used else None
        var = self.running_var if used else None
        result = F.batch_norm(
            input, mean, var, self.weight, self.bias,
            self.training or (mean is None and var is None),
            self._momentum(counter, mean), self.eps,
        )  # fmt: skip
        if counter is not None:
            _count(counter)
        return result

    def _momentum(self, counter: Variable | None, mean: Variable | None) -> Any:
        """The share of this batch: with ``momentum=None`` every batch counts equally.

        As in PyTorch, statistics without a counter do not move then.
        """
        if self.momentum is not None:
            return self.momentum
        if counter is None or mean is None:
            return 0.0
        builder = active_builder()
        if builder is None:
            return 1 / (int(counter.numpy()) + 1)
        ahead = sum(variable is counter for variable in builder.counted) + 1
        kind = mean.dtype

        def share() -> np.ndarray:
            return np.asarray(1 / (int(counter.numpy()) + ahead), kind)

        return Tracer(builder.feed("momentum", TensorType(kind.name, ()), share))

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _count(counter: Variable) -> None:
    """Add one, now or after each call of what is being traced."""
    builder = active_builder()
    if builder is not None:
        builder.count_call(counter)
    else:
        counter.assign(counter.numpy() + 1)


class BatchNorm1d(_BatchNorm):
    """Normalises each feature of ``(N, C)`` or ``(N, C, L)``.

    ``weight`` and ``bias``, and the buffers ``running_mean`` and ``running_var``, are
    ``(C,)``; ``num_batches_tracked`` is an int64. In training, and without running
    statistics, mean and variance are those of the batch; in training the running ones
    move towards them by ``momentum``, or with None are the average of all batches.
    Raises `ShapeError` for one value per channel in training.
    """

    _ranks = (2, 3)
    _layout = "(batch, features) or (batch, features, length)"


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of ``(N, C, H, W)``; otherwise as `BatchNorm1d`."""

    _ranks = (4,)
    _layout = "(batch, channels, height, width)"

"""Batch normalisation layers (Ioffe and Szegedy, Batch normalization, 2015).

Invariant: they run in evaluation mode, with running statistics; anything else is
refused before it changes a buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import UnsupportedError
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
        if self.running_mean is None or self.running_var is None:
            raise UnsupportedError(
                f"{name} without running statistics is not covered yet",
                hint="make the layer with track_running_stats=True",
            )
        if self.training:
            raise UnsupportedError(
                f"{name} in training mode is not covered yet",
                hint="call model.eval() first",
            )
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            eps=self.eps,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Normalises each feature of ``(N, C)`` or ``(N, C, L)``.

    ``weight`` and ``bias``, and the buffers ``running_mean`` and ``running_var``, are
    ``(C,)``; ``num_batches_tracked`` is an int64. Raises `UnsupportedError` in
    training mode.
    """

    _ranks = (2, 3)
    _layout = "(batch, features) or (batch, features, length)"


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of ``(N, C, H, W)``; otherwise as `BatchNorm1d`."""

    _ranks = (4,)
    _layout = "(batch, channels, height, width)"

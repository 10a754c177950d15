"""Batch normalisation with running statistics, and dropout.

Arrays enter and leave with the same shape. Invariant: both cover evaluation only;
training mode is refused before anything is computed or changed.
"""

from __future__ import annotations

import numpy as np

from jitseq.errors import UnsupportedError
from jitseq.ir.tracer import apply
from jitseq.nn.functional.arguments import Array, OptionError, operand, require_rank


def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """``(x - mean[c]) / sqrt(var[c] + eps) · weight[c] + bias[c]``; c is axis 1.

    ``input`` is ``(N, C)`` or ``(N, C, …)``, everything else ``(C,)``. Raises
    `UnsupportedError` in training mode or without running statistics.
    """
    if training or running_mean is None or running_var is None:
        raise UnsupportedError(
            "batch_norm with the statistics of the batch is not covered yet",
            hint="pass running_mean and running_var, and training=False",
        )
    x, mean, var = operand(input), operand(running_mean), operand(running_var)
    ranks = (2, 3, 4, 5)
    require_rank(x, "batch_norm", ranks, "give (batch, channels, …)")
    affine: tuple[Array, ...] = ()
    if weight is not None or bias is not None:
        weight = np.ones(mean.shape, mean.dtype) if weight is None else operand(weight)
        bias = np.zeros(mean.shape, mean.dtype) if bias is None else operand(bias)
        affine = (weight, bias)
    return apply("batch_norm", x, mean, var, *affine, eps=float(eps))


def dropout(
    input: Array, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Array:
    """``input`` itself: dropout does nothing in evaluation mode or with ``p=0``.

    Raises `UnsupportedError` when it would have to drop something, and `OptionError`
    unless ``0 <= p <= 1``.
    """
    check_probability(p)
    if training and p > 0:
        raise UnsupportedError(
            "dropout in training mode is not covered yet",
            hint="pass training=False, or p=0",
        )
    return input


def check_probability(p: float) -> None:
    """Raise `OptionError` unless ``p`` is a probability."""
    if not 0 <= p <= 1:
        raise OptionError(
            "dropout: the probability must be between 0 and 1", facts={"p": p}
        )

"""Batch normalisation and dropout, in training and in evaluation.

Arrays enter and leave with the same shape. Invariant: what a call changes (running
statistics, the stream of keys) changes after everything was checked; while a function
is traced nothing changes, the program does it at each call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import UnsupportedError
from jitseq.ir.builder import active_builder
from jitseq.ir.op import get_op
from jitseq.ir.ops.norm import require_values_per_channel
from jitseq.ir.random import draw_key
from jitseq.ir.tracer import Tracer, apply
from jitseq.ir.types import BATCH, TensorType, same_dim
from jitseq.ir.variable import Variable
from jitseq.nn.functional.arguments import Array, OptionError, operand, require_rank

KEY = TensorType("uint32", (2,))


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

    ``input`` is ``(N, C)`` or ``(N, C, …)``, everything else ``(C,)``. In training mean
    and var are those of the batch, and the running ones, where there are any, move
    towards them: ``r = (1 - momentum) r + momentum b``, with the variance over
    ``count - 1``. They change in place: give parameters, buffers or arrays.

    Raises `ShapeError` and `DtypeError` for operands that do not fit, and for one
    value per channel in training; `OptionError` for running statistics that are missing
    in evaluation or only half there; `UnsupportedError` when the traced function would
    change statistics that are not variables.
    """
    x = operand(input)
    require_rank(x, "batch_norm", (2, 3, 4, 5), "give (batch, channels, …)")
    if (running_mean is None) != (running_var is None):
        raise OptionError(
            "batch_norm: running_mean and running_var come together",
            hint="give both, or neither",
        )
    running: tuple[Any, ...] = ()
    if running_mean is not None:
        running = (operand(running_mean), operand(running_var))
    affine = _affine(weight, bias)
    if training:
        return _train(x, running, affine, momentum, float(eps))
    if not running:
        raise OptionError(
            "batch_norm: evaluation needs running_mean and running_var",
            hint="give them, or training=True for the statistics of the batch",
        )
    return apply("batch_norm", x, *running, *affine, eps=float(eps))


def _affine(weight: Array | None, bias: Array | None) -> tuple[Any, ...]:
    """Weight and bias, ones or zeros in place of one; nothing in place of both."""
    if weight is None and bias is None:
        return ()
    if weight is None:
        shift = operand(bias)
        return np.ones(shift.shape, shift.dtype), shift
    scale = operand(weight)
    return scale, np.zeros(scale.shape, scale.dtype) if bias is None else operand(bias)


def _train(
    x: Any, running: tuple[Any, ...], affine: tuple[Any, ...], momentum: Any, eps: float
) -> Any:
    type = _type(x)
    if running:
        _require_changeable(running)
        statistics = (_type(r) for r in (*running, *affine))
        get_op("batch_norm").infer(type, *statistics, eps=eps)
    if type.shape[0] is not BATCH:
        require_values_per_channel(type, type.shape[0])
    mean, var, count = _statistics(x, type)
    y = apply("batch_norm_train", x, mean, var, *affine, eps=eps)
    if running and 0 not in (extent for extent in type.shape if extent is not BATCH):
        kept = apply("sub", 1.0, momentum) if _is_array(momentum) else 1 - momentum
        unbiased = apply("mul", var, apply("div", count, apply("sub", count, 1.0)))
        news = []
        for old, batch in zip(running, (mean, unbiased), strict=True):
            share = apply("mul", batch, momentum)
            news.append(apply("add", apply("mul", old, kept), share))
        for old, new in zip(running, news, strict=True):
            _change(old, new)
    return y


def _statistics(x: Any, type: TensorType) -> tuple[Any, Any, Any]:
    """Mean and biased variance of each channel, and over how many elements.

    Both are 0 for an empty batch.
    """
    total = apply("channel_sum", x, axis=1)
    count = apply("element_count", x, axis=1)
    if same_dim(type.shape[0], 0):
        return total, total, count
    mean = apply("div", total, count)
    column = (type.shape[1], *(1,) * (type.ndim - 2))
    centred = apply("sub", x, apply("reshape", mean, shape=column))
    squares = apply("channel_sum", apply("mul", centred, centred), axis=1)
    return mean, apply("div", squares, count), count


def _type(x: Any) -> TensorType:
    return TensorType(x.dtype.name, tuple(x.shape))


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | Tracer)


def _require_changeable(running: tuple[Any, ...]) -> None:
    """Raise `UnsupportedError` unless a call can change these statistics."""
    traced = active_builder() is not None
    if traced and not all(isinstance(r, Variable) for r in running):
        raise UnsupportedError(
            "a traced function that changes running statistics which are no variables",
            hint="keep them in nn.Buffer, or use nn.BatchNorm1d or nn.BatchNorm2d",
        )
    arrays = [r for r in running if isinstance(r, np.ndarray)]
    if not all(array.flags.writeable for array in arrays):
        raise OptionError(
            "batch_norm: training changes running_mean and running_var, but these are "
            "read-only",
            hint="give buffers, or arrays that can be written to",
        )


def _change(running: Any, value: Any) -> None:
    """Replace running statistics now, or after each call of what is being traced."""
    builder = active_builder()
    if builder is not None:
        builder.update(running, value.value)
    elif isinstance(running, Variable):
        running.assign(value)
    else:
        running[...] = value


def dropout(
    input: Array, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Array:
    """In training, each element is 0 with probability ``p``, else ``x / (1 - p)``.

    In evaluation and with ``p=0`` it is ``input`` itself. Each call draws other random
    numbers, from the stream that `jitseq.manual_seed` starts; eager calls and compiled
    ones draw the same. ``inplace`` has no effect. Raises `OptionError` unless ``0 <= p
    <= 1``.
    """
    check_probability(p)
    if not training or p == 0:
        return input
    x = operand(input)
    builder = active_builder()
    key = draw_key() if builder is None else Tracer(builder.feed("key", KEY, draw_key))
    return apply("dropout", x, apply("random_uniform", key, x), p=float(p))


def check_probability(p: float) -> None:
    """Raise `OptionError` unless ``p`` is a probability."""
    if not 0 <= p <= 1:
        raise OptionError(
            "dropout: the probability must be between 0 and 1", facts={"p": p}
        )

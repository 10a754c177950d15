"""Losses as functions, with PyTorch's names and signatures.

Predictions and targets enter (arrays, parameters or tracers); a number leaves, or one
loss for each element with ``reduction="none"``. Invariant: every loss is a chain of
ops without branches on values, so that it traces, differentiates and fuses; what is
known of shapes, dtypes and values of concrete arrays is checked first. The older
options ``size_average`` and ``reduce`` are understood as in PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import NeedsStaticBatch, RangeError, ShapeError
from jitseq.ir.tracer import Tracer, apply
from jitseq.ir.types import BATCH, same_dim
from jitseq.nn.functional.arguments import (
    Array,
    OptionError,
    one_of,
    operand,
    type_text,
)

REDUCTIONS = ("none", "mean", "sum")


def reduction_name(
    reduction: str, size_average: bool | None = None, reduce: bool | None = None
) -> str:
    """One of `REDUCTIONS`; the two older options win where they are given."""
    if size_average is None and reduce is None:
        return one_of(reduction, "reduction", REDUCTIONS)
    if reduce is not None and not reduce:
        return "none"
    return "sum" if size_average is not None and not size_average else "mean"


def reduced(loss: Any, reduction: str) -> Any:
    """The loss of all elements together, or each with ``"none"``.

    Over a symbolic batch: the sum over all other axes, then over the batch, and for a
    mean divided by the number of elements, which only a call knows.
    """
    if reduction == "none" or not loss.ndim:
        return loss
    if loss.shape[0] is BATCH:
        inner = tuple(range(1, loss.ndim))
        rows = apply("sum", loss, dims=inner, keepdim=False) if inner else loss
        total = apply("batch_sum", rows)
        if reduction == "sum":
            return total
        return apply("div", total, apply("element_count", loss, axis=None))
    return apply(reduction, loss, dims=tuple(range(loss.ndim)), keepdim=False)


def _require_same_shape(op: str, x: Any, target: Any) -> None:
    """Raise `ShapeError` unless shapes are equal; a loss does not broadcast."""
    pairs = zip(x.shape, target.shape)
    if x.ndim == target.ndim and all(same_dim(a, b) for a, b in pairs):
        return
    ask_for_batch(x, target)
    raise ShapeError(
        f"{op}: input and target differ in shape",
        facts={"input": type_text(x), "target": type_text(target)},
        hint="reshape the target to the shape of the input",
    )


def ask_for_batch(x: Any, target: Any) -> None:
    """Ask for numbers where only a symbolic batch extent makes the shapes differ."""
    if any(dim is BATCH for dim in (*x.shape[:1], *target.shape[:1])):
        raise NeedsStaticBatch


def _require_weight(op: str, weight: Any, x: Any) -> None:
    """Raise `ShapeError` unless ``weight`` broadcasts to the shape of ``x``."""
    tail = x.shape[x.ndim - weight.ndim :] if weight.ndim <= x.ndim else ()
    fits = (same_dim(a, b) or same_dim(a, 1) for a, b in zip(weight.shape, tail))
    if weight.ndim <= x.ndim and all(fits):
        return
    ask_for_batch(x, weight)
    raise ShapeError(
        f"{op}: the weight does not broadcast to the input",
        facts={"input": type_text(x), "weight": type_text(weight)},
        hint="each axis of the weight, from the right, is 1 or that of the input",
    )


# Regression


def mse_loss(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """``(x - t)²``. Raises `ShapeError` unless both have one shape."""
    how = reduction_name(reduction, size_average, reduce)
    difference = _difference("mse_loss", input, target)
    return reduced(apply("mul", difference, difference), how)


def l1_loss(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """``|x - t|``. Raises `ShapeError` unless both have one shape."""
    how = reduction_name(reduction, size_average, reduce)
    return reduced(apply("abs", _difference("l1_loss", input, target)), how)


def smooth_l1_loss(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Array:
    """``(x - t)² / 2β`` where ``|x - t| < β``, else ``|x - t| - β / 2``.

    With ``beta=0`` it is `l1_loss`. Girshick, Fast R-CNN, 2015.
    """
    how = reduction_name(reduction, size_average, reduce)
    if not 0 <= beta < float("inf"):
        raise OptionError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    size = apply("abs", _difference("smooth_l1_loss", input, target))
    if beta:
        size = apply("div", _huber(size, float(beta)), float(beta))
    return reduced(size, how)


def huber_loss(
    input: Array, target: Array, reduction: str = "mean", delta: float = 1.0
) -> Array:
    """``(x - t)² / 2`` where ``|x - t| < δ``, else ``δ (|x - t| - δ / 2)``."""
    how = reduction_name(reduction)
    if not 0 < delta < float("inf"):
        raise OptionError(f"huber_loss: delta must be positive, got {delta}")
    size = apply("abs", _difference("huber_loss", input, target))
    return reduced(_huber(size, float(delta)), how)


def _difference(op: str, input: Array, target: Array) -> Any:
    x, t = operand(input), operand(target)
    _require_same_shape(op, x, t)
    return apply("sub", x, t)


def _huber(size: Any, delta: float) -> Any:
    """``m²/2 + δ (s - m)`` with ``m = min(s, δ)``: both branches in one formula.

    Where ``s = δ`` both sides of the minimum have the derivative δ.
    """
    near = apply("minimum", size, delta)
    square = apply("mul", near, apply("mul", near, 0.5))
    return apply("add", square, apply("mul", apply("sub", size, near), delta))


# Two classes


def binary_cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """``-t log x - (1 - t) log(1 - x)`` of probabilities, logarithms at least -100.

    ``weight`` broadcasts to the input. Raises `ShapeError`, and `RangeError` for
    concrete arrays that hold anything but numbers in 0 … 1.
    """
    op = "binary_cross_entropy"
    how = reduction_name(reduction, size_average, reduce)
    x, t = operand(input), operand(target)
    _require_same_shape(op, x, t)
    for role, values in (("input", x), ("target", t)):
        _require_probabilities(op, role, values)
    return reduced(_rescaled(op, apply(op, x, t), weight), how)


def _require_probabilities(op: str, role: str, values: Any) -> None:
    if isinstance(values, Tracer):
        return
    array = np.asarray(values)
    if not ((array >= 0) & (array <= 1)).all():
        raise RangeError(
            f"{op}: all elements of {role} should be between 0 and 1",
            facts={"smallest": array.min(), "largest": array.max()},
            hint="apply sigmoid first, or use binary_cross_entropy_with_logits",
        )


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    """``(1 - t) x - (1 + (p - 1) t) log sigmoid(x)``, with ``p`` the ``pos_weight``.

    `binary_cross_entropy` of ``sigmoid(x)``, without its overflow. ``weight`` and
    ``pos_weight`` broadcast to the input. Raises `ShapeError`.
    """
    op = "binary_cross_entropy_with_logits"
    how = reduction_name(reduction, size_average, reduce)
    x, t = operand(input), operand(target)
    _require_same_shape(op, x, t)
    log_likelihood = apply("logsigmoid", x)
    if pos_weight is not None:
        positive = operand(pos_weight)
        _require_weight(op, positive, x)
        extra = apply("mul", apply("sub", positive, 1.0), t)
        log_likelihood = apply("mul", apply("add", extra, 1.0), log_likelihood)
    loss = apply("sub", apply("mul", apply("sub", 1.0, t), x), log_likelihood)
    return reduced(_rescaled(op, loss, weight), how)


def _rescaled(op: str, loss: Any, weight: Array | None) -> Any:
    if weight is None:
        return loss
    scale = operand(weight)
    _require_weight(op, scale, loss)
    return apply("mul", loss, scale)

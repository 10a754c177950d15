"""How far a node's result may be from float64: rounding errors, one node at a time.

A node and float64 arrays with the standard deviations of their errors enter; the
result and its deviation leave, for any correct evaluation in the node's own dtype.
Invariant: a tolerance is a bound of what rounding explains, never fitted to results.

Every rounding is taken as an independent error of at most u = eps/2 (Higham and Mary
2019, A new approach to probabilistic rounding error analysis): deviations grow by √Σw²
where a worst-case bound grows by Σ|w|. A sum of n products p in any order passes
through n partial sums, which for products of random sign are as large as √(n/2 · Σp²)
together, for products of one sign √(n/3) · |Σp|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jitseq.ir.compute import (
    Contraction,
    Movement,
    Pointwise,
    Reduction,
    Uniform,
    WeightGradient,
    Window,
    WindowGradient,
    WindowIndex,
)
from jitseq.ir.graph import Node
from jitseq.ir.op import get_op
from jitseq.ir.types import FLOAT_DTYPES
from jitseq.passes.fusion_group import compute_of

LIKELY = 8.0
"""Standard deviations that are allowed."""

STEP = 2.0**-26
"""Relative step of the differences from which slopes are taken, in float64."""

UNIT = 2.0**-24
"""The largest relative error of a rounding to float32."""

NEIGHBOURS = (-3, -1, 2, 4)
"""Distances in ulps at which rounding inside of an expression is looked at."""

EXACT = ("constant", "labels", "element_count")
COMPARED = {"at_label": (1, 2)}
"""Inputs of which only equality counts: they are class numbers, or exact maxima."""

Reference = Callable[..., np.ndarray]


class Uncertain(NamedTuple):
    """An array, floats as float64, and the standard deviation of its error."""

    value: np.ndarray
    error: np.ndarray

    @property
    def size(self) -> np.ndarray:
        magnitude: np.ndarray = np.abs(self.value)
        return magnitude


def exact(array: np.ndarray) -> Uncertain:
    """The array itself, without an error; integers stay integers."""
    value = np.asarray(array)
    if value.dtype.name in FLOAT_DTYPES:
        value = value.astype(np.float64)
    return Uncertain(value, np.zeros(value.shape))


def evaluate(node: Node, inputs: Sequence[Uncertain]) -> Uncertain:
    """The node's result in float64, and what rounding in its own dtype may add.

    Raises AssertionError for an op that computes in a form that is not known here.
    """
    dtype = node.output.type.dtype
    record = get_op(node.op)

    def op(*arrays: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(record.reference(*arrays, **node.attrs))

    value = op(*(x.value for x in inputs))
    if node.op in EXACT or dtype not in FLOAT_DTYPES:
        return exact(value)
    value = value.astype(np.float64)
    unit = float(np.finfo(dtype).eps) / 2
    with np.errstate(all="ignore"):
        return Uncertain(value, _error(node, op, value, list(inputs), unit))


def _error(
    node: Node, op: Reference, value: np.ndarray, inputs: list[Uncertain], unit: float
) -> np.ndarray:
    if node.op in ("batch_norm", "batch_norm_train"):
        return _batch_norm_error(inputs, value, float(node.attrs["eps"]), unit)
    form = compute_of(node)
    if isinstance(form, Pointwise):
        return _pointwise_error(op, value, inputs, COMPARED.get(node.op, ()), unit)
    if isinstance(form, Contraction | WeightGradient):
        return _product_error(op, value, inputs, _terms(form, inputs), unit)
    if isinstance(form, Reduction) and form.kind in ("softmax", "log_softmax"):
        log = form.kind == "log_softmax"
        return _softmax_error(value, inputs[0], form.axes[0], log, unit)
    if isinstance(form, Reduction | Window) and form.kind == "max":
        return op(inputs[0].error)
    if isinstance(form, Reduction | Window | WindowGradient):
        return _sum_error(op, form, value, inputs, unit)
    if isinstance(form, Uniform | WindowIndex):
        return np.zeros(value.shape)
    assert isinstance(form, Movement), f"{node.op} computes as {form}"
    attrs = {**node.attrs, "value": 0.0} if "value" in node.attrs else node.attrs
    moved = np.asarray(get_op(node.op).reference(*(x.error for x in inputs), **attrs))
    if node.op == "pad_grad":  # what was repeated adds up
        terms = float(op(np.ones_like(value, shape=inputs[0].value.shape)).max())
        moved = moved + unit * math.sqrt(terms + 4) * op(inputs[0].size)
    return moved


def _terms(form: Contraction | WeightGradient, inputs: list[Uncertain]) -> int:
    """Products in each sum, at most."""
    if isinstance(form, Contraction):
        taps = max((len(phase.taps) for phase in form.phases), default=1)
        return max(1, form.in_channels // form.groups * taps)
    return max(x.value.size // max(_channels(x.value), 1) for x in inputs)


def _channels(array: np.ndarray) -> int:
    """Of images [n, c, h, w], or of the rows of a linear layer."""
    return int(array.shape[1 if array.ndim == 4 else -1])


def _product_error(
    op: Reference, value: np.ndarray, inputs: list[Uncertain], terms: int, unit: float
) -> np.ndarray:
    """Errors of the operands and of the sum; factors may be rounded four times.

    The sum may start from the bias, and so carry it through every partial sum.
    """
    a, b, *bias = inputs
    nothing = [np.zeros_like(c.value) for c in bias]
    starts = [2 * c.value**2 for c in bias]
    spread = (terms / 2 + 16) * unit**2
    variance = spread * op(a.value**2, b.value**2, *starts)
    errors = [c.error**2 for c in bias]
    if a.error.any() or any(e.any() for e in errors):
        variance = variance + op(a.error**2, b.value**2, *errors)
    if b.error.any():
        variance = variance + op(a.value**2, b.error**2, *nothing)
    total: np.ndarray = np.sqrt(variance + (terms / 3 + 16) * unit**2 * value**2)
    return total


def _sum_error(
    op: Reference,
    form: Reduction | Window | WindowGradient,
    value: np.ndarray,
    inputs: list[Uncertain],
    unit: float,
) -> np.ndarray:
    """Sums and averages of one input; a maximum's gradient reads an index, too."""
    x, *index = inputs
    chosen = [i.value for i in index]
    terms = x.value.size / max(value.size, 1)
    if isinstance(form, WindowGradient):
        terms = max(form.forward.rows.count) * max(form.forward.cols.count)
    rounding = unit * math.sqrt(terms + 4)
    return op(x.error, *chosen) + rounding * op(x.size, *chosen)


def _batch_norm_error(
    inputs: list[Uncertain], value: np.ndarray, eps: float, unit: float
) -> np.ndarray:
    """Computed as ``x * scale + shift``, or from the difference to the mean."""
    x, mean, var, *affine = inputs
    column = (-1,) + (1,) * (x.value.ndim - 2)
    spread = 1 / np.sqrt(var.value + eps)
    if not affine:
        affine = [exact(np.ones_like(spread)), exact(np.zeros_like(spread))]
    weight, bias = affine
    scale = weight.size * spread
    slope = weight.error * spread + scale * var.error * spread**2 / 2
    shift = mean.size * scale + bias.size
    moved = mean.error * scale + bias.error
    s, d, t, m = (part.reshape(column) for part in (scale, slope, shift, moved))
    centred = np.abs(x.value - mean.value.reshape(column))
    rounding = 4 * unit * (s * x.size + t + np.abs(value))
    total: np.ndarray = s * x.error + d * centred + m + rounding
    return total


def _softmax_error(
    value: np.ndarray, x: Uncertain, axis: int, log: bool, unit: float
) -> np.ndarray:
    """With s the softmax: d s = s (dx - Σ s dx), d log s = dx - Σ s dx."""
    share = np.exp(value) if log else value
    spread = x.error + (share * x.error).sum(axis=axis, keepdims=True)
    largest = x.value.max(axis=axis, keepdims=True, initial=-np.inf)
    argument = np.abs(x.value - largest)
    rounding = unit * (8 + math.sqrt(x.value.shape[axis]) + argument)
    total: np.ndarray = share * (spread + rounding)
    if log:
        total = spread + rounding + unit * (np.abs(value) + x.size)
    return total


def _pointwise_error(
    op: Reference,
    value: np.ndarray,
    inputs: list[Uncertain],
    compared: tuple[int, ...],
    unit: float,
) -> np.ndarray:
    """Slopes by differences around each input, and roundings on the way.

    A function may add and cancel numbers that are larger than its value (gelu_grad):
    `_inner_rounding` has what that costs. Where an error reaches beyond a kink, the
    difference across it counts.
    """
    values = [x.value for x in inputs]
    total: np.ndarray = 4 * unit * np.abs(value)
    if len(inputs) == 1:
        total = total + 4 * unit * inputs[0].size
    total = total + _inner_rounding(op, values, compared) * (unit / UNIT)
    for i, x in enumerate(inputs):
        if i in compared:
            continue
        step = np.maximum(x.error, STEP * x.size) + np.finfo(float).tiny
        moved = [
            np.abs(op(*values[:i], x.value + side * step, *values[i + 1 :]) - value)
            for side in (1, -1)
        ]
        change = np.where(np.isfinite(moved), moved, 0.0).max(axis=0)
        total = total + change * ((x.error + 2 * unit * x.size) / step)
    return total


def _inner_rounding(
    op: Reference, values: Sequence[np.ndarray], compared: tuple[int, ...]
) -> np.ndarray:
    """What evaluating an expression in float32 costs, on float32 inputs.

    The largest of some neighbours, since a single error may happen to be zero.
    """
    worst = np.zeros(())
    for ulps in NEIGHBOURS:
        near = [
            (x if i in compared else x * (1 + 2 * ulps * UNIT)).astype(np.float32)
            for i, x in enumerate(values)
        ]
        exactly = op(*(x.astype(np.float64) for x in near))
        apart = np.abs(op(*near) - exactly)
        worst = np.maximum(worst, np.where(np.isfinite(apart), apart, 0.0))
    return worst

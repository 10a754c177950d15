"""Elementwise arithmetic and reductions.

Arrays, or arrays and Python numbers, enter; shapes follow NumPy's broadcasting.
`ShapeError` and `DtypeError` come from the ops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jitseq.ir.tracer import apply
from jitseq.ir.types import BATCH
from jitseq.nn.functional.arguments import Array, dimension, need_number, operand

Dims = int | Sequence[int] | None


def _number_or_operand(x: Any) -> Any:
    is_number = isinstance(x, (int, float)) and not isinstance(x, bool)
    return x if is_number else operand(x)


def _binary(op: str, input: Array, other: Array) -> Array:
    return apply(op, _number_or_operand(input), _number_or_operand(other))


def add(input: Array, other: Array) -> Array:
    """``x + y``."""
    return _binary("add", input, other)


def sub(input: Array, other: Array) -> Array:
    """``x - y``."""
    return _binary("sub", input, other)


def mul(input: Array, other: Array) -> Array:
    """``x · y``."""
    return _binary("mul", input, other)


def div(input: Array, other: Array) -> Array:
    """``x / y``."""
    return _binary("div", input, other)


def maximum(input: Array, other: Array) -> Array:
    """The larger of both; NaN wins."""
    return _binary("maximum", input, other)


def minimum(input: Array, other: Array) -> Array:
    """The smaller of both; NaN wins."""
    return _binary("minimum", input, other)


def neg(input: Array) -> Array:
    """``-x``."""
    return apply("neg", operand(input))


def exp(input: Array) -> Array:
    """``e^x``."""
    return apply("exp", operand(input))


def log(input: Array) -> Array:
    """The natural logarithm."""
    return apply("log", operand(input))


def sqrt(input: Array) -> Array:
    """The square root."""
    return apply("sqrt", operand(input))


def abs(input: Array) -> Array:
    """``|x|``."""
    return apply("abs", operand(input))


def erf(input: Array) -> Array:
    """The error function ``2/√π ∫₀ˣ exp(-t²) dt``."""
    return apply("erf", operand(input))


def _reduce(op: str, input: Array, dim: Dims, keepdim: bool) -> Array:
    x = operand(input)
    wanted = dim if isinstance(dim, (tuple, list)) else () if dim is None else (dim,)
    chosen = {dimension(d, x, op) for d in wanted}
    dims = tuple(sorted(chosen)) if x.ndim and chosen else tuple(range(x.ndim))
    if 0 not in dims or x.shape[0] is not BATCH:
        return apply(op, x, dims=dims, keepdim=bool(keepdim))
    if op == "max" or 0 in x.shape:
        need_number(x.shape[0])
    return _over_batch(op, x, dims, keepdim)


def _over_batch(op: str, x: Any, dims: tuple[int, ...], keepdim: bool) -> Array:
    """A sum or mean over a symbolic batch: over the other dimensions, then over it."""
    shape = [1 if d in dims else extent for d, extent in enumerate(x.shape)]
    rows = apply("sum", x, dims=dims[1:], keepdim=False) if dims[1:] else x
    total = apply("batch_sum", rows)
    if op == "mean":
        count = apply("element_count", x, axis=None)
        kept = math.prod(shape)
        total = apply("div", total, apply("div", count, kept) if kept > 1 else count)
    return apply("reshape", total, shape=tuple(shape)) if keepdim else total


def sum(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """The sum over ``dim``: one dimension, several, or all."""
    return _reduce("sum", input, dim, keepdim)


def mean(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """The mean over ``dim``: one dimension, several, or all."""
    return _reduce("mean", input, dim, keepdim)


def amax(input: Array, dim: Dims = None, keepdim: bool = False) -> Array:
    """The largest element over ``dim``: one dimension, several, or all; NaN wins."""
    return _reduce("max", input, dim, keepdim)

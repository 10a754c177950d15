"""Registers ops that are one scalar expression; the reference is that expression.

An expression is a function ``expr(m, *inputs, **attrs)`` over the namespace ``m`` of
`jitseq.ir.scalar`. Invariant: results keep the dtype of the inputs, which all agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jitseq.errors import NeedsStaticBatch, ShapeError
from jitseq.ir.compute import Pointwise
from jitseq.ir.op import Example, Op, Reference, register
from jitseq.ir.ops.checks import result_type
from jitseq.ir.scalar import NumpyScalars
from jitseq.ir.types import BATCH, Dim, Shape, TensorType, require_float, same_dim

Expr = Callable[..., Any]
Attrs = Mapping[str, Any]


def evaluate(expr: Expr) -> Reference:
    """The NumPy meaning of an expression: arrays in, one new array out, no warnings."""

    def reference(*inputs: np.ndarray, **attrs: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(expr(NumpyScalars, *inputs, **attrs))

    return reference


def unary(
    name: str,
    expr: Expr,
    *examples: Example,
    monotone: Callable[[Attrs], bool] | None = None,
    check: Callable[[Attrs], None] = lambda attrs: None,
) -> Op:
    """Register an op of one input; ``check`` may refuse its attributes."""

    def infer(x: TensorType, **attrs: Any) -> TensorType:
        require_float(x, op=name)
        check(attrs)
        return x

    return register(
        Op(name, infer, evaluate(expr), Pointwise(expr), monotone, examples)
    )


def binary(name: str, expr: Expr, *examples: Example) -> Op:
    """Register an op of two inputs that broadcast as in NumPy."""

    def infer(x: TensorType, y: TensorType) -> TensorType:
        require_float(x, y, op=name)
        return result_type(name, x, broadcast_shape(name, x, y))

    return register(Op(name, infer, evaluate(expr), Pointwise(expr), None, examples))


def broadcast_shape(op: str, x: TensorType, y: TensorType) -> Shape:
    """The shape of ``x + y``.

    Raises `ShapeError` for extents that differ, and `NeedsStaticBatch` where the
    symbolic batch meets a number other than 1, or would leave dimension 0.
    """
    ndim = max(x.ndim, y.ndim)
    left = (1,) * (ndim - x.ndim) + x.shape
    right = (1,) * (ndim - y.ndim) + y.shape
    shape = tuple(_broadcast_dim(op, a, b, x, y) for a, b in zip(left, right))
    if any(dim is BATCH for dim in shape[1:]):
        raise NeedsStaticBatch
    return shape


def _broadcast_dim(op: str, a: Dim, b: Dim, x: TensorType, y: TensorType) -> Dim:
    if same_dim(a, b) or same_dim(b, 1):
        return a
    if same_dim(a, 1):
        return b
    if a is BATCH or b is BATCH:
        raise NeedsStaticBatch
    raise ShapeError(
        f"{op}: sizes {a} and {b} do not broadcast",
        facts={"left": x, "right": y},
        hint="axes are matched from the right; each pair must be equal or have a 1",
    )

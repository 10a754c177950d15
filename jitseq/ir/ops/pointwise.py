"""Registers ops that are one scalar expression; the reference is that expression.

An expression is a function ``expr(m, *inputs, **attrs)`` over the namespace ``m`` of
`jitseq.ir.scalar`. Its derivative is another one, from which the op ``<name>_grad`` is
registered, or a vjp that needs no op of its own. Invariant: results keep the dtype of
the inputs, which all agree; a cotangent has the shape of its operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from jitseq.errors import NeedsStaticBatch, ShapeError
from jitseq.ir.compute import Pointwise
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import Cotangents, Emit, Example, Op, Reference, Vjp, register
from jitseq.ir.ops.checks import result_type
from jitseq.ir.ops.cotangent import unbroadcast
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


@dataclass(frozen=True)
class Derivative:
    """The cotangent of an op's input: ``expr(m, g, saved, **attrs)``.

    ``saved`` is what the gradient reads beside the cotangent g of the output: the op's
    ``"input"``, or its ``"output"``, which a fused kernel has stored anyway.
    """

    expr: Expr
    reads: Literal["input", "output"] = "input"


def unary(
    name: str,
    expr: Expr,
    derivative: Derivative | Vjp,
    *examples: Example,
    monotone: Callable[[Attrs], bool] | None = None,
    check: Callable[[Attrs], None] = lambda attrs: None,
) -> Op:
    """Register an op of one input, and its gradient; ``check`` may refuse attributes.

    ``sqrt`` and the like give examples between bounds; their gradients use the same.
    """

    def infer(x: TensorType, **attrs: Any) -> TensorType:
        require_float(x, op=name)
        check(attrs)
        return x

    if isinstance(derivative, Derivative):
        pointwise(f"{name}_grad", derivative.expr, *map(_with_cotangent, examples))
        vjp = _vjp_from(f"{name}_grad", derivative)
    else:
        vjp = derivative
    op = Op(name, infer, evaluate(expr), Pointwise(expr), monotone, examples, vjp)
    return register(op)


def _with_cotangent(example: Example) -> Example:
    return replace(example, shapes=example.shapes * 2)


def _vjp_from(name: str, derivative: Derivative) -> Vjp:
    def vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
        (x,) = node.inputs
        saved = x if derivative.reads == "input" else node.output
        return (emit(name, cotangents[0], saved, **node.attrs),)

    return vjp


def pointwise(name: str, expr: Expr, *examples: Example) -> Op:
    """Register an expression of operands of any number that broadcast; a gradient."""

    def infer(x: TensorType, *others: TensorType, **attrs: Any) -> TensorType:
        require_float(x, *others, op=name)
        for y in others:
            x = result_type(name, x, broadcast_shape(name, x, y))
        return x

    return register(
        Op(
            name,
            infer,
            evaluate(expr),
            Pointwise(expr),
            examples=examples,
            derived=True,
        )
    )


Terms = Callable[[Emit, Value, Value, Value, Value], tuple[Value, Value]]
"""``(emit, g, x, y, out)`` -> the cotangents of x and y, before `unbroadcast`."""


def binary(name: str, expr: Expr, terms: Terms, *examples: Example) -> Op:
    """Register an op of two inputs that broadcast as in NumPy."""

    def infer(x: TensorType, y: TensorType) -> TensorType:
        require_float(x, y, op=name)
        return result_type(name, x, broadcast_shape(name, x, y))

    def vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
        (g,) = cotangents
        x, y = node.inputs
        assert g is not None
        dx, dy = terms(emit, g, x, y, node.output)
        return unbroadcast(emit, dx, x.type), unbroadcast(emit, dy, y.type)

    op = Op(name, infer, evaluate(expr), Pointwise(expr), None, examples, vjp)
    return register(op)


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

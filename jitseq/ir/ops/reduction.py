"""Softmax and reductions over axes.

Axes may be counted from the end. Over the axes of one reduction, with x the inputs:

softmax      y_i = exp(x_i - max x) / Σ_j exp(x_j - max x); dx = y (g - Σ_j g_j y_j)
log_softmax  y_i = x_i - max x - log Σ_j exp(x_j - max x); dx = g - exp(y) Σ_j g_j
sum          y = Σ_j x_j; dx = g
mean         y = Σ_j x_j / count; dx = g / count
max          y = max_j x_j, NaN wins; dx = g shared equally by the maxima, NaN if y is
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Reduction
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import Cotangents, Emit, Example, Op, Vjp, register
from jitseq.ir.ops.checks import normal_dim, static
from jitseq.ir.ops.cotangent import constant_like
from jitseq.ir.types import TensorType, require_float

SoftmaxKind = Literal["softmax", "log_softmax"]
ReduceKind = Literal["sum", "mean", "max"]


def softmax(x: np.ndarray, *, dim: int) -> np.ndarray:
    """Rows of numbers to rows of probabilities."""
    with np.errstate(all="ignore"):
        result: np.ndarray = np.exp(_shifted(x, dim))
        result /= result.sum(axis=dim, keepdims=True)
    return result


def log_softmax(x: np.ndarray, *, dim: int) -> np.ndarray:
    """The logarithm of softmax, without its underflow."""
    with np.errstate(all="ignore"):
        result = _shifted(x, dim)
        result -= np.log(np.exp(result).sum(axis=dim, keepdims=True))
    return result


def _shifted(x: np.ndarray, dim: int) -> np.ndarray:
    largest = x.max(axis=dim, keepdims=True, initial=-np.inf)
    shifted: np.ndarray = x - largest
    return shifted


def sum_over(x: np.ndarray, *, dims: tuple[int, ...], keepdim: bool) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x.sum(axis=dims, keepdims=keepdim))


def mean_over(x: np.ndarray, *, dims: tuple[int, ...], keepdim: bool) -> np.ndarray:
    count = math.prod(x.shape[dim] for dim in dims)
    with np.errstate(all="ignore"):
        total = np.asarray(x.sum(axis=dims, keepdims=keepdim))
        return np.asarray(total / total.dtype.type(count))


def max_over(x: np.ndarray, *, dims: tuple[int, ...], keepdim: bool) -> np.ndarray:
    return np.asarray(x.max(axis=dims, keepdims=keepdim))


def _softmax_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    y, dims = node.output, (node.attrs["dim"],)
    total = emit("sum", emit("mul", g, y), dims=dims, keepdim=True)
    return (emit("mul", y, emit("sub", g, total)),)


def _log_softmax_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    total = emit("sum", g, dims=(node.attrs["dim"],), keepdim=True)
    return (emit("sub", g, emit("mul", emit("exp", node.output), total)),)


def _sum_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    assert g is not None
    return (_spread(emit, g, node),)


def _mean_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    assert g is not None
    shape = node.inputs[0].type.shape
    count = math.prod(static(shape[dim]) for dim in node.attrs["dims"])
    return (_spread(emit, emit("div", g, constant_like(emit, count, g)), node),)


def _max_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    assert g is not None
    (x,) = node.inputs
    largest, one = _with_axes(emit, node.output, node), constant_like(emit, 1, x)
    wins = emit("at_label", one, x, largest)
    count = emit("sum", wins, dims=node.attrs["dims"], keepdim=True)
    return (emit("div", emit("mul", wins, _with_axes(emit, g, node)), count),)


def _with_axes(emit: Emit, value: Value, node: Node) -> Value:
    """A value of the output's type, its reduced axes back as 1."""
    x = node.inputs[0].type
    axes = [dim % x.ndim for dim in node.attrs["dims"]]
    shape = tuple(1 if i in axes else dim for i, dim in enumerate(x.shape))
    return value if value.type.shape == shape else emit("reshape", value, shape=shape)


def _spread(emit: Emit, g: Value, node: Node) -> Value:
    """The cotangent in the shape of the input."""
    full = _with_axes(emit, g, node)
    x = node.inputs[0].type
    return full if full.type == x else emit("broadcast", full, shape=x.shape)


def _register_softmax(
    kind: SoftmaxKind, reference: Callable[..., np.ndarray], vjp: Vjp
) -> None:
    def infer(x: TensorType, *, dim: int) -> TensorType:
        require_float(x, op=kind)
        static(x.shape[normal_dim(kind, x, dim)])
        return x

    def compute(types: tuple[TensorType, ...], attrs: Any) -> Reduction:
        return Reduction(kind, (attrs["dim"] % types[0].ndim,), keepdim=True)

    examples = (
        Example(((5, 10),), {"dim": 1}),
        Example(((1, 33),), {"dim": -1}),
        Example(((2, 3, 4, 5),), {"dim": 1}),
        Example(((4, 7),), {"dim": 0}),
        Example(((3, 1),), {"dim": 1}),
    )
    register(Op(kind, infer, reference, compute, examples=examples, vjp=vjp))


def _register_reduction(
    kind: ReduceKind, reference: Callable[..., np.ndarray], vjp: Vjp
) -> None:
    def infer(x: TensorType, *, dims: tuple[int, ...], keepdim: bool) -> TensorType:
        require_float(x, op=kind)
        axes = _axes(kind, x, dims)
        sizes = [static(x.shape[axis]) for axis in axes]
        if kind == "max" and 0 in sizes:
            raise ShapeError(
                "max: there is no maximum of no elements",
                facts={"input": x, "dims": dims},
                hint="check the input's size before reducing",
            )
        kept = (1 if i in axes else s for i, s in enumerate(x.shape))
        rest = (s for i, s in enumerate(x.shape) if i not in axes)
        return x.with_shape(tuple(kept if keepdim else rest))

    def compute(types: tuple[TensorType, ...], attrs: Any) -> Reduction:
        axes = _axes(kind, types[0], attrs["dims"])
        return Reduction(kind, axes, attrs["keepdim"])

    examples = (
        Example(((4, 3, 5, 7),), {"dims": (2, 3), "keepdim": False}),
        Example(((4, 3, 5, 7),), {"dims": (2, 3), "keepdim": True}),
        Example(((3, 6),), {"dims": (-1,), "keepdim": False}),
        Example(((2, 3, 5),), {"dims": (1,), "keepdim": True}),
        Example(((5, 4),), {"dims": (0,), "keepdim": False}),
        Example(((2, 9),), {"dims": (0, 1), "keepdim": False}),
    )
    register(Op(kind, infer, reference, compute, examples=examples, vjp=vjp))


def _axes(op: str, x: TensorType, dims: tuple[int, ...]) -> tuple[int, ...]:
    axes = tuple(sorted(normal_dim(op, x, dim) for dim in dims))
    if len(set(axes)) != len(axes):
        raise ShapeError(
            f"{op}: a dimension is given twice",
            facts={"input": x, "dims": dims},
            hint="name each dimension once",
        )
    return axes


_register_softmax("softmax", softmax, _softmax_vjp)
_register_softmax("log_softmax", log_softmax, _log_softmax_vjp)
_register_reduction("sum", sum_over, _sum_vjp)
_register_reduction("mean", mean_over, _mean_vjp)
_register_reduction("max", max_over, _max_vjp)

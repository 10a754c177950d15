"""Softmax and reductions over axes.

Axes may be counted from the end. Over the axes of one reduction, with x the inputs:

softmax      y_i = exp(x_i - max x) / Σ_j exp(x_j - max x); dx = y (g - Σ_j g_j y_j)
log_softmax  y_i = x_i - max x - log Σ_j exp(x_j - max x); dx = g - exp(y) Σ_j g_j
sum          y = Σ_j x_j; dx = g
mean         y = Σ_j x_j / count; dx = g / count
max          y = max_j x_j, NaN wins; dx = g shared equally by the maxima
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Reduction
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.checks import normal_dim, static
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


def _register_softmax(kind: SoftmaxKind, reference: Callable[..., np.ndarray]) -> None:
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
    register(Op(kind, infer, reference, compute, examples=examples))


def _register_reduction(kind: ReduceKind, reference: Callable[..., np.ndarray]) -> None:
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
    register(Op(kind, infer, reference, compute, examples=examples))


def _axes(op: str, x: TensorType, dims: tuple[int, ...]) -> tuple[int, ...]:
    axes = tuple(sorted(normal_dim(op, x, dim) for dim in dims))
    if len(set(axes)) != len(axes):
        raise ShapeError(
            f"{op}: a dimension is given twice",
            facts={"input": x, "dims": dims},
            hint="name each dimension once",
        )
    return axes


_register_softmax("softmax", softmax)
_register_softmax("log_softmax", log_softmax)
_register_reduction("sum", sum_over)
_register_reduction("mean", mean_over)
_register_reduction("max", max_over)

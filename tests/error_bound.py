"""How far a result may be from float64: rounding errors followed through a graph.

A function and arrays enter; for each output its float64 value and the standard
deviation of its error leave, for any correct evaluation in the arrays' dtype.

Every rounding is taken as an independent error of at most u = eps/2 (Higham and Mary
2019, A new approach to probabilistic rounding error analysis). A worst-case bound
would grow by Σ|w| at each layer and say nothing after five of them; standard
deviations grow by √Σw². ``LIKELY`` of them are allowed. A sum of n products
p in any fixed order passes through n partial sums, which for products of random sign
are as large as √(n/2 · Σp²) together, for products of one sign √(n/3) · |Σp|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitseq.ir.compute import Movement, Pointwise
from jitseq.ir.graph import Node
from jitseq.ir.op import get_op
from jitseq.ir.trace import trace
from jitseq.ir.types import type_of
from jitseq.passes.fusion_group import compute_of

LIKELY = 6.0
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
STEP = 2.0**-26
"""Relative step of the differences from which slopes are taken, in float64."""

PRODUCTS = ("conv2d", "conv_transpose2d", "linear")
AVERAGES = ("avg_pool2d", "adaptive_avg_pool2d", "sum", "mean")
MAXIMA = ("max_pool2d", "adaptive_max_pool2d", "max")


class Uncertain(NamedTuple):
    """A float64 array and the standard deviation of its error."""

    value: np.ndarray
    error: np.ndarray


def exact(array: Any) -> Uncertain:
    value = np.asarray(array, np.float64)
    return Uncertain(value, np.zeros(value.shape))


def analyse(
    target: Callable[..., Any], arrays: Sequence[np.ndarray]
) -> list[Uncertain]:
    """The outputs of ``target(*arrays)``, flattened in order."""
    traced = trace(target, [type_of(array) for array in arrays], dynamic_batch=False)
    graph = traced.graph
    unit = EPS[arrays[0].dtype.name] / 2
    known = dict(zip(graph.inputs, map(exact, arrays), strict=True))
    known |= {param: exact(traced.variables[param.name]) for param in graph.params}
    producers = graph.producers()
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            inputs = [known[value] for value in node.inputs]
            terms = sum_length(producers.get(node.inputs[0])) if node.inputs else 1
            known[node.output] = _evaluate(node, inputs, unit, terms)
    return [known[value] for value in graph.outputs]


def sum_length(node: Node | None) -> int:
    """Products in each sum of a contraction; 1 for anything else."""
    if node is None or node.op not in PRODUCTS:
        return 1
    shape = node.inputs[1].type.shape
    if node.op == "conv_transpose2d":
        return int(shape[0] // node.attrs["groups"] * np.prod(shape[2:]))
    return int(np.prod(shape[1:]))


def _evaluate(
    node: Node, inputs: list[Uncertain], unit: float, terms_before: int
) -> Uncertain:
    record = get_op(node.op)

    def op(*arrays: np.ndarray) -> np.ndarray:
        return np.asarray(record.reference(*arrays, **node.attrs), np.float64)

    if node.op == "constant":
        return exact(node.attrs["value"])
    value = op(*(x.value for x in inputs))
    if node.op in PRODUCTS:
        return Uncertain(value, _product_error(node, op, value, inputs, unit))
    if node.op == "batch_norm":
        return Uncertain(value, _batch_norm_error(node, inputs, unit, terms_before))
    if node.op in ("softmax", "log_softmax"):
        return Uncertain(value, _softmax_error(node, value, inputs[0], unit))
    (x, *_) = inputs
    if node.op in AVERAGES:
        rounding = unit * np.sqrt(x.value.size / max(value.size, 1) + 4)
        return Uncertain(value, op(x.error) + rounding * op(np.abs(x.value)))
    if node.op in MAXIMA:
        return Uncertain(value, op(x.error))
    if isinstance(record.compute, Pointwise):
        return Uncertain(value, _pointwise_error(op, value, inputs, unit))
    assert isinstance(compute_of(node), Movement), node.op
    attrs = dict(node.attrs) | ({"value": 0.0} if node.op == "pad" else {})
    return Uncertain(value, record.reference(*(x.error for x in inputs), **attrs))


def _product_error(
    node: Node,
    op: Callable[..., np.ndarray],
    value: np.ndarray,
    inputs: list[Uncertain],
    unit: float,
) -> np.ndarray:
    """Errors of the operands and of the sum; factors may be rounded four times.

    The sum may start from the bias, and so carry it through every partial sum; a
    folded batch-norm scales weights, and the scale itself has four roundings.
    """
    x, weight, *bias = inputs
    terms = sum_length(node)
    nothing = [np.zeros_like(b.value) for b in bias]
    spread = x.error**2 + (terms / 2 + 16) * unit**2 * x.value**2
    variance = op(spread, weight.value**2, *nothing)
    if weight.error.any():
        variance += op(x.value**2, weight.error**2, *nothing)
    if bias:
        shape = (-1, 1, 1) if node.op != "linear" else (-1,)
        b, e = (part.reshape(shape) for part in bias[0])
        variance = variance + e**2 + (terms + 16) * unit**2 * b**2
    return np.sqrt(variance + (terms / 3 + 16) * unit**2 * value**2)


def _batch_norm_error(
    node: Node, inputs: list[Uncertain], unit: float, terms: int
) -> np.ndarray:
    """Folded into a contraction of ``terms`` products, the shift is its bias."""
    x, mean, var, *affine = inputs
    column = (-1,) + (1,) * (x.value.ndim - 2)
    scale = 1 / np.sqrt(var.value + node.attrs["eps"])
    shift = np.zeros_like(scale)
    if affine:
        scale, shift = scale * affine[0].value, np.abs(affine[1].value)
    scale = np.abs(scale)
    shift = (shift + np.abs(mean.value) * scale).reshape(column)
    scale = scale.reshape(column)
    moved = unit * (4 + np.sqrt(terms)) * shift
    return scale * (x.error + 4 * unit * np.abs(x.value)) + moved


def _softmax_error(
    node: Node, value: np.ndarray, x: Uncertain, unit: float
) -> np.ndarray:
    """With s the softmax: d s = s (dx - Σ s dx), d log s = dx - Σ s dx."""
    axis = node.attrs["dim"]
    is_log = node.op == "log_softmax"
    share = np.exp(value) if is_log else value
    spread = x.error + (share * x.error).sum(axis=axis, keepdims=True)
    largest = x.value.max(axis=axis, keepdims=True, initial=-np.inf)
    argument = np.abs(x.value - largest)
    rounding = unit * (8 + np.sqrt(x.value.shape[axis]) + argument)
    if is_log:
        return spread + rounding + unit * (np.abs(value) + np.abs(x.value))
    return share * (spread + rounding)


def _pointwise_error(
    op: Callable[..., np.ndarray],
    value: np.ndarray,
    inputs: list[Uncertain],
    unit: float,
) -> np.ndarray:
    """Slopes by differences around each input, and a few roundings on the way.

    A function of one number may add and cancel it on the way (gelu, hardswish).
    """
    values = [x.value for x in inputs]
    total = 4 * unit * np.abs(value)
    if len(inputs) == 1:
        total = total + 4 * unit * np.abs(values[0])
    for i, x in enumerate(inputs):
        step = np.maximum(x.error, STEP * np.abs(x.value)) + np.finfo(float).tiny
        moved = [
            np.abs(op(*values[:i], x.value + side * step, *values[i + 1 :]) - value)
            for side in (1, -1)
        ]
        change = np.where(np.isfinite(moved), moved, 0.0).max(axis=0)
        slope = np.where(change > 0, change / step, 0.0)
        total = total + slope * (x.error + 2 * unit * np.abs(x.value))
    return total


def excess(result: np.ndarray, expected: Uncertain) -> float:
    """The largest error as a multiple of what is allowed; infinite for wrong NaNs."""
    result = np.asarray(result)
    value, error = expected
    assert result.shape == value.shape, (result.shape, value.shape)
    finite = np.isfinite(value) & (np.abs(value) < np.finfo(result.dtype).max)
    special = ~np.isfinite(value)
    if not np.array_equal(result[special], value[special], equal_nan=True):
        return np.inf
    if not np.isfinite(result[finite]).all():
        return np.inf
    smallest = np.finfo(result.dtype).tiny
    allowed = LIKELY * np.where(np.isfinite(error), error, np.inf) + smallest
    difference = np.abs(result.astype(np.float64) - np.where(finite, value, 0.0))
    return float(np.max(np.where(finite, difference / allowed, 0.0), initial=0.0))


def flat(result: Any) -> list[np.ndarray]:
    """The arrays of a result, in order."""
    if isinstance(result, dict):
        return [leaf for item in result.values() for leaf in flat(item)]
    if isinstance(result, tuple | list):
        return [leaf for item in result for leaf in flat(item)]
    return [np.asarray(result)]


def assert_within(result: Any, expected: Sequence[Uncertain], dtype: Any) -> None:
    """Each array of ``result`` has the dtype and is within its bound."""
    leaves = flat(result)
    assert len(leaves) == len(expected)
    for i, (leaf, bound) in enumerate(zip(leaves, expected)):
        assert leaf.dtype == dtype
        worst = excess(leaf, bound)
        assert worst <= 1.0, f"output {i}: error is {worst:.2f} times the bound"

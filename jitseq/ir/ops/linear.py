"""Linear layers: ``y[…, o] = Σ_i x[…, i] w[o, i] + b[o]``.

With g the cotangent of y: dx[…, i] = Σ_o g[…, o] w[o, i],
dw[o, i] = Σ_… g[…, o] x[…, i], db[o] = Σ_… g[…, o]; each is an op of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Contraction, Phase, Tap, WeightGradient
from jitseq.ir.graph import Node
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import (
    require_same_dim,
    require_vector,
    result_type,
    static,
)
from jitseq.ir.types import TensorType, require_float

ONE_TAP = Phase((0, 0), (1, 1), (1, 1), (1, 1), (Tap(0, 0, 0, 0),))


def infer_linear(x: TensorType, w: TensorType, *bias: TensorType) -> TensorType:
    """``[…, I]``, weight ``[O, I]``, optionally bias ``[O]`` → ``[…, O]``."""
    require_float(x, w, *bias, op="linear")
    if x.ndim < 1 or w.ndim != 2:
        raise ShapeError(
            "linear: expects an input [..., I] and a weight [O, I]",
            facts={"input": x, "weight": w},
            hint="the weight of Linear(in_features, out_features) has 2 dimensions",
        )
    features = static(x.shape[-1])
    if features != w.shape[1]:
        raise ShapeError(
            f"linear: input has {features} features, weight expects {w.shape[1]}",
            facts={"input": x, "weight": w},
            hint=f"Linear(in_features={features}, …), or flatten the input first",
        )
    for given in bias:
        require_vector("linear", "bias", w.shape[0], given)
    return result_type("linear", x, (*x.shape[:-1], w.shape[0]))


def linear(x: np.ndarray, w: np.ndarray, *bias: np.ndarray) -> np.ndarray:
    """All leading axes as the rows of one matrix product."""
    with np.errstate(all="ignore"):
        rows = x.reshape(-1, w.shape[1]) if x.ndim > 2 and x.size else x
        result: np.ndarray = np.asarray(rows @ w.T)
        if bias:
            result += bias[0]
    return result.reshape(*x.shape[:-1], w.shape[0])


def _one_pixel(inputs: int, outputs: int, axes: Any, has_bias: bool) -> Contraction:
    """One pixel and one tap; every leading axis is batch."""
    return Contraction(
        groups=1,
        in_channels=inputs,
        out_channels=outputs,
        in_size=(1, 1),
        out_size=(1, 1),
        phases=(ONE_TAP,),
        weight_axes=axes,
        has_bias=has_bias,
    )


def compute_linear(types: tuple[TensorType, ...], attrs: Any) -> Contraction:
    outputs, features = types[1].shape
    return _one_pixel(features, outputs, "oi", len(types) == 3)


def linear_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    x, w, *bias = node.inputs
    return (
        emit("linear_input_grad", g, w),
        emit("linear_weight_grad", x, g),
        *(emit("channel_sum", g, axis=-1) for _ in bias),
    )


def infer_linear_input_grad(g: TensorType, w: TensorType) -> TensorType:
    """``[…, O]`` and the weight ``[O, I]`` → ``[…, I]``."""
    require_float(g, w, op="linear_input_grad")
    require_same_dim(
        "linear_input_grad", g.shape[-1], w.shape[0], {"cotangent": g, "weight": w}
    )
    return result_type("linear_input_grad", g, (*g.shape[:-1], w.shape[1]))


def linear_input_grad(g: np.ndarray, w: np.ndarray) -> np.ndarray:
    return linear(g, w.T)


def compute_linear_input_grad(types: tuple[TensorType, ...], attrs: Any) -> Contraction:
    outputs, features = types[1].shape
    return _one_pixel(outputs, features, "io", False)


def infer_linear_weight_grad(x: TensorType, g: TensorType) -> TensorType:
    """``[…, I]`` and ``[…, O]`` → ``[O, I]``, summed over all leading axes."""
    op = "linear_weight_grad"
    require_float(x, g, op=op)
    facts: dict[str, object] = {"input": x, "cotangent": g}
    for a, b in zip(x.shape[:-1], g.shape[:-1], strict=True):
        require_same_dim(op, a, b, facts)
    return result_type(op, x, (static(g.shape[-1]), static(x.shape[-1])))


def linear_weight_grad(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    rows = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
    with np.errstate(all="ignore"):
        return rows[0].T @ rows[1]  # type: ignore[no-any-return]


def compute_linear_weight_grad(
    types: tuple[TensorType, ...], attrs: Any
) -> WeightGradient:
    x, g = types
    return WeightGradient(_one_pixel(x.shape[-1], g.shape[-1], "oi", False))


register(
    Op(
        "linear",
        infer_linear,
        linear,
        compute_linear,
        examples=(
            Example(((4, 7), (5, 7), (5,))),
            Example(((1, 33), (17, 33))),
            Example(((2, 3, 8), (16, 8), (16,))),
            Example(((9,), (4, 9), (4,))),
            Example(((13, 1), (1, 1), (1,))),
        ),
        vjp=linear_vjp,
    )
)
register(
    Op(
        "linear_input_grad",
        infer_linear_input_grad,
        linear_input_grad,
        compute_linear_input_grad,
        examples=(
            Example(((4, 5), (5, 7))),
            Example(((2, 3, 16), (16, 8))),
            Example(((4,), (4, 9))),
        ),
        derived=True,
    )
)
register(
    Op(
        "linear_weight_grad",
        infer_linear_weight_grad,
        linear_weight_grad,
        compute_linear_weight_grad,
        examples=(
            Example(((4, 7), (4, 5))),
            Example(((2, 3, 8), (2, 3, 16))),
            Example(((9,), (4,))),
        ),
        derived=True,
    )
)

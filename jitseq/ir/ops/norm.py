"""Batch normalisation with given statistics, the form of eval mode.

``y[n, c, …] = (x[n, c, …] - mean[c]) / √(var[c] + eps) * weight[c] + bias[c]``;
with r = 1 / √(var + eps), s = weight r, g the cotangent of y and sums over all but c:
dx = g s, dweight = r Σ g (x - mean), dbias = Σ g, dmean = -s Σ g, and
dvar = -(s r² / 2) Σ g (x - mean).
Ioffe and Szegedy 2015, Batch Normalization. It has no compute record: a pass turns
it into a scale and a shift, folded into the weights before it where there are any.
"""

from __future__ import annotations

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import static
from jitseq.ir.ops.cotangent import constant_like
from jitseq.ir.types import TensorType, require_float


def infer_batch_norm(
    x: TensorType,
    mean: TensorType,
    var: TensorType,
    *affine: TensorType,
    eps: float,
) -> TensorType:
    """``[N, C, …]`` and vectors ``[C]``: mean, var and, together, weight and bias."""
    require_float(x, mean, var, *affine, op="batch_norm")
    if x.ndim < 2:
        raise ShapeError(
            f"batch_norm: expects an input [N, C, …], got {x.ndim} dimensions",
            facts={"input": x},
            hint="add a batch axis with reshape, for example x[None]",
        )
    if len(affine) not in (0, 2):
        raise ShapeError(
            "batch_norm: weight and bias come together",
            facts={"input": x},
            hint="give both, or neither",
        )
    channels = static(x.shape[1])
    for role, given in zip(("mean", "var", "weight", "bias"), (mean, var, *affine)):
        if given.shape != (channels,):
            raise ShapeError(
                f"batch_norm: input has {channels} channels, {role} has shape "
                f"{list(given.shape)}",
                facts={"input": x, role: given},
                hint=f"BatchNorm({channels}), or check the order of the input's axes",
            )
    return x


def batch_norm(
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *affine: np.ndarray,
    eps: float,
) -> np.ndarray:
    """The formula above as ``x * scale + shift``."""
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(var + eps)
        if affine:
            scale = scale * affine[0]
        shift = -mean * scale
        if affine:
            shift = shift + affine[1]
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        result = x * scale.reshape(per_channel)
        result += shift.reshape(per_channel)
    return result


def batch_norm_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    assert g is not None
    x, mean, var, *affine = node.inputs
    shape = (x.type.shape[1],) + (1,) * (x.type.ndim - 2)

    def per_channel(vector: Value) -> Value:
        return emit("reshape", vector, shape=shape)

    eps = constant_like(emit, node.attrs["eps"], var)
    inverse = emit("rsqrt", emit("add", var, eps))
    scale = emit("mul", inverse, affine[0]) if affine else inverse
    total = emit("channel_sum", g, axis=1)
    centred = emit("mul", g, emit("sub", x, per_channel(mean)))
    moment = emit("channel_sum", centred, axis=1)
    slope = emit("mul", scale, emit("mul", inverse, inverse))
    half = constant_like(emit, -0.5, var)
    return (
        emit("mul", g, per_channel(scale)),
        emit("neg", emit("mul", scale, total)),
        emit("mul", half, emit("mul", slope, moment)),
        *((emit("mul", inverse, moment), total) if affine else ()),
    )


register(
    Op(
        "batch_norm",
        infer_batch_norm,
        batch_norm,
        None,
        examples=(
            Example(((2, 3, 5, 7), *((3,),) * 4), {"eps": 1e-5}, 0.1, 2.0),
            Example(((3, 5, 4, 4), *((5,),) * 2), {"eps": 1e-3}, 0.1, 2.0),
            Example(((4, 6), *((6,),) * 4), {"eps": 1e-5}, 0.1, 2.0),
            Example(((1, 2, 9), *((2,),) * 2), {"eps": 1e-5}, 0.1, 2.0),
        ),
        vjp=batch_norm_vjp,
    )
)

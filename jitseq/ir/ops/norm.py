"""Batch normalisation with given statistics, the form of eval mode.

``y[n, c, …] = (x[n, c, …] - mean[c]) / √(var[c] + eps) * weight[c] + bias[c]``;
dy/dx = weight / √(var + eps), dy/dweight = (y - bias) / weight, dy/dbias = 1.
Ioffe and Szegedy 2015, Batch Normalization. It has no compute record: a pass turns
it into a scale and a shift, folded into the weights before it where there are any.
"""

from __future__ import annotations

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.checks import static
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
    )
)

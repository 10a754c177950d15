"""Batch normalisation: with given statistics, and with those of the batch.

``y[n, c, …] = (x[n, c, …] - mean[c]) / √(var[c] + eps) * weight[c] + bias[c]``;
with r = 1 / √(var + eps), s = weight r, g the cotangent of y and sums over all but c:

batch_norm        dx = g s, dweight = r Σ g (x - mean), dbias = Σ g, dmean = -s Σ g,
                  dvar = -(s r² / 2) Σ g (x - mean)
batch_norm_train  mean and var are those of x, over N elements of each channel: dx =
                  s (g - Σ g / N - (x - mean) r² Σ g (x - mean) / N), which is the
                  whole derivative; dweight and dbias as above; mean and var get none
element_count     y = how many elements of x share an index on ``axis``, or all; it
                  reads the shape alone

Ioffe and Szegedy 2015, Batch Normalization. The first two have no compute record:
passes turn them into a scale and a shift for each channel, which become part of the
weights before them where these and the statistics are parameters.
"""

from __future__ import annotations

import math

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import normal_dim, static
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
    inverse = _inverse_spread(emit, node)
    scale = emit("mul", inverse, affine[0]) if affine else inverse
    total = emit("channel_sum", g, axis=1)
    centred = emit("mul", g, emit("sub", x, _channel_column(emit, mean, x)))
    moment = emit("channel_sum", centred, axis=1)
    slope = emit("mul", scale, emit("mul", inverse, inverse))
    half = constant_like(emit, -0.5, var)
    return (
        emit("mul", g, _channel_column(emit, scale, x)),
        emit("neg", emit("mul", scale, total)),
        emit("mul", half, emit("mul", slope, moment)),
        *((emit("mul", inverse, moment), total) if affine else ()),
    )


def require_values_per_channel(x: TensorType, batch: int) -> None:
    """Raise `ShapeError` when ``batch`` images of type ``x`` have one value a channel.

    The statistics of one value say nothing; whoever runs a program with
    `batch_norm_train` and a symbolic batch calls this with the type of its input.
    """
    if batch * math.prod(x.shape[2:]) == 1:
        raise ShapeError(
            "batch_norm: Expected more than 1 value per channel when training",
            facts={"input": x.with_shape((batch, *x.shape[1:]))},
            hint="train with larger batches, or call model.eval() first",
        )


def _channel_column(emit: Emit, vector: Value, x: Value) -> Value:
    """``[C]`` as ``[C, 1, …]``, to broadcast along the channels of ``x``."""
    return emit(
        "reshape", vector, shape=(*vector.type.shape, *(1,) * (x.type.ndim - 2))
    )


def _inverse_spread(emit: Emit, node: Node) -> Value:
    """``1 / √(var + eps)``, of shape ``[C]``."""
    var = node.inputs[2]
    eps = constant_like(emit, node.attrs["eps"], var)
    return emit("rsqrt", emit("add", var, eps))


def expand_batch_norm_train(emit: Emit, node: Node) -> Value:
    """The result of a ``batch_norm_train`` node as ``x * scale[c] + shift[c]``."""
    x, mean, _, *affine = node.inputs
    scale = _inverse_spread(emit, node)
    if affine:
        scale = emit("mul", scale, affine[0])
    shift = emit("neg", emit("mul", mean, scale))
    if affine:
        shift = emit("add", shift, affine[1])
    product = emit("mul", x, _channel_column(emit, scale, x))
    return emit("add", product, _channel_column(emit, shift, x))


def batch_norm_train_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    """``dx = a[c] g + b[c] x + e[c]``, with the vectors computed once a channel."""
    (g,) = cotangents
    assert g is not None
    x, mean, _, *affine = node.inputs
    inverse = _inverse_spread(emit, node)
    scale = emit("mul", inverse, affine[0]) if affine else inverse
    count = emit("element_count", x, axis=1)
    centred = emit("sub", x, _channel_column(emit, mean, x))
    total = emit("channel_sum", g, axis=1)
    moment = emit("channel_sum", emit("mul", g, centred), axis=1)
    square = emit("mul", inverse, inverse)
    slope = emit("mul", scale, emit("mul", square, emit("div", moment, count)))
    level = emit("mul", scale, emit("div", total, count))
    offset = emit("sub", emit("mul", slope, mean), level)
    parts = (
        emit("mul", g, _channel_column(emit, scale, x)),
        emit("mul", x, _channel_column(emit, slope, x)),
    )
    dx = emit("add", emit("sub", *parts), _channel_column(emit, offset, x))
    return dx, None, None, *((emit("mul", inverse, moment), total) if affine else ())


def infer_element_count(x: TensorType, *, axis: int | None) -> TensorType:
    """A number of the dtype of ``x``, which may have a symbolic batch."""
    require_float(x, op="element_count")
    if axis is not None:
        static(x.shape[normal_dim("element_count", x, axis)])
    return x.with_shape(())


def element_count(x: np.ndarray, *, axis: int | None) -> np.ndarray:
    kept = None if axis is None else axis % x.ndim
    counts = (extent for i, extent in enumerate(x.shape) if i != kept)
    return np.asarray(math.prod(counts), x.dtype)


NORM_EXAMPLES = (
    Example(((2, 3, 5, 7), *((3,),) * 4), {"eps": 1e-5}, 0.1, 2.0),
    Example(((3, 5, 4, 4), *((5,),) * 2), {"eps": 1e-3}, 0.1, 2.0),
    Example(((4, 6), *((6,),) * 4), {"eps": 1e-5}, 0.1, 2.0),
    Example(((1, 2, 9), *((2,),) * 2), {"eps": 1e-5}, 0.1, 2.0),
)

register(
    Op(
        "batch_norm",
        infer_batch_norm,
        batch_norm,
        None,
        examples=NORM_EXAMPLES,
        vjp=batch_norm_vjp,
    )
)
register(
    Op(
        "batch_norm_train",
        infer_batch_norm,
        batch_norm,
        None,
        examples=NORM_EXAMPLES,
        vjp=batch_norm_train_vjp,
        derived=True,
    )
)
register(
    Op(
        "element_count",
        infer_element_count,
        element_count,
        None,
        examples=(
            Example(((2, 3, 5, 7),), {"axis": 1}),
            Example(((4, 6),), {"axis": None}),
            Example(((),), {"axis": None}),
        ),
        vjp=lambda emit, node, cotangents: (None,),
        derived=True,
    )
)

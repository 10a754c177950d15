"""What gradients share: moving a cotangent through broadcasts, and sums over the batch.

``g`` is the cotangent of an op's output, ``[n, …]`` where the batch is symbolic.
Invariant: `unbroadcast` returns a value of exactly the type asked for, also where that
type has no batch and ``g`` has one.

channel_sum     y[c] = Σ of all x whose index on ``axis`` is c
batch_sum       y[…] = Σ_n x[n, …]; dx = g for every n
broadcast_like  y = x repeated to the shape of ``like``; dx = sums of g
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Movement, Reduction
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import normal_dim, require_same_dim, static
from jitseq.ir.types import TensorType, require_float, same_dim


def constant_like(emit: Emit, value: float, like: Value) -> Value:
    """The number ``value`` in the dtype of ``like``, of shape ``[]``."""
    return emit("constant", value=float(value), dtype=like.type.dtype)


def unbroadcast(emit: Emit, g: Value, target: TensorType) -> Value:
    """The sum of ``g`` over the axes along which ``target`` was broadcast."""
    shape, extra = g.type.shape, g.type.ndim - target.ndim
    padded = (None,) * extra + target.shape
    axes = [i for i, dim in enumerate(padded) if dim is None or _grows(dim, shape[i])]
    if not axes:
        return g
    kept = [i for i in range(len(shape)) if i not in axes]
    if axes[0] != 0:
        g = emit("sum", g, dims=tuple(axes), keepdim=False)
    elif len(kept) == 1:
        g = emit("channel_sum", g, axis=kept[0])
    else:
        if axes[1:]:
            g = emit("sum", g, dims=tuple(axes[1:]), keepdim=False)
        g = emit("batch_sum", g)
    return g if g.type == target else emit("reshape", g, shape=target.shape)


def _grows(source: Any, result: Any) -> bool:
    return same_dim(source, 1) and not same_dim(result, 1)


def infer_channel_sum(x: TensorType, *, axis: int) -> TensorType:
    """``[…, C, …]`` → ``[C]``; the batch may be summed over, but not kept."""
    require_float(x, op="channel_sum")
    return x.with_shape((static(x.shape[normal_dim("channel_sum", x, axis)]),))


def channel_sum(x: np.ndarray, *, axis: int) -> np.ndarray:
    """Images last, so that each is summed where it lies in memory."""
    others = [i for i in range(x.ndim) if i != axis % x.ndim]
    with np.errstate(all="ignore"):
        return x.sum(axis=tuple(others))  # type: ignore[no-any-return]


def infer_batch_sum(x: TensorType) -> TensorType:
    """``[N, …]`` → ``[…]``."""
    require_float(x, op="batch_sum")
    if x.ndim < 1:
        raise ShapeError(
            "batch_sum: a single number has no batch",
            facts={"input": x},
            hint="give it an axis with reshape",
        )
    return x.with_shape(x.shape[1:])


def batch_sum(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(x.sum(axis=0))


def _batch_sum_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    return (emit("broadcast_like", cotangents[0], node.inputs[0]),)


def infer_broadcast_like(x: TensorType, like: TensorType) -> TensorType:
    """``x`` in the shape of ``like``, whose elements are not read."""
    require_float(x, op="broadcast_like")
    facts: dict[str, object] = {"input": x, "like": like}
    extra = like.ndim - x.ndim
    if extra < 0:
        raise ShapeError(
            f"broadcast_like: {x.ndim} dimensions do not fit into {like.ndim}",
            facts=facts,
            hint="remove axes with reshape first",
        )
    for source, target in zip(x.shape, like.shape[extra:]):
        if not same_dim(source, 1):
            require_same_dim("broadcast_like", source, target, facts)
    return x.with_shape(like.shape)


def broadcast_like(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, like.shape)


def _broadcast_like_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    assert g is not None
    return unbroadcast(emit, g, node.inputs[0].type), None


def _compute_channel_sum(types: tuple[TensorType, ...], attrs: Any) -> Reduction:
    axis = attrs["axis"] % types[0].ndim
    return Reduction("sum", tuple(i for i in range(types[0].ndim) if i != axis))


register(
    Op(
        "channel_sum",
        infer_channel_sum,
        channel_sum,
        _compute_channel_sum,
        examples=(
            Example(((2, 3, 5, 7),), {"axis": 1}),
            Example(((4, 6),), {"axis": -1}),
            Example(((5,),), {"axis": 0}),
        ),
        derived=True,
    )
)
register(
    Op(
        "batch_sum",
        infer_batch_sum,
        batch_sum,
        lambda types, attrs: Reduction("sum", (0,)),
        examples=(Example(((4, 3, 5),)), Example(((6,),))),
        vjp=_batch_sum_vjp,
        derived=True,
    )
)
register(
    Op(
        "broadcast_like",
        infer_broadcast_like,
        broadcast_like,
        lambda types, attrs: Movement("broadcast"),
        examples=(
            Example(((3, 1), (2, 3, 4))),
            Example(((), (5, 2))),
            Example(((4, 2), (4, 2))),
        ),
        vjp=_broadcast_like_vjp,
        derived=True,
    )
)

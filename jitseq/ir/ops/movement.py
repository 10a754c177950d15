"""Ops that move elements without computing on them.

The symbolic batch stays dimension 0 or the op raises `NeedsStaticBatch`; in the
attribute ``shape`` of reshape and broadcast, `BATCH` stands for the input's own first
extent. Results may be views of the input. Gradients: reshape, permute and slice move
the cotangent back (slice pads it with zeros), concat slices it, broadcast sums it over
the new axes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from jitseq.errors import NeedsStaticBatch, ShapeError
from jitseq.ir.compute import Movement
from jitseq.ir.graph import Node
from jitseq.ir.op import (
    Cotangents,
    Emit,
    Example,
    Infer,
    Op,
    Reference,
    Vjp,
    register,
)
from jitseq.ir.ops.checks import (
    normal_dim,
    require_same_dim,
    result_type,
    static,
)
from jitseq.ir.ops.cotangent import unbroadcast
from jitseq.ir.types import BATCH, Shape, TensorType, require_float, same_dim

Kind = Literal["reshape", "permute", "concat", "slice", "broadcast"]


def infer_reshape(x: TensorType, *, shape: Shape) -> TensorType:
    """The same elements in another shape; one extent may be -1."""
    return x.with_shape(reshaped(x, shape))


def reshaped(x: TensorType, shape: Shape) -> Shape:
    """``shape`` with its -1 and its leading `BATCH` filled in from ``x``."""
    if any(dim is BATCH for dim in shape[1:]):
        raise NeedsStaticBatch
    if shape and shape[0] is BATCH and x.ndim:
        return (x.shape[0], *_filled(x, x.shape[1:], shape[1:]))
    if x.has_batch:
        inner = math.prod(x.inner_shape)
        if not shape or shape[0] != -1 or math.prod(shape[1:]) != inner:
            raise NeedsStaticBatch
        return (BATCH, *_filled(x, x.inner_shape, shape[1:]))
    return _filled(x, x.shape, shape)


def _filled(x: TensorType, source: Shape, shape: Shape) -> Shape:
    """``shape`` with its -1 replaced, when it has as many elements as ``source``."""
    facts = {"input": x, "shape": shape}
    total = math.prod(source)
    known = math.prod(dim for dim in shape if dim != -1)
    unknown = shape.count(-1)
    if unknown > 1 or any(dim < -1 for dim in shape):
        raise ShapeError(
            "reshape: sizes must not be negative, except one -1",
            facts=facts,
            hint="write -1 for the one size that follows from the others",
        )
    if unknown == 1 and known and total % known == 0:
        return tuple(total // known if dim == -1 else dim for dim in shape)
    if unknown == 0 and known == total:
        return tuple(shape)
    raise ShapeError(
        f"reshape: {total} elements do not fill the shape {shape}",
        facts=facts,
        hint="the product of the sizes must stay the same",
    )


def reshape(x: np.ndarray, *, shape: Shape) -> np.ndarray:
    return x.reshape(reshaped(TensorType(x.dtype.name, x.shape), shape))


def infer_permute(x: TensorType, *, dims: tuple[int, ...]) -> TensorType:
    """Output axis i is input axis ``dims[i]``."""
    order = [normal_dim("permute", x, dim) for dim in dims]
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(
            f"permute: {dims} does not name every dimension once",
            facts={"input": x},
            hint=f"give {x.ndim} different dimensions",
        )
    if x.has_batch and order[0] != 0:
        raise NeedsStaticBatch
    return x.with_shape(tuple(x.shape[dim] for dim in order))


def permute(x: np.ndarray, *, dims: tuple[int, ...]) -> np.ndarray:
    return x.transpose(dims)


def infer_concat(*xs: TensorType, dim: int) -> TensorType:
    """Inputs one after the other along ``dim``; the other extents agree."""
    require_float(*xs, op="concat")
    facts: dict[str, object] = {f"input {i}": x for i, x in enumerate(xs)}
    if not xs or len({x.ndim for x in xs}) > 1:
        raise ShapeError(
            "concat: needs inputs of the same number of dimensions",
            facts=facts,
            hint="add missing axes with reshape",
        )
    first = xs[0]
    axis = normal_dim("concat", first, dim)
    others = [i for i in range(first.ndim) if i != axis]
    for x in xs[1:]:
        for i in others:
            require_same_dim("concat", first.shape[i], x.shape[i], facts)
    extent = sum(static(x.shape[axis]) for x in xs)
    return result_type(
        "concat", first, (*first.shape[:axis], extent, *first.shape[axis + 1 :])
    )


def concat(*xs: np.ndarray, dim: int) -> np.ndarray:
    return np.concatenate(xs, dim)


def infer_slice(x: TensorType, *, dim: int, start: int, stop: int) -> TensorType:
    """Positions ``start <= i < stop`` of one dimension, all of them inside of it."""
    axis = normal_dim("slice", x, dim)
    size = static(x.shape[axis])
    if not 0 <= start <= stop <= size:
        raise ShapeError(
            f"slice: {start}:{stop} is not inside of a dimension of {size}",
            facts={"input": x, "dim": dim},
            hint=f"choose 0 <= start <= stop <= {size}",
        )
    return x.with_shape((*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))


def slice_axis(x: np.ndarray, *, dim: int, start: int, stop: int) -> np.ndarray:
    part: np.ndarray = x[(slice(None),) * (dim % x.ndim) + (slice(start, stop),)]
    return part


def infer_broadcast(x: TensorType, *, shape: Shape) -> TensorType:
    """``x`` repeated to ``shape``; axes are matched from the right."""
    if any(dim is BATCH for dim in shape[1:]):
        raise NeedsStaticBatch
    facts = {"input": x, "shape": shape}
    extra = len(shape) - x.ndim
    if shape and shape[0] is BATCH:
        if extra > 0 or x.ndim == 0:
            raise NeedsStaticBatch
        shape = (x.shape[0], *shape[1:])
    if extra < 0:
        raise ShapeError(
            f"broadcast: {x.ndim} dimensions do not fit into {len(shape)}",
            facts=facts,
            hint="remove axes with reshape first",
        )
    for source, target in zip(x.shape, shape[extra:]):
        if not same_dim(source, 1):
            require_same_dim("broadcast", source, target, facts)
    return result_type("broadcast", x, shape)


def broadcast(x: np.ndarray, *, shape: Shape) -> np.ndarray:
    sizes = (x.shape[0] if dim is BATCH else dim for dim in shape)
    return np.broadcast_to(x, tuple(sizes))


def _reshape_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    return (emit("reshape", cotangents[0], shape=node.inputs[0].type.shape),)


def _permute_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    dims = node.attrs["dims"]
    order = [dim % len(dims) for dim in dims]
    inverse = tuple(order.index(axis) for axis in range(len(dims)))
    return (emit("permute", cotangents[0], dims=inverse),)


def _concat_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    parts, start, dim = [], 0, node.attrs["dim"]
    for x in node.inputs:
        stop = start + x.type.shape[dim]
        parts.append(emit("slice", cotangents[0], dim=dim, start=start, stop=stop))
        start = stop
    return tuple(parts)


def _slice_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    x, attrs = node.inputs[0].type, node.attrs
    padding = [(0, 0)] * x.ndim
    axis = attrs["dim"] % x.ndim
    padding[axis] = (attrs["start"], x.shape[axis] - attrs["stop"])
    pad = {"padding": tuple(padding), "mode": "constant", "value": 0.0}
    return (emit("pad", cotangents[0], **pad),)


def _broadcast_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    assert g is not None
    return (unbroadcast(emit, g, node.inputs[0].type),)


def _register(
    kind: Kind, infer: Infer, reference: Reference, vjp: Vjp, *examples: Example
) -> None:
    def compute(types: tuple[TensorType, ...], attrs: Any) -> Movement:
        return Movement(kind)

    register(Op(kind, infer, reference, compute, examples=examples, vjp=vjp))


_register(
    "reshape",
    infer_reshape,
    reshape,
    _reshape_vjp,
    Example(((2, 3, 4, 5),), {"shape": (2, 60)}),
    Example(((2, 3, 4, 5),), {"shape": (BATCH, 12, -1)}),
    Example(((6, 4),), {"shape": (-1, 2, 2)}),
    Example(((3, 1),), {"shape": (3,)}),
    Example(((),), {"shape": (1, 1)}),
)
_register(
    "permute",
    infer_permute,
    permute,
    _permute_vjp,
    Example(((2, 3, 4, 5),), {"dims": (0, 2, 3, 1)}),
    Example(((2, 3, 4),), {"dims": (2, 0, 1)}),
    Example(((3, 5),), {"dims": (1, 0)}),
)
_register(
    "concat",
    infer_concat,
    concat,
    _concat_vjp,
    Example(((2, 3, 4, 5), (2, 1, 4, 5), (2, 6, 4, 5)), {"dim": 1}),
    Example(((3, 4), (3, 2)), {"dim": -1}),
    Example(((3, 4), (1, 4)), {"dim": 0}),
    Example(((2, 5),), {"dim": 1}),
)
_register(
    "slice",
    infer_slice,
    slice_axis,
    _slice_vjp,
    Example(((2, 5, 4, 3),), {"dim": 1, "start": 1, "stop": 4}),
    Example(((3, 7),), {"dim": 1, "start": 0, "stop": 7}),
    Example(((5, 2),), {"dim": 0, "start": 2, "stop": 5}),
)
_register(
    "broadcast",
    infer_broadcast,
    broadcast,
    _broadcast_vjp,
    Example(((3, 1),), {"shape": (3, 4)}),
    Example(((2, 1, 5),), {"shape": (BATCH, 3, 5)}),
    Example(((4,),), {"shape": (2, 3, 4)}),
    Example(((),), {"shape": (2, 3)}),
)

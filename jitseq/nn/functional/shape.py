"""Reshaping, permuting, joining and padding.

Arrays enter; the same elements leave in another shape. Invariant: a symbolic batch
stays in dimension 0; a request that would need its number ends the symbolic trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jitseq.errors import ShapeError, UnsupportedError
from jitseq.ir.tracer import apply
from jitseq.ir.types import BATCH
from jitseq.nn.functional.arguments import (
    Array,
    OptionError,
    dimension,
    integer,
    need_number,
    one_of,
    operand,
    require_rank,
    type_text,
)

PAD_MODES = ("constant", "reflect", "replicate", "circular")


def flatten(input: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Join the dimensions ``start_dim`` to ``end_dim`` into one.

    Raises `ShapeError` for dimensions that are out of range or out of order.
    """
    x = operand(input)
    start = dimension(start_dim, x, "flatten")
    end = dimension(end_dim, x, "flatten")
    if start > end:
        raise ShapeError(
            "flatten: start_dim comes after end_dim",
            facts={"input": type_text(x), "start_dim": start_dim, "end_dim": end_dim},
        )
    if start == end and x.ndim:
        return x
    joined = math.prod(x.shape[start : end + 1])
    return apply("reshape", x, shape=(*x.shape[:start], joined, *x.shape[end + 1 :]))


def unflatten(input: Array, dim: int, sizes: Sequence[int]) -> Array:
    """Split dimension ``dim`` into ``sizes``, of which one may be -1.

    Raises `ShapeError` unless the product of ``sizes`` is the dimension's extent.
    """
    x = operand(input)
    dim = dimension(dim, x, "unflatten")
    need_number(x.shape[dim])
    parts = tuple(integer(size, "unflatten: sizes", -1) for size in sizes)
    parts = _filled(parts, int(x.shape[dim]), "unflatten", x)
    return apply("reshape", x, shape=(*x.shape[:dim], *parts, *x.shape[dim + 1 :]))


def reshape(input: Array, shape: int | Sequence[int]) -> Array:
    """The elements in their order, in another shape; one extent may be -1.

    Raises `ShapeError` unless the number of elements stays the same.
    """
    x = operand(input)
    target: tuple[Any, ...] = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if x.ndim and x.shape[0] is BATCH:
        return apply("reshape", x, shape=_with_symbolic_batch(x, target))
    sizes = tuple(integer(size, "reshape: shape", -1) for size in target)
    return apply("reshape", x, shape=_filled(sizes, math.prod(x.shape), "reshape", x))


def _with_symbolic_batch(x: Any, target: tuple[Any, ...]) -> tuple[Any, ...]:
    """``target`` when it keeps the symbolic batch in front, by name or as a -1."""
    inner = math.prod(x.shape[1:])
    if target[:1] == (-1,) and math.prod(target[1:]) == inner and -1 not in target[1:]:
        return (BATCH, *target[1:])
    if not target or target[0] is not BATCH:
        need_number(BATCH)
    sizes = tuple(integer(size, "reshape: shape", -1) for size in target[1:])
    return (BATCH, *_filled(sizes, inner, "reshape", x))


def _filled(sizes: tuple[int, ...], total: int, op: str, x: Any) -> tuple[int, ...]:
    """``sizes`` with a -1 replaced, so that their product is ``total``."""
    known = math.prod(size for size in sizes if size != -1)
    unknown = sizes.count(-1)
    fits = known == total if not unknown else known > 0 and total % known == 0
    if unknown > 1 or not fits:
        raise ShapeError(
            f"{op}: {total} elements do not fill {sizes}",
            facts={"input": type_text(x)},
        )
    return tuple(total // known if size == -1 else size for size in sizes)


def permute(input: Array, dims: Sequence[int]) -> Array:
    """Reorder the dimensions: output dimension ``i`` is input dimension ``dims[i]``.

    Raises `ShapeError` unless ``dims`` names every dimension once.
    """
    x = operand(input)
    order = tuple(dimension(dim, x, "permute") for dim in dims)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(
            "permute: dims must name every dimension once",
            facts={"input": type_text(x), "dims": tuple(dims)},
        )
    if order and order[0] != 0:
        need_number(x.shape[0])
    return apply("permute", x, dims=order)


def transpose(input: Array, dim0: int, dim1: int) -> Array:
    """Swap two dimensions."""
    x = operand(input)
    first, second = (dimension(dim, x, "transpose") for dim in (dim0, dim1))
    order = list(range(x.ndim))
    if order:
        order[first], order[second] = second, first
    return permute(x, order)


def concat(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Join arrays along ``dim``; all other extents are equal (`ShapeError` if not)."""
    parts = [operand(x) for x in tensors]
    if not parts:
        raise OptionError("concat: expected at least one array")
    dim = dimension(dim, parts[0], "concat")
    if dim == 0:
        for x in parts:
            need_number(x.shape[0] if x.ndim else 1)
    return apply("concat", *parts, dim=dim)


cat = concat


def pad(
    input: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Array:
    """Add elements around: ``pad`` is ``(left, right, top, bottom, …)``.

    It starts with the last dimension. ``mode`` is ``"constant"`` (any dimensions,
    filled with ``value``), or ``"reflect"``, ``"replicate"`` or ``"circular"`` (the
    last one or two).
    Raises `ShapeError` or `OptionError` where the sizes do not fit.
    """
    x = operand(input)
    one_of(mode, "pad: mode", PAD_MODES)
    sizes = tuple(integer(size, "pad: pad") for size in pad)
    if len(sizes) % 2 or len(sizes) > 2 * x.ndim:
        raise OptionError(
            "pad: give two sizes for each padded dimension, the last one first",
            facts={"pad": sizes, "input": type_text(x)},
        )
    if any(size < 0 for size in sizes):
        raise UnsupportedError(
            "pad: negative sizes are not covered", facts={"pad": sizes}
        )
    count = len(sizes) // 2
    if mode != "constant":
        hint = "pad the last dimension of (N, C, L) or the last two of (N, C, H, W)"
        require_rank(x, f"pad with mode={mode!r}", (count + 1, count + 2), hint)
    if not any(sizes):
        return x
    if count == x.ndim and any(sizes[-2:]):
        need_number(x.shape[0])
    around = [(sizes[2 * i], sizes[2 * i + 1]) for i in reversed(range(count))]
    padding = ((0, 0),) * (x.ndim - count) + tuple(around)
    filling = 0.0 if value is None else float(value)
    return apply("pad", x, padding=padding, mode=mode, value=filling)

"""Padding by an image's own elements, and its gradient → loops over index tables.

Enter a ``pad`` or ``pad_grad`` node of the modes reflect, replicate or circular and the
view that it writes. Tables say, for each position of a padded dimension, which element
is repeated there, or, for the gradient, which positions repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jitseq.ir.graph import Node
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.passes.lower.nest import View, emit_nest
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.problem import image_count


def copy_mirrored(node: Node, whole: View, operands: Operands, lanes: int) -> None:
    """``out[…, i, …] = x[…, table(i), …]`` along the padded dimensions."""
    builder = operands.builder
    (x,) = node.inputs
    layout = operands.layouts[x]
    buffer = operands.read(x)
    shape = x.type.shape
    tables = {
        dim: source_indices(shape[dim], before, after, node.attrs["mode"])
        for dim, (before, after) in enumerate(node.attrs["padding"])
        if before or after
    }
    inner = [dim for dim in range(x.type.ndim) if dim not in tables]
    order = sorted(tables) + inner

    def nest(position: int, out: View, source: Affine) -> None:
        if position == len(tables):
            rest = View(out.buffer, 0, tuple(out.dims[d] for d in inner))
            seen = View(buffer, 0, tuple(layout.dims[d] for d in inner))
            _copy_at(rest, seen, out_at[0], source)
            return
        dim = order[position]
        extent = len(tables[dim])
        ((_, out_stride),) = whole.dims[dim]

        def body(i: Affine) -> None:
            before = out_at[0]
            out_at[0] = before + i * out_stride
            nest(
                position + 1,
                out,
                source + builder.table(tables[dim], i) * layout.stride(dim),
            )
            out_at[0] = before

        builder.loop("i", 0, extent, 1, body)

    def _copy_at(rest: View, seen: View, out_start: Affine, source: Affine) -> None:
        def body(
            at: list[Affine], type: Type, valid: int | None, strides: tuple[int, ...]
        ) -> None:
            value = builder.gather(buffer, at[1] + source, type, strides[1], valid)
            builder.store(rest.buffer, at[0] + out_start, value, valid)

        emit_nest(builder, [rest, seen], lanes, body)

    out_at = [affine(whole.offset)]
    nest(0, whole, affine(layout.offset))


def source_indices(extent: int, before: int, after: int, mode: str) -> tuple[int, ...]:
    """Input index for each position of a padded dimension."""
    positions = range(-before, extent + after)
    if mode == "replicate":
        return tuple(min(max(i, 0), extent - 1) for i in positions)
    if mode == "circular":
        return tuple(i % extent for i in positions)
    last = extent - 1
    return tuple(abs(i) if i <= last else 2 * last - i for i in positions)


@dataclass(frozen=True)
class Readers:
    """Which positions repeat each element of a dimension: ``depth`` entries for each.

    The first ``count[i]`` entries of element i are positions of the padded dimension.
    """

    count: tuple[int, ...]
    positions: tuple[int, ...]
    depth: int

    @staticmethod
    def of(extent: int, before: int, after: int, mode: str) -> Readers:
        found: list[list[int]] = [[] for _ in range(extent)]
        for position, source in enumerate(source_indices(extent, before, after, mode)):
            found[source].append(position)
        depth = max(map(len, found))
        filled = (at + at[:1] * (depth - len(at)) for at in found)
        positions = tuple(position for at in filled for position in at)
        return Readers(tuple(map(len, found)), positions, depth)


def collect_mirrored(node: Node, whole: View, operands: Operands, lanes: int) -> None:
    """``out[…, i, …]``: the sum of g over all positions that repeat element i."""
    builder = operands.builder
    (g,) = node.inputs
    layout, buffer = operands.layouts[g], operands.read(g)
    shape = node.output.type.shape
    readers = {
        dim: Readers.of(shape[dim], before, after, node.attrs["mode"])
        for dim, (before, after) in enumerate(node.attrs["padding"])
        if before or after
    }
    outer = [dim for dim in range(len(shape)) if dim in readers or dim == 0]
    inner = [dim for dim in range(len(shape)) if dim not in outer]

    def add(
        places: Sequence[tuple[int, Affine]],
        source: Affine,
        total: Reg,
        lane: tuple[int, int | None],
    ) -> Reg:
        """``total`` and the elements of all readers; ``lane`` is (stride, valid)."""
        if not places:
            term = builder.gather(buffer, source, total.type, *lane)
            return builder.binary("add", total, term)
        (dim, index), *rest = places
        found, stride = readers[dim], layout.stride(dim)

        def one(k: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            position = builder.table(found.positions, index * found.depth + k)
            return (add(rest, source + position * stride, sums[0], lane),)

        count = builder.table(found.count, index)
        return builder.fold("k", 0, count, 1, (total,), one)[0]

    def element(*indices: Affine) -> None:
        start, source = affine(whole.offset), affine(layout.offset)
        places = []
        for dim, index in zip(outer, indices, strict=True):
            ((_, stride),) = whole.dims[dim]
            start = start + index * stride
            if dim in readers:
                places.append((dim, index))
            else:
                source = source + index * layout.stride(dim)

        def body(
            at: list[Affine], type: Type, valid: int | None, strides: tuple[int, ...]
        ) -> None:
            zero = builder.const(0.0, type)
            total = add(places, at[1] + source, zero, (strides[1], valid))
            builder.store(whole.buffer, at[0] + start, total, valid)

        emit_nest(builder, [rest, seen], lanes, body)

    rest = replace(whole, offset=0, dims=tuple(whole.dims[d] for d in inner))
    seen = View(buffer, 0, tuple(layout.dims[d] for d in inner))
    extents = [image_count(builder, whole.dims[dim][0][0]) for dim in outer]
    builder.nest(["i"] * len(outer), extents, element)

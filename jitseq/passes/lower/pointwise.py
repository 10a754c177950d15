"""Pointwise groups and movements → loop nests."""

from __future__ import annotations

from collections.abc import Sequence

from jitseq.ir.graph import Node, Value
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.nest import (
    View,
    broadcast_view,
    emit_copy,
    emit_nest,
    part,
    view,
)
from jitseq.passes.lower.operands import Epilogue, Operands


def lower_pointwise(group: Group, operands: Operands, target: Target) -> None:
    """``out[i] = chain(a[i], b[i], …)`` with broadcasting operands."""
    builder = operands.builder
    out = operands.write(group.output)
    layout = operands.layouts[group.output]
    lanes = target.lanes(out.element)
    clear_halo(operands, out, layout, lanes)
    values = group.external_inputs
    views = [view(out, layout)]
    for value in values:
        own = operands.layouts[value]
        views.append(broadcast_view(operands.read(value), own, layout))
    epilogue = Epilogue(builder, group.inner)

    def body(
        at: list[Affine], type: Type, valid: int | None, strides: tuple[int, ...]
    ) -> None:
        def fetch(value: Value, shape: Sequence[object]) -> Reg:
            k = values.index(value) + 1
            return builder.gather(views[k].buffer, at[k], type, strides[k], valid)

        builder.store(out, at[0], epilogue.apply({}, type, fetch), valid)

    emit_nest(builder, views, lanes, body)


def lower_movement(group: Group, operands: Operands, target: Target) -> None:
    """Copies, permutations, concatenation, slices, broadcasts and padding."""
    node = group.anchor
    assert node is not None
    builder = operands.builder
    out = operands.write(node.output)
    layout = operands.layouts[node.output]
    lanes = target.lanes(out.element)
    clear_halo(operands, out, layout, lanes)
    whole = view(out, layout)
    for piece, value in _pieces(node, whole, operands, lanes):
        own = operands.layouts[value]
        source = _seen(node, view(operands.read(value), own), own, layout, operands)
        if source is not None:
            emit_copy(builder, piece, source, lanes)


def _pieces(
    node: Node, whole: View, operands: Operands, lanes: int
) -> list[tuple[View, Value]]:
    """Parts of the output and the input that each one shows."""
    if node.op == "concat":
        dim, start, pieces = _dim(node), 0, []
        for value in node.inputs:
            extent = value.type.shape[dim]
            pieces.append((part(whole, dim, start, extent), value))
            start += extent
        return pieces
    if node.op == "pad":
        return _padded(node, whole, operands, lanes)
    return [(whole, node.inputs[0])]


def _dim(node: Node) -> int:
    """The attribute ``dim``, counted from the front."""
    dim: int = node.attrs["dim"] % node.output.type.ndim
    return dim


def _seen(
    node: Node, source: View, own: object, target: object, operands: Operands
) -> View | None:
    """The input with the shape of the output (part)."""
    if node.op == "permute":
        ndim = node.output.type.ndim
        dims = tuple(source.dims[d % ndim] for d in node.attrs["dims"])
        return View(source.buffer, source.offset, dims)
    if node.op == "broadcast":
        layouts = operands.layouts
        value = node.inputs[0]
        return broadcast_view(source.buffer, layouts[value], layouts[node.output])
    if node.op == "slice":
        dim = _dim(node)
        return part(source, dim, node.attrs["start"], node.output.type.shape[dim])
    if node.op == "pad" and node.attrs["mode"] != "constant":
        return None
    return source


def _padded(
    node: Node, whole: View, operands: Operands, lanes: int
) -> list[tuple[View, Value]]:
    """A constant border is filled first; other modes read through index tables."""
    builder = operands.builder
    (x,) = node.inputs
    padding = node.attrs["padding"]
    if node.attrs["mode"] != "constant":
        _mirrored(node, whole, operands, lanes)
        return [(whole, x)]

    def fill(
        at: list[Affine], type: Type, valid: int | None, strides: tuple[int, ...]
    ) -> None:
        value = builder.const(node.attrs["value"], type)
        builder.store(whole.buffer, at[0], value, valid)

    emit_nest(builder, [whole], lanes, fill)
    inside = whole
    for dim, (before, after) in enumerate(padding):
        if before or after:
            inside = part(inside, dim, before, x.type.shape[dim])
    return [(inside, x)]


def _mirrored(node: Node, whole: View, operands: Operands, lanes: int) -> None:
    """``out[…, i, …] = x[…, table(i), …]`` along the padded dimensions."""
    builder = operands.builder
    (x,) = node.inputs
    layout = operands.layouts[x]
    buffer = operands.read(x)
    shape = x.type.shape
    tables = {
        dim: _source_indices(shape[dim], before, after, node.attrs["mode"])
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


def _source_indices(extent: int, before: int, after: int, mode: str) -> tuple[int, ...]:
    """Input index for each position of a padded dimension."""
    positions = range(-before, extent + after)
    if mode == "replicate":
        return tuple(min(max(i, 0), extent - 1) for i in positions)
    if mode == "circular":
        return tuple(i % extent for i in positions)
    last = extent - 1
    return tuple(abs(i) if i <= last else 2 * last - i for i in positions)

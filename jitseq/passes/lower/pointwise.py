"""Pointwise groups and movements → loop nests."""

from __future__ import annotations

from collections.abc import Sequence

from jitseq.ir.graph import Node, Value
from jitseq.ir.layout import row_major
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
from jitseq.passes.lower.padding import collect_mirrored, copy_mirrored


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
            return operands.load(value, at[k], type, strides[k], valid)

        builder.store(out, at[0], epilogue.apply({}, type, fetch), valid)

    emit_nest(builder, views, lanes, body)


def lower_uniform(group: Group, operands: Operands, target: Target) -> None:
    """Random numbers in memory, for readers that do not compute them."""
    node = group.anchor
    assert node is not None
    builder = operands.builder
    key, out = operands.read(node.inputs[0]), operands.write(node.output)
    layout, index = operands.layouts[node.output], row_major(node.output.type)
    lanes = target.lanes(out.element)
    clear_halo(operands, out, layout, lanes)
    start = affine(0)
    if node.output.type.has_batch:
        start = affine(builder.first) * index.stride(0)

    def body(
        at: list[Affine], type: Type, valid: int | None, strides: tuple[int, ...]
    ) -> None:
        number = builder.uniform(key, at[1] + start, type, strides[1])
        builder.store(out, at[0], number, valid)

    emit_nest(builder, [view(out, layout), view(key, index)], lanes, body)


def lower_movement(group: Group, operands: Operands, target: Target) -> None:
    """Copies, permutations, concatenation, slices, broadcasts and padding.

    Of ``broadcast_like``'s second input only the shape counts: it is not read.
    """
    node = group.anchor
    assert node is not None
    builder = operands.builder
    out = operands.write(node.output)
    layout = operands.layouts[node.output]
    lanes = target.lanes(out.element)
    clear_halo(operands, out, layout, lanes)
    whole = view(out, layout)
    if node.op == "pad_grad":
        collect_mirrored(node, whole, operands, lanes)
        return
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
    if node.op in ("broadcast", "broadcast_like"):
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
        copy_mirrored(node, whole, operands, lanes)
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

"""Copies, permutations, broadcasts, slices, concatenation and padding → kernels.

Enters a group whose anchor is a `Movement`; a kernel leaves that has a thread for each
element of the output, which looks up where its element comes from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from jitseq.ir.graph import Node
from jitseq.ir.layout import extents
from jitseq.ir.program import Affine, Buffer, Reg, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element, broadcast_strides, each_item
from jitseq.passes.grid.lowered import GridKernel, GridOperands, Scope
from jitseq.passes.lower.padding import Readers, source_indices


def lower_movement(group: Group, scope: Scope) -> GridKernel:
    """``out[i] = x[where(i)]``; what each op means is said in `jitseq.ir.ops`.

    Of ``broadcast_like``'s second input only the shape counts: it is not read.
    """
    assert group.anchor is not None
    operands, launch = scope.operands(), scope.launch(group.output)
    mover = _Mover(group.anchor, operands)
    each_item(operands.builder, launch, mover.element)
    return scope.finish(group, operands, launch)


class _Mover:
    def __init__(self, node: Node, operands: GridOperands) -> None:
        self.b = operands.builder
        self.node = node
        self.operands = operands
        self.out = operands.write(node.output)
        self.type = Type(self.out.element)
        self.x = node.inputs[0]
        self.layout = operands.layouts[self.x]

    def element(self, number: Affine) -> None:
        """Store one element of the output."""
        node = self.node
        at = Element(self.b, number, extents(node.output.type))
        if node.op == "concat":
            self._concatenated(at)
        elif node.op == "pad" and node.attrs["mode"] == "constant":
            self._store(at, self._padded(at))
        elif node.op == "pad":
            self._store(at, self._mirrored(at))
        elif node.op == "pad_grad":
            self._store(at, self._collected(at))
        else:
            self._store(at, self._load(self._source(at)))

    def _store(self, at: Element, value: Reg) -> None:
        self.b.store(self.out, at.number, value)

    def _load(self, index: Affine) -> Reg:
        return self.operands.load(self.x, index, self.type)

    def _strides(self) -> list[int]:
        return [self.layout.stride(dim) for dim in range(self.layout.ndim)]

    def _dim(self) -> int:
        """The attribute ``dim``, counted from the front."""
        dim: int = self.node.attrs["dim"] % self.node.output.type.ndim
        return dim

    def _source(self, at: Element) -> Affine:
        """The index of the one element that is moved here."""
        op, attrs = self.node.op, self.node.attrs
        ndim = self.node.output.type.ndim
        if op == "permute":
            strides = self._strides()
            return at.at([strides[dim % ndim] for dim in attrs["dims"]])
        if op in ("broadcast", "broadcast_like"):
            return at.at(broadcast_strides(self.layout, ndim))
        if op == "slice":
            start: int = attrs["start"] * self.layout.stride(self._dim())
            return at.at(self._strides()) + start
        assert op == "copy", op
        return at.number

    def _concatenated(self, at: Element) -> None:
        """Each piece is written by the threads that lie inside of it."""
        dim, start = self._dim(), 0
        position = at.coordinate(dim)
        for value in self.node.inputs:
            extent = value.type.shape[dim]
            if not extent:
                continue
            inside = self.b.inside(position + -start, extent)
            layout = self.operands.layouts[value]
            strides = [layout.stride(d) for d in range(layout.ndim)]
            index = at.at(strides) + -start * layout.stride(dim)
            buffer = self.operands.read(value)
            self.b.when(inside, partial(self._copy, at, buffer, index))
            start += extent

    def _copy(self, at: Element, buffer: Buffer, index: Affine) -> None:
        self._store(at, self.b.load(buffer, index, self.type))

    # padding

    def _padded(self, at: Element) -> Reg:
        """Zero or a number around the input."""
        index, masks = at.at(self._strides()), []
        for dim, (before, after) in enumerate(self.node.attrs["padding"]):
            if before or after:
                position = at.coordinate(dim) + -before
                masks.append(self.b.inside(position, self.x.type.shape[dim]))
                index = index + -before * self.layout.stride(dim)
        if not masks:
            return self._load(index)
        mask = masks[0]
        for other in masks[1:]:
            mask = self.b.both(mask, other)
        found = self.operands.load_where(mask, self.x, index, self.type)
        value = self.node.attrs["value"]
        if value == 0 and math.copysign(1, value) > 0:
            return found
        border = self.b.const(value, self.type)
        return self.b.emit("select", self.type, mask, found, border)

    def _mirrored(self, at: Element) -> Reg:
        """The input's own elements, by a table for each padded dimension."""
        strides, index = self._strides(), affine(0)
        for dim, (before, after) in enumerate(self.node.attrs["padding"]):
            if before or after:
                size, mode = self.x.type.shape[dim], self.node.attrs["mode"]
                table = source_indices(size, before, after, mode)
                position = self.b.table(table, at.coordinate(dim))
                index = index + position * strides[dim]
                strides[dim] = 0
        return self._load(index + at.at(strides))

    def _collected(self, at: Element) -> Reg:
        """The sum over all positions that repeat this element."""
        strides, axes = self._strides(), []
        for dim, (before, after) in enumerate(self.node.attrs["padding"]):
            if before or after:
                size, mode = self.node.output.type.shape[dim], self.node.attrs["mode"]
                readers = Readers.of(size, before, after, mode)
                axes.append(_Axis(readers, at.coordinate(dim), strides[dim]))
                strides[dim] = 0
        zero = self.b.const(0.0, self.type)
        return self._add(axes, at.at(strides), None, zero)

    def _add(
        self, axes: Sequence[_Axis], index: Affine, mask: Reg | None, total: Reg
    ) -> Reg:
        if not axes:
            term = self.operands.load_where(mask, self.x, index, self.type)
            return self.b.binary("add", total, term)
        axis, *rest = axes
        readers = axis.readers
        count = self.b.table(readers.count, axis.position)

        def one(k: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            place = self.b.table(readers.positions, axis.position * readers.depth + k)
            valid = self.b.below(k, count)
            both = valid if mask is None else self.b.both(mask, valid)
            return (self._add(rest, index + place * axis.stride, both, sums[0]),)

        return self.b.fold("k", 0, readers.depth, 1, (total,), one)[0]


@dataclass(frozen=True)
class _Axis:
    """A padded dimension: who repeats its elements, where, and the stride of g."""

    readers: Readers
    position: Affine
    stride: int

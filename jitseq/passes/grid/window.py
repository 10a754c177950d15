"""Pooling, the index of its maxima, and its gradients → a thread for each element.

Enters a group whose anchor is a `Window`, `WindowIndex` or `WindowGradient`; a kernel
leaves. Invariant: an element of a gradient collects from the windows that hold it,
nothing is scattered.
"""

from __future__ import annotations

from collections.abc import Callable

from jitseq.ir.compute import Window, WindowGradient, WindowIndex
from jitseq.ir.grid_builder import MASK
from jitseq.ir.layout import extents
from jitseq.ir.program import INDEX, Affine, Reg, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element, apply_at, each_item
from jitseq.passes.grid.lowered import GridKernel, GridOperands, Scope
from jitseq.passes.grid.reduction import is_whole_image, lower_whole_image
from jitseq.passes.grid.windows import Visit, Visits, axis_of, both

UNROLLED = 32
"""Taps of a window that are written in line; more are looped over."""

Record = Window | WindowIndex | WindowGradient
Regs = tuple[Reg, ...]
Mask = Reg | None
Body = Callable[[Visit, Visit, Mask, Regs], Regs]
Step = Callable[[Affine, Regs], Regs]


def lower_window(group: Group, record: Record, scope: Scope) -> list[GridKernel]:
    """``[n, C, H, W]`` → a maximum, average or index for each window, or a gradient.

    The meaning, with equal maxima and NaN, is that of `jitseq.ir.ops.pool` and
    `jitseq.ir.ops.pool_grad`. Pointwise nodes may ride on the result.
    """
    assert group.anchor is not None
    size = group.anchor.inputs[0].type.shape[2:]
    if isinstance(record, Window) and is_whole_image(record, size):
        return lower_whole_image(group, record, scope)
    operands, launch = scope.operands(), scope.launch(group.output)
    kernel = KERNELS[type(record)](group, record, operands)
    each_item(operands.builder, launch, kernel.element)
    return [scope.finish(group, operands, launch)]


class _Kernel:
    """Loads by logical position, loops over taps, and the store of one element."""

    def __init__(self, group: Group, record: Record, operands: GridOperands) -> None:
        assert group.anchor is not None
        self.b = operands.builder
        self.group = group
        self.operands = operands
        self.inputs = group.anchor.inputs
        self.windows = record if isinstance(record, Window) else record.forward
        self.width = max(self.windows.cols.count)
        self.out = operands.write(group.output)
        self.type = Type(operands.read(self.inputs[0]).element)
        backward = isinstance(record, WindowGradient)
        size = group.anchor.output.type if backward else self.inputs[0].type
        self.rows = axis_of(self.windows.rows, size.shape[2])
        self.cols = axis_of(self.windows.cols, size.shape[3])

    def element(self, number: Affine) -> None:
        """Store one element of the output."""
        at = Element(self.b, number, extents(self.group.output.type))
        planes, h, w = at.at(self._planes()), at.coordinate(2), at.coordinate(3)
        total = self.result(planes, h, w)
        known = {self.group.anchor_output: total}
        if self.group.inner:
            total = apply_at(self.operands, self.group.inner, known, self.type, at.at)
        self.b.store(self.out, number, total)

    def result(self, planes: Affine, h: Affine, w: Affine) -> Reg:
        """The element of the plane that starts at ``planes`` in the input."""
        raise NotImplementedError

    def _planes(self) -> list[int]:
        layout = self.operands.layouts[self.inputs[0]]
        return [layout.stride(0), layout.stride(1), 0, 0]

    def place(self, planes: Affine, row: Visit, column: Visit) -> Affine:
        layout = self.operands.layouts[self.inputs[0]]
        return planes + row.index * layout.stride(2) + column.index

    def load(self, number: int, index: Affine, mask: Mask) -> Reg:
        return self.operands.load_where(mask, self.inputs[number], index, self.type)

    def fold(
        self,
        counts: tuple[int, int],
        visits: tuple[Visits, Visits],
        regs: Regs,
        body: Body,
    ) -> Regs:
        """``body(row, column, mask, regs)`` for all rows and columns, in order."""
        unrolled = counts[0] * counts[1] <= UNROLLED

        def along(count: int, regs: Regs, one: Step) -> Regs:
            if not unrolled:
                return self.b.fold("t", 0, count, 1, regs, one)
            for k in range(count):
                regs = one(affine(k), regs)
            return regs

        def row(i: Affine, regs: Regs) -> Regs:
            found = visits[0](i)

            def column(j: Affine, regs: Regs) -> Regs:
                other = visits[1](j)
                mask = both(self.b, (found.mask, other.mask))
                return body(found, other, mask, regs)

            return along(counts[1], regs, column)

        return along(counts[0], regs, row)

    def over_taps(self, h: Affine, w: Affine, regs: Regs, body: Body) -> Regs:
        """All that the window with the number (h, w) reads."""
        visits = self.rows.reads(self.b, h), self.cols.reads(self.b, w)
        return self.fold((self.rows.taps, self.cols.taps), visits, regs, body)

    def chosen(self, mask: Mask, value: Reg, other: Reg) -> Reg:
        if mask is None:
            return value
        return self.b.emit("select", self.type, mask, value, other)

    def number(self, tap: Affine) -> Reg:
        if tap.terms:
            return self.b.to_float(tap, self.type)
        return self.b.const(tap.const, self.type)

    def const(self, value: float) -> Reg:
        return self.b.const(value, self.type)

    def divisor(self, h: Affine, w: Affine) -> Reg:
        """What an average divides by; it may differ at the borders.

        The window with the number (h, w) need not exist.
        """
        if self.even_divisor is not None:
            return self.const(self.even_divisor)
        factors = [
            self.number(self._existing(axis.divisor, index))
            for axis, index in ((self.windows.rows, h), (self.windows.cols, w))
        ]
        return self.b.binary("mul", *factors)

    @property
    def even_divisor(self) -> int | None:
        """An average's divisor where it is the same for all windows."""
        rows, cols = self.windows.rows.divisor, self.windows.cols.divisor
        if self.windows.divisor is not None:
            return self.windows.divisor
        return rows[0] * cols[0] if len(set(rows)) == len(set(cols)) == 1 else None

    def _existing(self, divisors: tuple[int, ...], index: Affine) -> Affine:
        below = self.b.emit("imin", INDEX, index, affine(len(divisors) - 1))
        inside = self.b.emit("imax", INDEX, affine(below), affine(0))
        return self.b.table(divisors, affine(inside))


class _Pool(_Kernel):
    def result(self, planes: Affine, h: Affine, w: Affine) -> Reg:
        largest = self.windows.kind == "max"
        start = self.const(float("-inf") if largest else 0.0)

        def tap(row: Visit, column: Visit, mask: Mask, regs: Regs) -> Regs:
            value = self.load(0, self.place(planes, row, column), mask)
            if largest:
                value = self.chosen(mask, value, start)
            return (self.b.binary("maximum" if largest else "add", value, regs[0]),)

        (total,) = self.over_taps(h, w, (start,), tap)
        if largest:
            return total
        return self.b.binary("div", total, self.divisor(h, w))


class _Index(_Kernel):
    def result(self, planes: Affine, h: Affine, w: Affine) -> Reg:
        def tap(row: Visit, column: Visit, mask: Mask, regs: Regs) -> Regs:
            best, index = regs
            value = self.load(0, self.place(planes, row, column), mask)
            more = self.b.emit("gt", MASK, value, best)
            nan = self.b.emit("unordered", MASK, value, value)
            better = self.b.emit("select", MASK, more, more, nan)
            better = better if mask is None else self.b.both(better, mask)
            number = self.number(row.tap * self.width + column.tap)
            return self.chosen(better, value, best), self.chosen(better, number, index)

        start = (self.const(float("-inf")), self.const(0.0))
        return self.over_taps(h, w, start, tap)[1]


class _Gradient(_Kernel):
    """Each element adds up what the windows that hold it give."""

    def result(self, planes: Affine, h: Affine, w: Affine) -> Reg:
        zero, even = self.const(0.0), self.even_divisor
        largest = self.windows.kind == "max"

        def holder(row: Visit, column: Visit, mask: Mask, regs: Regs) -> Regs:
            place = self.place(planes, row, column)
            term = self.load(0, place, mask)
            if largest:
                own = self.number(row.tap * self.width + column.tap)
                index = self.load(1, place, mask)
                wins = self.b.emit("eq", MASK, index, own)
                term = self.chosen(wins, term, zero)
            elif even is None:
                divisor = self.divisor(row.index, column.index)
                term = self.b.binary("div", term, divisor)
            return (self.b.binary("add", regs[0], term),)

        counts = (self.rows.depth, self.cols.depth)
        visits = self.rows.holders(self.b, h), self.cols.holders(self.b, w)
        (total,) = self.fold(counts, visits, (zero,), holder)
        if largest or even is None:
            return total
        return self.b.binary("div", total, self.const(even))


KERNELS: dict[type, type[_Kernel]] = {
    Window: _Pool,
    WindowIndex: _Index,
    WindowGradient: _Gradient,
}

"""Rows that are reduced: which threads share one, and where their elements lie.

Enters a group whose anchor is a `Reduction`, with a builder of its own; subclasses emit
kernels. As many threads as a row has elements, up to a warp, share it where its
elements are neighbours in memory, and more where it is long; a row whose elements are
apart is one thread's, and its neighbours have the rows beside it. Invariant: threads
that share a row get the same result, and one of them stores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jitseq.ir.compute import Reduction
from jitseq.ir.layout import extents
from jitseq.ir.program import Affine, Buffer, Launch, Reg, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element, Place, apply_at
from jitseq.passes.grid.lowered import Scope

LONG_ROW = 16
"""Elements for each thread of a warp from which on more than a warp share a row."""

ELEMENTS_EACH = 8
"""Elements of a long row for each of its threads."""

Regs = tuple[Reg, ...]


class Rows:
    """The rows that are reduced: which threads share one, and where elements lie."""

    def __init__(
        self, group: Group, record: Reduction, scope: Scope, split: bool = False
    ) -> None:
        assert group.anchor is not None
        self.group = group
        self.record = record
        self.scope = scope
        self.operands = scope.operands()
        self.b = self.operands.builder
        self.x = group.anchor.inputs[0]
        self.shape = extents(self.x.type)
        self.split = split
        """Whether the first dimension is reduced, and looped over on its own."""
        self.kept = [d for d in range(len(self.shape)) if d not in record.axes]
        self.reduced = [d for d in record.axes if not (split and d == 0)]
        self.length = self.size(self.reduced)
        self.inner = self._inner()
        self.width = self.inner
        """Threads that share a row; ``inner`` of them lie along its elements."""

    def size(self, dims: Sequence[int]) -> int:
        """Elements along some dimensions, the batch left out."""
        extents = (self.shape[d] for d in dims)
        return math.prod(1 if extent is None else extent for extent in extents)

    def _inner(self) -> int:
        """Threads along a row: a power of two, up to a warp, or to a block."""
        moving = [d for d, extent in enumerate(self.shape) if extent != 1]
        if not moving or moving[-1] not in self.reduced or self.length == 0:
            return 1
        target = self.scope.target
        widest = min(self.length, target.warp)
        if self.length >= LONG_ROW * target.warp:
            widest = min(self.length // ELEMENTS_EACH, self.widest)
        return 1 << (widest.bit_length() - 1)

    @property
    def widest(self) -> int:
        """The most threads that may share a row: a block, if that is a power of two."""
        threads = self.scope.target.threads
        return threads & -threads

    def launch(self, rows: int, per_image: bool) -> Launch:
        """As many threads as `width` for each of ``rows``."""
        threads = self.scope.target.threads
        return Launch(threads, rows, threads // self.width, per_image)

    # threads

    def row(self, launch: Launch) -> tuple[Element, Reg]:
        """The row of this thread, and whether it exists."""
        self.thread = self.lane = self.b.thread()
        number = self.b.block() * launch.items_per_block
        if self.width < launch.threads:
            self.lane = self.b.remainder(self.thread, self.width)
            number = number + self.b.quotient(self.thread, self.width)
        total = affine(launch.items)
        if launch.per_image:
            total = affine(self.b.count) * launch.items
        row = Element(self.b, number, [self.shape[d] for d in self.kept])
        return row, self.b.below(number, total)

    def once(self, valid: Reg, body: Callable[[], None]) -> None:
        """``body`` in one thread of each row that exists."""
        if self.width > 1:
            valid = self.b.both(valid, self.b.below(self.lane, 1))
        self.b.when(valid, body)

    def across(self, op: str, value: Reg) -> Reg:
        """``add`` or ``maximum`` over the threads that share a row, in all of them."""
        warp = self.scope.target.warp
        exchange = {"add": self.b.warp_add, "maximum": self.b.warp_maximum}[op]
        if self.width > 1:
            value = exchange(value, min(self.width, warp))
        if self.width <= warp:
            return value
        warps = self.scope.target.threads // warp
        shared = self.b.shared("warps", value.type.element, warps)
        number = self.b.quotient(self.thread, warp)
        first = self.b.below(self.b.remainder(self.thread, warp), 1)
        self.b.when(first, lambda: self.b.store(shared, number, value))
        self.b.barrier()
        together = self.width // warp
        start = affine(0)
        if together < warps:
            start = self.b.quotient(self.thread, self.width) * together
        total = self.b.load(shared, start, value.type)
        for k in range(1, together):
            other = self.b.load(shared, start + k, value.type)
            total = self.b.binary(op, total, other)
        return total

    # elements of a row

    def along(
        self,
        valid: Reg,
        regs: Regs,
        body: Callable[[Element, Reg, Regs], Regs],
    ) -> Regs:
        """``body(element, mask, regs)`` for the elements of a row that this thread has.

        Neighbouring threads have neighbouring elements.
        """
        inner = [self.shape[d] for d in self.reduced]
        whole = self.length % self.inner == 0
        start = self.b.remainder(self.lane, self.inner)
        if self.inner == self.width:
            start = self.lane

        def one(first: Affine, regs: Regs) -> Regs:
            number = first + start
            mask = valid
            if not whole:
                mask = self.b.both(valid, self.b.below(number, self.length))
            return body(Element(self.b, number, inner), mask, regs)

        return self.b.fold("k", 0, self.length, self.inner, regs, one)

    def place(self, strides: Sequence[int], row: Element, element: Element) -> Affine:
        """Where an operand with these strides has an element of a row."""
        index = row.at([strides[d] for d in self.kept])
        return index + element.at([strides[d] for d in self.reduced])

    @property
    def strides(self) -> list[int]:
        layout = self.operands.layouts[self.x]
        return [layout.stride(d) for d in range(layout.ndim)]

    def largest(self, row: Element, valid: Reg, type: Type) -> Reg:
        """The maximum of a row, in all threads that share it."""
        lowest = self.b.const(float("-inf"), type)

        def one(element: Element, mask: Reg, regs: Regs) -> Regs:
            index = self.place(self.strides, row, element)
            x = self.operands.load_where(mask, self.x, index, type)
            x = self.b.emit("select", type, mask, x, lowest)
            return (self.b.binary("maximum", regs[0], x),)

        (found,) = self.along(valid, (lowest,), one)
        return self.across("maximum", found)

    def store(self, out: Buffer, row: Element, valid: Reg, result: Reg) -> None:
        """The result of a row, behind the pointwise nodes that ride on it."""
        group = self.group

        def body() -> None:
            reg = result
            if group.inner:
                known = {group.anchor_output: result}
                reg = apply_at(
                    self.operands,
                    group.inner,
                    known,
                    result.type,
                    self._result_place(row),
                )
            self.b.store(out, row.number, reg)

        self.once(valid, body)

    def _result_place(self, row: Element) -> Place:
        """Where an operand of the shape of the result has the element of a row."""
        return lambda strides: row.at([strides[d] for d in self.kept])

"""Sums and means → a kernel, or two where the first dimension is summed in parts.

Enters a group whose anchor is a `Reduction` of kind ``sum`` or ``mean``, with the
pointwise nodes that make what it adds up. A block has the images of a short row; where
rows are long, or many, the images are cut into a fixed number of parts, and a second
kernel adds those in order. Invariant: the result does not depend on the order in which
blocks run, nor the number of parts on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitseq.ir.compute import Reduction
from jitseq.ir.graph import Value
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.layout import element_count
from jitseq.ir.program import Affine, Buffer, Reg, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element, apply_at, each_item
from jitseq.passes.grid.lowered import GridKernel, Scope
from jitseq.passes.grid.rows import Regs, Rows

ROWS_OF_BLOCKS = 256
"""Sums of single elements of images, up to which each is a block's: the elements that
its threads read at once are apart, so that many such blocks would read in vain."""

THREADS_WANTED = 1 << 16
"""As many keep the processor busy: a sum that has them is not cut further."""

LEAST_PART = 64
"""Elements of a part that are worth a thread."""


class Sum(Rows):
    """Sums and means; ``parts`` of the first dimension are added up apart."""

    def __init__(
        self, group: Group, record: Reduction, scope: Scope, divisor: int | None = None
    ) -> None:
        super().__init__(group, record, scope, split=0 in record.axes)
        self.divisor = self._count() if divisor is None else divisor
        self.rows = self.size(self.kept)
        self.parts = 1
        if self.split and self._fits_block():
            self.width = self.widest
        elif self.split:
            self.parts = self._parts()

    def _fits_block(self) -> bool:
        """Whether a block for each row is enough, so that nothing is left to add."""
        if self.length == 1:
            return self.rows <= ROWS_OF_BLOCKS
        return self.length <= self.widest

    def _parts(self) -> int:
        """As many as keep the processor busy, if each has enough to do."""
        wanted = -(-THREADS_WANTED // max(1, self.rows * self.width))
        most = min(wanted, self.scope.target.splits)
        if self.shape[0] is not None:
            work = self.shape[0] * self.length // (self.width * LEAST_PART)
            most = min(most, self.shape[0], work)
        return max(most, 1)

    def lower(self) -> list[GridKernel]:
        """The sums of all parts, then the sum of the parts."""
        output = self.group.output
        if self.parts == 1:
            return [self._sums(self.operands.write(output))]
        dtype = output.type.dtype
        parts = self.scope.temporary(dtype, (self.parts, self.rows))
        first = self._sums(self.operands.write(parts))
        total = add_parts(self.group, parts, output, self.scope, self.divisor)
        return [first, total]

    def _count(self) -> int:
        """The number of elements of a mean, which is never over the batch."""
        if self.record.kind == "sum":
            return 1
        assert not (self.split and self.shape[0] is None)
        return self.size(self.record.axes)

    def _sums(self, out: Buffer) -> GridKernel:
        type = Type(out.element)
        batched = self.x.type.has_batch and not self.split
        launch = self.launch(self.parts * self.rows, batched)
        item, valid = self.row(launch)
        number = item.number
        part = self.b.quotient(number, self.rows) if self.parts > 1 else affine(0)
        kept = number if self.parts == 1 else self.b.remainder(number, self.rows)
        row = Element(self.b, kept, [self.shape[d] for d in self.kept])
        total = self.across("add", self._total(row, part, valid, type))
        if self.parts > 1:
            self.once(valid, lambda: self.b.store(out, number, total))
            return self.scope.finish(self.group, self.operands, launch, "parts")
        self.store(out, row, valid, _divided(self.b, total, self.divisor))
        return self.scope.finish(self.group, self.operands, launch)

    def _total(self, row: Element, part: Affine, valid: Reg, type: Type) -> Reg:
        """Each step of the first dimension starts from zero: chains stay short."""
        zero = self.b.const(0.0, type)
        if not self.split:
            return self._row_sum(row, affine(0), valid, zero)
        count = self.shape[0]
        size = affine(self.b.count) if count is None else affine(count)
        together = self.width // self.inner
        step = self.parts * together
        whole = step == 1 or (count is not None and count % step == 0)
        start = part * together + self.b.quotient(self.lane, self.inner)

        def image(first: Affine, regs: Regs) -> Regs:
            n = first + start
            mask = valid if whole else self.b.both(valid, self.b.below(n, size))
            if self.length == 1:
                return (self._row_sum(row, n, mask, regs[0]),)
            return (self.b.binary("add", regs[0], self._row_sum(row, n, mask, zero)),)

        return self.b.fold("n", 0, size, step, (zero,), image)[0]

    def _row_sum(self, row: Element, n: Affine, valid: Reg, start: Reg) -> Reg:
        """``start`` and the elements of a row of image n that this thread has."""

        def one(element: Element, mask: Reg, regs: Regs) -> Regs:
            def place(strides: Sequence[int]) -> Affine:
                index = self.place(strides, row, element)
                return index + n * strides[0] if self.split else index

            return (self.b.binary("add", regs[0], self._term(place, mask, start.type)),)

        return self.along(valid, (start,), one)[0]

    def _term(
        self, place: Callable[[Sequence[int]], Affine], mask: Reg, type: Type
    ) -> Reg:
        """An element, or what the pointwise nodes before the sum make of several."""
        if not self.group.prologue:
            return self.operands.load_where(mask, self.x, place(self.strides), type)
        made = apply_at(self.operands, self.group.prologue, {}, type, place, mask)
        return self.b.emit("select", type, mask, made, self.b.const(0.0, type))


def add_parts(
    group: Group, parts: Value, output: Value, scope: Scope, divisor: int = 1
) -> GridKernel:
    """``output[i] = Σ_p parts[p, i] / divisor``, added up in order of p."""
    operands, launch = scope.operands(), scope.launch(output)
    b = operands.builder
    out = operands.write(output)
    source, type = operands.read(parts), Type(out.element)
    count, size = parts.type.shape[0], element_count(output.type)

    def element(number: Affine) -> None:
        def add(p: Affine, regs: Regs) -> Regs:
            part = b.load(source, number + p * size, type)
            return (b.binary("add", regs[0], part),)

        start = b.load(source, number, type)
        (total,) = b.fold("p", 1, count, 1, (start,), add)
        b.store(out, number, _divided(b, total, divisor))

    each_item(b, launch, element)
    return scope.finish(group, operands, launch, "total", cost=count * size)


def _divided(builder: GridBuilder, total: Reg, divisor: int) -> Reg:
    if divisor == 1:
        return total
    return builder.binary("div", total, builder.const(divisor, total.type))

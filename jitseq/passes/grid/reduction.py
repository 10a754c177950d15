"""Softmax, sums, means and maxima → kernels with a few threads for each row.

Enters a group whose anchor is a `Reduction`, or a `Window` that is a whole image;
kernels leave. A sum over the first dimension may take two (see `summation`).
"""

from __future__ import annotations

from jitseq.ir.compute import Reduction, Window
from jitseq.ir.kernel_builder import Vector, VectorScalars
from jitseq.ir.program import Affine, Buffer, Reg, Type
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element
from jitseq.passes.grid.lowered import GridKernel, Scope
from jitseq.passes.grid.rows import Regs, Rows
from jitseq.passes.grid.summation import Sum


def lower_reduction(group: Group, record: Reduction, scope: Scope) -> list[GridKernel]:
    """One kernel, or two where the first dimension is summed in parts."""
    if record.kind.endswith("softmax"):
        return [_Softmax(group, record, scope).lower()]
    if record.kind == "max":
        return [_Maximum(group, record, scope).lower()]
    return Sum(group, record, scope).lower()


def is_whole_image(record: Window, size: tuple[int, int]) -> bool:
    """Whether there is one window, and it reads every pixel."""
    axes = zip((record.rows, record.cols), size, strict=True)
    return all(axis.count == (extent,) for axis, extent in axes)


def lower_whole_image(group: Group, record: Window, scope: Scope) -> list[GridKernel]:
    """The maximum or average of each image's pixels, and the nodes that ride on it."""
    if record.kind == "max":
        return [_Maximum(group, Reduction("max", (2, 3), True), scope).lower()]
    divisor = record.divisor or record.rows.divisor[0] * record.cols.divisor[0]
    return Sum(group, Reduction("sum", (2, 3), True), scope, divisor).lower()


class _Maximum(Rows):
    def lower(self) -> GridKernel:
        out = self.operands.write(self.group.output)
        launch = self.launch(self.size(self.kept), self.x.type.has_batch)
        row, valid = self.row(launch)
        self.store(out, row, valid, self.largest(row, valid, Type(out.element)))
        return self.scope.finish(self.group, self.operands, launch)


class _Softmax(Rows):
    def lower(self) -> GridKernel:
        out = self.operands.write(self.group.output)
        launch = self.launch(self.size(self.kept), self.x.type.has_batch)
        row, valid = self.row(launch)
        self._softmax(row, valid, out, Type(out.element))
        return self.scope.finish(self.group, self.operands, launch)

    def _softmax(self, row: Element, valid: Reg, out: Buffer, type: Type) -> None:
        """Subtract the row's maximum, add up the exponentials, scale."""
        m = VectorScalars(self.b, type)
        peak = Vector(m, self.largest(row, valid, type))
        zero = self.b.const(0.0, type)
        strides = self.strides

        def shifted(index: Affine, mask: Reg | None) -> Vector:
            return Vector(m, self.operands.load_where(mask, self.x, index, type)) - peak

        def add(element: Element, mask: Reg, regs: Regs) -> Regs:
            power = m.exp(shifted(self.place(strides, row, element), mask)).reg
            term = self.b.emit("select", type, mask, power, zero)
            return (self.b.binary("add", regs[0], term),)

        (total,) = self.along(valid, (zero,), add)
        total = self.across("add", total)
        logarithmic = self.record.kind == "log_softmax"
        scale = m.log(Vector(m, total)) if logarithmic else 1.0 / Vector(m, total)

        def finish(element: Element, mask: Reg, regs: Regs) -> Regs:
            index = self.place(strides, row, element)

            def store() -> None:
                x = shifted(index, None)
                result = x - scale if logarithmic else m.exp(x) * scale
                self.b.store(out, index, result.reg)

            self.b.when(mask, store)
            return ()

        self.along(valid, (), finish)

"""Pooling on its own → kernels with vectors along the channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitseq.ir.compute import AxisWindows, Window
from jitseq.ir.program import Affine, Reg, Type
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import Operands, Position, apply_chain, store_at
from jitseq.passes.lower.pool_kernel import channel_vectors
from jitseq.passes.lower.problem import image_count

UNROLLED_WINDOW = 16


def lower_window(
    group: Group, record: Window, operands: Operands, target: Target
) -> None:
    """Loop over outputs; combine a window for a few channel vectors at a time."""
    node = group.anchor
    assert node is not None
    operands.read(node.inputs[0])
    out, layout = operands.write(group.output), operands.layouts[group.output]
    clear_halo(operands, out, layout, target.lanes(out.element))
    _Pool(group, record, operands, target).emit()


class _Pool:
    def __init__(
        self, group: Group, record: Window, operands: Operands, target: Target
    ) -> None:
        assert group.anchor is not None
        self.b = operands.builder
        self.group = group
        self.record = record
        self.operands = operands
        self.x = group.anchor.inputs[0]
        self.source = operands.read(self.x)
        self.layout = operands.layouts[self.x]
        self.channels = self.x.type.shape[1]
        self.type = Type(self.source.element, target.lanes(self.source.element))

    def emit(self) -> None:
        rows, columns = len(self.record.rows.start), len(self.record.cols.start)
        images = image_count(self.b, self.layout.dims[0][0][0])
        self.b.nest(("n", "y", "x"), (images, rows, columns), self._output)

    def _output(self, n: Affine, y: Affine, x: Affine) -> None:
        channel_vectors(
            self.b,
            self.channels,
            self.type.lanes,
            lambda vectors: self._channels(n, y, x, vectors),
        )

    def _channels(
        self,
        n: Affine,
        y: Affine,
        x: Affine,
        vectors: Sequence[tuple[Affine, int | None]],
    ) -> None:
        first = float("-inf") if self.record.kind == "max" else 0.0
        start = tuple(self.b.const(first, self.type) for _ in vectors)
        op = "maximum" if self.record.kind == "max" else "add"
        base = n * self.layout.stride(0) + self.layout.offset

        def visit(at: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            loaded = [
                self.b.load(
                    self.source, at + c * self.layout.stride(1), self.type, valid
                )
                for c, valid in vectors
            ]
            return tuple(
                self.b.binary(op, v, s) for s, v in zip(sums, loaded, strict=True)
            )

        def row(at: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            return self._walk(
                self.record.cols, x, self.layout.stride(3), at, sums, visit
            )

        totals = self._walk(
            self.record.rows, y, self.layout.stride(2), base, start, row
        )
        for (c, valid), total in zip(vectors, totals, strict=True):
            self._store(Position((n, c, y, x), 1, valid), self._divided(total, y, x))

    def _walk(
        self,
        windows: AxisWindows,
        index: Affine,
        stride: int,
        at: Affine,
        sums: tuple[Reg, ...],
        visit: Callable[[Affine, tuple[Reg, ...]], tuple[Reg, ...]],
    ) -> tuple[Reg, ...]:
        """Visit the positions of one window along one axis."""
        start = self.b.table(windows.start, index) * stride + at
        step = windows.step * stride
        counts = set(windows.count)
        if len(counts) == 1 and windows.count[0] <= UNROLLED_WINDOW // 4:
            for k in range(windows.count[0]):
                sums = visit(start + k * step, sums)
            return sums
        count = self.b.table(windows.count, index)
        return self.b.fold(
            "k", 0, count, 1, sums, lambda k, s: visit(start + k * step, s)
        )

    def _divided(self, total: Reg, y: Affine, x: Affine) -> Reg:
        """An average's sum over its divisor, which may differ at the borders."""
        if self.record.kind == "max":
            return total
        rows, columns = self.record.rows.divisor, self.record.cols.divisor
        if self.record.divisor is not None:
            divisor = self.b.const(self.record.divisor, self.type)
        elif len(set(rows)) == len(set(columns)) == 1:
            divisor = self.b.const(rows[0] * columns[0], self.type)
        else:
            factors = [
                self.b.to_float(self.b.table(values, index), self.type)
                for values, index in ((rows, y), (columns, x))
            ]
            divisor = self.b.binary("mul", *factors)
        return self.b.binary("div", total, divisor)

    def _store(self, at: Position, reg: Reg) -> None:
        group = self.group
        reg = apply_chain(self.operands, group.inner, group.anchor_output, reg, at)
        store_at(self.operands, group.output, reg, at)

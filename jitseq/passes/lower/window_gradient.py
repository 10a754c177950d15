"""The index of each window's maximum, and the gradients of pooling → kernels.

Enter the record of the forward op's windows and channels-last images. Invariant:
every element of a gradient is computed on its own, nothing is scattered. Windows that
do not overlap are read once and write all their positions; for the others see
`window_collect`.
"""

from __future__ import annotations

from collections.abc import Callable

from jitseq.ir.compute import AxisWindows, WindowGradient, WindowIndex
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import Operands, Position
from jitseq.passes.lower.pool_kernel import GradientKernel, PoolKernel, Vectors
from jitseq.passes.lower.window_collect import Collect

UNROLLED_TAPS = 16
"""A larger window has its positions in a loop."""


def lower_window_index(
    group: Group, record: WindowIndex, operands: Operands, target: Target
) -> None:
    """``[n, C, H, W]`` → the tap of each window's maximum, ``[n, C, OH, OW]`` integers.

    The meaning, with equal maxima and NaN, is that of
    `jitseq.ir.ops.pool_grad.largest_tap`.
    """
    _Index(group, record, operands, target).emit()


def lower_window_gradient(
    group: Group, record: WindowGradient, operands: Operands, target: Target
) -> None:
    """g (and the index) ``[n, C, OH, OW]`` → dx ``[n, C, H, W]``, and its epilogue.

    The meaning is that of `jitseq.ir.ops.pool_grad.max_gradient` and
    ``average_gradient``.
    """
    out, layout = operands.write(group.output), operands.layouts[group.output]
    clear_halo(operands, out, layout, target.lanes(out.element))
    windows = record.forward
    rows, cols = windows.rows.uniform, windows.cols.uniform
    apart = rows and cols and rows[0] <= rows[1] and cols[0] <= cols[1]
    if apart and rows and cols and rows[0] * cols[0] <= UNROLLED_TAPS:
        _Spread(group, record, operands, target).emit(rows, cols)
    else:
        Collect(group, record, operands, target).emit()


class _Index(PoolKernel):
    def __init__(
        self, group: Group, record: WindowIndex, operands: Operands, target: Target
    ) -> None:
        super().__init__(group, record.forward, operands, target)

    def emit(self) -> None:
        rows, cols = len(self.windows.rows.start), len(self.windows.cols.start)
        self.b.nest(
            ("n", "y", "x"),
            (self.images, rows, cols),
            lambda n, y, x: self.over_channels(lambda v: self._window(n, y, x, v)),
        )

    def _window(self, n: Affine, y: Affine, x: Affine, vectors: Vectors) -> None:
        width = max(self.windows.cols.count)
        lowest = self.b.const(float("-inf"), self.type)
        regs = (lowest, self.zero()) * len(vectors)

        def visit(
            row: Affine, ty: Affine, column: Affine, tx: Affine, regs: tuple[Reg, ...]
        ) -> tuple[Reg, ...]:
            tap = self._number(ty * width + tx)
            found: list[Reg] = []
            for k, (c, valid) in enumerate(vectors):
                value = self.load(0, (n, c, row, column), valid)
                found += self._larger(value, tap, *regs[2 * k : 2 * k + 2])
            return tuple(found)

        regs = self._walk(
            self.windows.rows, y, regs,
            lambda row, ty, outer: self._walk(
                self.windows.cols, x, outer,
                lambda column, tx, inner: visit(row, ty, column, tx, inner),
            ),
        )  # fmt: skip
        for (c, valid), index in zip(vectors, regs[1::2], strict=True):
            self.store(Position((n, c, y, x), 1, valid), index)

    def _larger(self, value: Reg, tap: Reg, best: Reg, index: Reg) -> tuple[Reg, Reg]:
        mask = Type("mask", self.type.lanes)
        more = self.b.emit("gt", mask, value, best)
        nan = self.b.emit("unordered", mask, value, value)
        better = self.b.emit("select", mask, more, more, nan)
        return (
            self.b.emit("select", self.type, better, value, best),
            self.b.emit("select", self.type, better, tap, index),
        )

    def _number(self, tap: Affine) -> Reg:
        if tap.terms:
            return self.b.to_float(tap, self.type)
        return self.b.const(tap.const, self.type)

    def _walk(
        self,
        windows: AxisWindows,
        index: Affine,
        regs: tuple[Reg, ...],
        visit: Callable[[Affine, Affine, tuple[Reg, ...]], tuple[Reg, ...]],
    ) -> tuple[Reg, ...]:
        """``visit(position, tap, regs)`` along one axis of a window."""
        start = self.b.table(windows.start, index)

        def one(tap: Affine, regs: tuple[Reg, ...]) -> tuple[Reg, ...]:
            return visit(start + tap * windows.step, tap, regs)

        if len(set(windows.count)) == 1 and self.taps <= UNROLLED_TAPS:
            for tap in range(windows.count[0]):
                regs = one(affine(tap), regs)
            return regs
        return self.b.fold("t", 0, self.b.table(windows.count, index), 1, regs, one)


class _Spread(GradientKernel):
    """Windows apart from each other: each is read once and writes its positions."""

    def emit(self, rows: tuple[int, int], cols: tuple[int, int]) -> None:
        shape = (len(self.windows.rows.start), len(self.windows.cols.start))
        bare = [
            tuple(_uncovered(size, len(axis.start), *window))
            for size, axis, window in zip(
                self.size,
                (self.windows.rows, self.windows.cols),
                (rows, cols),
                strict=True,
            )
        ]

        def image(n: Affine) -> None:
            self.b.nest(
                ("y", "x"), shape,
                lambda y, x: self.over_channels(
                    lambda v: self._window(n, y, x, v, rows, cols)
                ),
            )  # fmt: skip
            self._clear(n, bare[0], tuple(range(self.size[1])))
            covered = tuple(h for h in range(self.size[0]) if h not in bare[0])
            self._clear(n, covered, bare[1])

        self.b.loop("n", 0, self.images, 1, image)

    def _window(
        self,
        n: Affine,
        y: Affine,
        x: Affine,
        vectors: Vectors,
        rows: tuple[int, int],
        cols: tuple[int, int],
    ) -> None:
        gradients = [self.load(0, (n, c, y, x), valid) for c, valid in vectors]
        if self.is_max:
            indices = [self.load(1, (n, c, y, x), valid) for c, valid in vectors]
        else:
            divisor = self.divisor
            assert divisor is not None, "whole windows have one divisor"
            gradients = [self.scaled(g, divisor) for g in gradients]
        for ty in range(rows[0]):
            for tx in range(cols[0]):
                for k, (c, valid) in enumerate(vectors):
                    value = gradients[k]
                    if self.is_max:
                        tap = self.b.const(ty * cols[0] + tx, self.type)
                        value = self.chosen(indices[k], tap, value)
                    place = (n, c, y * rows[1] + ty, x * cols[1] + tx)
                    self.store(Position(place, 1, valid), value)

    def _clear(self, n: Affine, rows: tuple[int, ...], cols: tuple[int, ...]) -> None:
        """What no window covers has gradient zero."""

        def element(i: Affine, j: Affine) -> None:
            h, w = self.b.table(rows, i), self.b.table(cols, j)
            self.over_channels(lambda vectors: self._zeros(n, h, w, vectors))

        self.b.nest(("h", "w"), (len(rows), len(cols)), element)

    def _zeros(self, n: Affine, h: Affine, w: Affine, vectors: Vectors) -> None:
        for c, valid in vectors:
            self.store(Position((n, c, h, w), 1, valid), self.zero())


def _uncovered(size: int, count: int, window: int, stride: int) -> list[int]:
    last = stride * count
    return [p for p in range(size) if p >= last or p % stride >= window]

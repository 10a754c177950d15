"""The positions of pooling windows along one axis, as index arithmetic.

Enters an `AxisWindows`; leave, for the window with a number that is known when the
kernel runs, the positions that it reads, and for a position the windows that hold it.
Each comes with a mask that says whether it exists, since all threads run a loop equally
often. Windows in even steps need a division at most, others tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jitseq.ir.compute import AxisWindows
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.ops.pool_grad import covers
from jitseq.ir.program import INDEX, Affine, Reg, affine


@dataclass(frozen=True)
class Visit:
    """A position that a window reads, or a window that holds a position.

    ``tap`` is the number of the position in its window; both are right where ``mask``
    is true (or None).
    """

    index: Affine
    tap: Affine
    mask: Reg | None


Visits = Callable[[Affine], Visit]
"""The visit with a number, which may be known only when the kernel runs."""


def both(builder: GridBuilder, masks: Iterable[Reg | None]) -> Reg | None:
    """Whether all masks are true; None stands for a mask that always is."""
    joined: Reg | None = None
    for mask in masks:
        if mask is not None:
            joined = mask if joined is None else builder.both(joined, mask)
    return joined


@dataclass(frozen=True)
class EvenAxis:
    """Window i reads ``stride i - pad + step t`` for t < taps, inside of the input."""

    windows: AxisWindows
    size: int
    taps: int
    stride: int
    pad: int

    @property
    def depth(self) -> int:
        """The most windows that hold a position, were there more of them."""
        return -(-((self.taps - 1) * self.windows.step + 1) // self.stride)

    def reads(self, b: GridBuilder, window: Affine) -> Visits:
        """What a window reads, by tap, counted as if nothing were cut off."""
        start = window * self.stride + -self.pad
        whole = set(self.windows.count) == {self.taps}
        cut = self._cut(b, start)

        def read(tap: Affine) -> Visit:
            index = start + tap * self.windows.step
            mask = None if whole else b.inside(index, self.size)
            return Visit(index, tap + cut * -1, mask)

        return read

    def holders(self, b: GridBuilder, position: Affine) -> Visits:
        """The windows that hold a position, the first one first."""
        step, stride = self.windows.step, self.stride
        at = position + self.pad
        last, rest = b.quotient(at, stride), b.remainder(at, stride)
        farthest = self.depth * stride - 1

        def holder(k: Affine) -> Visit:
            back = k * -1 + (self.depth - 1)
            window, distance = last + back * -1, rest + back * stride
            tap = b.quotient(distance, step)
            masks = [b.inside(window, len(self.windows.start))]
            if farthest // step >= self.taps:
                masks.append(b.below(tap, self.taps))
            if step > 1:
                masks.append(b.below(b.remainder(distance, step), 1))
            cut = self._cut(b, window * stride + -self.pad)
            return Visit(window, tap + cut * -1, both(b, masks))

        return holder

    def _cut(self, b: GridBuilder, start: Affine) -> Affine:
        """Taps before the input: others are counted from the first one inside."""
        if self.pad == 0:
            return affine(0)
        before = affine(b.emit("imax", INDEX, affine(0), start * -1))
        return b.quotient(before + (self.windows.step - 1), self.windows.step)


@dataclass(frozen=True)
class UnevenAxis:
    """Windows of any sizes, at any places: looked up in tables."""

    windows: AxisWindows
    size: int

    @property
    def taps(self) -> int:
        return max(self.windows.count)

    @property
    def depth(self) -> int:
        return len(covers(self.windows, self.size))

    def reads(self, b: GridBuilder, window: Affine) -> Visits:
        """What a window reads, by tap."""
        start = b.table(self.windows.start, window)
        count = b.table(self.windows.count, window)
        whole = len(set(self.windows.count)) == 1

        def read(tap: Affine) -> Visit:
            mask = None if whole else b.below(tap, count)
            return Visit(start + tap * self.windows.step, tap, mask)

        return read

    def holders(self, b: GridBuilder, position: Affine) -> Visits:
        """The windows that hold a position, the first one first."""
        found, size = covers(self.windows, self.size), range(self.size)
        counts = [sum(int(c.valid[p]) for c in found) for p in size]
        windows = [int(c.window[p]) for p in size for c in found]
        taps = [max(int(c.tap[p]), 0) for p in size for c in found]
        count, first = b.table(counts, position), position * self.depth

        def holder(k: Affine) -> Visit:
            mask = b.below(k, count)
            return Visit(b.table(windows, first + k), b.table(taps, first + k), mask)

        return holder


Axis = EvenAxis | UnevenAxis


def axis_of(windows: AxisWindows, size: int) -> Axis:
    """Even steps where the windows are what is left of even ones in ``size`` places."""
    start, taps = windows.start, max(windows.count)
    stride = start[-1] - start[-2] if len(start) > 1 else 1
    even = EvenAxis(windows, size, taps, stride, stride * (len(start) - 1) - start[-1])
    if stride < 1 or even.pad < 0:
        return UnevenAxis(windows, size)
    for i, (first, count) in enumerate(zip(start, windows.count, strict=True)):
        full = [i * stride - even.pad + windows.step * t for t in range(taps)]
        inside = [p for p in full if 0 <= p < size]
        if inside != [first + windows.step * t for t in range(count)]:
            return UnevenAxis(windows, size)
    return even

"""Pooling gradients where windows overlap, are padded, or are of different sizes.

Each element of dx adds up what the windows that hold it give. Tables list those
windows for each row and each column, so no kernel looks at a window in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jitseq.ir.compute import AxisWindows
from jitseq.ir.ops.pool_grad import covers
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.passes.lower.operands import Position
from jitseq.passes.lower.pool_kernel import GradientKernel, Vectors

UNROLLED_HOLDERS = 4


@dataclass(frozen=True)
class _Holders:
    """For each position of an axis: how many windows hold it, which, by which tap."""

    count: tuple[int, ...]
    window: tuple[int, ...]
    tap: tuple[int, ...]

    @staticmethod
    def of(windows: AxisWindows, size: int) -> _Holders:
        found = covers(windows, size)
        count = tuple(sum(int(c.valid[p]) for c in found) for p in range(size))
        window = tuple(int(c.window[p]) for p in range(size) for c in found)
        tap = tuple(max(int(c.tap[p]), 0) for p in range(size) for c in found)
        return _Holders(count, window, tap)


class Collect(GradientKernel):
    """Each element adds up what the windows that hold it give."""

    def emit(self) -> None:
        rows = _Holders.of(self.windows.rows, self.size[0])
        cols = _Holders.of(self.windows.cols, self.size[1])
        self.b.nest(
            ("n", "h", "w"),
            (self.images, *self.size),
            lambda n, h, w: self.over_channels(
                lambda vectors: self._element(n, (h, w), (rows, cols), vectors)
            ),
        )

    def _element(
        self,
        n: Affine,
        place: tuple[Affine, Affine],
        holders: tuple[_Holders, _Holders],
        vectors: Vectors,
    ) -> None:
        divisor = None if self.is_max else self.divisor

        def visit(
            window: tuple[Affine, Affine],
            tap: tuple[Affine, Affine],
            sums: tuple[Reg, ...],
        ) -> tuple[Reg, ...]:
            places = [(n, c, *window) for c, _ in vectors]
            terms = [self.load(0, at, v) for at, (_, v) in zip(places, vectors)]
            if self.is_max:
                number = tap[0] * max(self.windows.cols.count) + tap[1]
                own = self.b.to_float(number, self.type)
                terms = [
                    self.chosen(self.load(1, at, valid), own, term)
                    for at, (_, valid), term in zip(places, vectors, terms)
                ]
            elif divisor is None:
                factor = self._share(*window)
                terms = [self.b.binary("mul", term, factor) for term in terms]
            return tuple(map(self._add, sums, terms))

        sums = self._over(
            holders[0], place[0], tuple(self.zero() for _ in vectors),
            lambda y, ty, outer: self._over(
                holders[1], place[1], outer,
                lambda x, tx, inner: visit((y, x), (ty, tx), inner),
            ),
        )  # fmt: skip
        for (c, valid), total in zip(vectors, sums, strict=True):
            if divisor is not None:
                total = self.scaled(total, divisor)
            self.store(Position((n, c, *place), 1, valid), total)

    def _add(self, a: Reg, b: Reg) -> Reg:
        return self.b.binary("add", a, b)

    def _share(self, y: Affine, x: Affine) -> Reg:
        """1 over the divisor of a window."""
        scalar = Type(self.type.element)
        divisors = [
            self.b.to_float(self.b.table(axis.divisor, index), scalar)
            for axis, index in ((self.windows.rows, y), (self.windows.cols, x))
        ]
        one = self.b.const(1.0, scalar)
        share = self.b.binary("div", one, self.b.binary("mul", *divisors))
        return self.b.splat(share, self.type)

    def _over(
        self,
        holders: _Holders,
        position: Affine,
        sums: tuple[Reg, ...],
        visit: Callable[[Affine, Affine, tuple[Reg, ...]], tuple[Reg, ...]],
    ) -> tuple[Reg, ...]:
        """``visit(window, tap, sums)`` for each window that holds the position."""
        depth = len(holders.window) // len(holders.count)

        def one(k: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            at = position * depth + k
            window = self.b.table(holders.window, at)
            return visit(window, self.b.table(holders.tap, at), sums)

        if set(holders.count) == {depth} and depth <= UNROLLED_HOLDERS:
            for k in range(depth):
                sums = one(affine(k), sums)
            return sums
        return self.b.fold("k", 0, self.b.table(holders.count, position), 1, sums, one)

"""Sums of outer products over the pixels of many images: one register tile.

``out[row, column] += Σ_p a[p, row] · b[p, column]``: vectors run along the columns of
b, each row is one broadcast element of a. The numbers of an `OuterProduct` and the
place of a tile enter; its instructions leave. Invariant: a tile holds its sums in
registers for all its pixels, then adds them to memory; it overwrites nothing.

A row of ones gives the totals of b: the gradient of a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitseq.ir.program import Affine, Buffer, Pointer, Reg
from jitseq.passes.lower.problem import Walk

if TYPE_CHECKING:
    from jitseq.passes.lower.product_loops import OuterProductEmitter


@dataclass(frozen=True)
class Row:
    """An element of a, by its distance from the pixel, and the row of out."""

    shift: int
    out: int


ONES: Row | None = None
"""The row whose elements are all 1."""


Block = tuple[int, int, int, int]
"""Pixels by rows and columns: ``(y0, y1, x0, x1)``, stops not included."""


@dataclass(frozen=True)
class Place:
    """One position of all rows: shifts of a and out, and the pixels that it reads."""

    a: int
    out: int
    pixels: Block

    def within(self, block: Block) -> Block:
        """The pixels that are in ``block`` too; empty ranges stop where they start."""
        own_y0, own_y1, own_x0, own_x1 = self.pixels
        y0, x0 = max(own_y0, block[0]), max(own_x0, block[2])
        return (y0, max(y0, min(own_y1, block[1])), x0, max(x0, min(own_x1, block[3])))


@dataclass(frozen=True)
class Outer:
    """A loop around everything; strides of a, b, out and the totals."""

    extent: int
    a: int
    b: int
    out: int
    totals: int = 0


@dataclass(frozen=True)
class OuterProduct:
    """All numbers of a sum of outer products.

    ``columns`` are the elements of a row of out, ``column`` elements of b apart.
    ``size`` are rows and columns of pixels; ``pixel_bytes`` is what a and b hold for
    one. Every row is computed at every place.
    """

    images: Affine
    size: tuple[int, int]
    a: Walk
    b: Walk
    column: int
    columns: int
    outer: tuple[Outer, ...]
    rows: tuple[Row, ...]
    places: tuple[Place, ...]
    out_offset: int = 0
    pixel_bytes: int = 1

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class At:
    """Where a tile is: its images, its block of pixels, and the three addresses."""

    first: Affine
    last: Affine
    block: Affine
    a: Affine
    b: Affine
    out: Affine
    totals: Affine
    y: tuple[Affine, Affine] = (Affine(), Affine())
    x: tuple[Affine, Affine] = (Affine(), Affine())


@dataclass(frozen=True)
class Shape:
    """The rows of a tile, its vectors, and the valid lanes of the last one."""

    rows: tuple[Row | None, ...]
    vectors: int
    valid: int | None


class ProductTile:
    """One register tile: sums over its pixels, then one addition to memory."""

    def __init__(self, outer: OuterProductEmitter, at: At, shape: Shape) -> None:
        self.o = outer
        self.b = outer.b
        self.p = outer.p
        self.at = at
        self.shape = shape
        self.accumulators = len(shape.rows) * shape.vectors

    def emit(self) -> None:
        if self.o.prefetches:
            for buffer, index in self._targets():
                self.b.prefetch(buffer, index)
        sums = self._sums()
        for k, reg in enumerate(sums):
            self._add(k, reg)

    def _targets(self) -> list[tuple[Buffer, Affine]]:
        """What the tile adds to, without the totals."""
        return [
            (self.o.out, self.at.out + row.out + v * self.o.lanes)
            for row in self.shape.rows
            if row is not None
            for v in range(self.shape.vectors)
        ]

    def _valid(self, v: int) -> int | None:
        return self.shape.valid if v == self.shape.vectors - 1 else None

    def _add(self, k: int, reg: Reg) -> None:
        row, v = divmod(k, self.shape.vectors)
        entry, valid, shift = self.shape.rows[row], self._valid(v), v * self.o.lanes
        places = [(buffer, self.at.totals + shift) for buffer in self.o.totals]
        if entry is not None:
            places = [(self.o.out, self.at.out + entry.out + shift)]
        for buffer, index in places:
            old = self.b.load(buffer, index, self.o.type, valid)
            self.b.store(buffer, index, self.b.binary("add", old, reg), valid)

    # the sums

    def _chains(self) -> int:
        """Independent sums, so that products need not wait for each other."""
        chains, vectors = 1, self.shape.vectors
        free = self.o.registers - 2 - (self.shape.valid is not None)
        while self.accumulators * chains < self.o.busy:
            if (self.accumulators + vectors) * chains * 2 > free:
                break
            chains *= 2
        return chains

    def _sums(self) -> tuple[Reg, ...]:
        a, b = self.p.a, self.p.b
        axes = [
            ("n", self.at.first, self.at.last, a.image, b.image),
            ("y", *self.at.y, a.row, b.row),
            ("x", *self.at.x, a.column, b.column),
        ]
        while len(axes) > 1 and self.p.size[len(axes) - 2] == 1:
            axes.pop()  # every place reads the only one
        chains = self._chains()
        zero = self.b.const(0.0, self.o.type)
        carried = (zero,) * (self.accumulators * chains)

        def level(
            depth: int, at_a: Affine, at_b: Affine, sums: tuple[Reg, ...]
        ) -> tuple[Reg, ...]:
            name, start, stop, step_a, step_b = axes[depth]
            if depth == len(axes) - 1:
                return self._innermost(
                    at_a, at_b, (start, stop), (step_a, step_b), sums, chains
                )

            def inside(i: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
                return level(depth + 1, at_a + i * step_a, at_b + i * step_b, sums)

            if name == "n" and self.o.chunk == 1:
                return inside(start, sums)
            return self.b.fold(name, start, stop, 1, sums, inside)

        sums = level(0, self.at.a, self.at.b, carried)
        while len(sums) > self.accumulators:
            half = len(sums) // 2
            pairs = zip(sums[:half], sums[half:], strict=True)
            sums = tuple(self.b.binary("add", one, two) for one, two in pairs)
        return sums

    def _innermost(
        self,
        at_a: Affine,
        at_b: Affine,
        bounds: tuple[Affine, Affine],
        steps: tuple[int, int],
        sums: tuple[Reg, ...],
        chains: int,
    ) -> tuple[Reg, ...]:
        """Consecutive pixels, ``chains`` at a time."""
        start, stop = bounds
        source = self.b.pin(self.o.source, at_a)
        other = self.b.pin(self.o.other, at_b)

        def body(count: int) -> Callable[[Affine, tuple[Reg, ...]], tuple[Reg, ...]]:
            def pixels(x: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
                for c in range(count):
                    shifts = ((x + c) * steps[0], (x + c) * steps[1])
                    sums = self._pixel(source, other, shifts, sums, c)
                return sums

            return pixels

        if chains == 1:
            return self.b.fold("x", start, stop, 1, sums, body(1))
        whole = start + self.b.round_down(stop + start * -1, chains)
        sums = self.b.fold("x", start, whole, chains, sums, body(chains))
        return self.b.fold("x", whole, stop, 1, sums, body(1))

    def _pixel(
        self,
        source: Pointer,
        other: Pointer,
        shifts: tuple[Affine, Affine],
        sums: tuple[Reg, ...],
        chain: int,
    ) -> tuple[Reg, ...]:
        type, width, column = self.o.type, self.shape.vectors, self.p.column
        result = list(sums)
        vectors = [
            self.b.gather(
                other, shifts[1] + v * self.o.lanes * column, type, column,
                self._valid(v),
            )
            for v in range(width)
        ]  # fmt: skip
        k = chain * self.accumulators
        for row in self.shape.rows:
            element = None
            if row is not None:
                element = self.b.load_splat(source, shifts[0] + row.shift, type)
            for vector in vectors:
                if element is None:
                    result[k] = self.b.binary("add", result[k], vector)
                else:
                    result[k] = self.b.fma(element, vector, result[k])
                k += 1
        return tuple(result)

"""Sums of products by blocks of threads: panels in shared memory, tiles in registers.

A block computes ``lines × columns`` sums. In each step all its threads bring ``depth``
products of the lines (panel a) and of the columns (panel b) to shared memory; between
two barriers each thread multiplies its ``rows × columns`` of them. The elements of the
next step are loaded into registers before the present one is computed, so that the
products hide the time that they take.

What the lines, columns and products are, an `Operand` says. Invariant: elements of
lines and columns behind the last one are loaded from inside of the operand, and
nobody stores their sums; products behind the last one are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.program import Affine, Buffer, Reg, Type, affine
from jitseq.ir.target import GridTarget
from jitseq.passes.grid.panel import Operand, Panel, PanelLoader

L = TypeVar("L")
P = TypeVar("P")
M = TypeVar("M")
Q = TypeVar("Q")

DEEPER = 4
"""How many times `GridTarget.depth` products a narrow tile takes in a step."""

LOADS = 4
"""Loads of a thread in a step up to which a tile is made deeper."""


RUNS = (2, 4)
"""Lines of a thread that lie side by side and are loaded from shared memory at once,
where neighbouring threads have other lines and where they have the same. Neighbouring
results are stored by neighbouring threads, so the first number is small."""


@dataclass(frozen=True)
class TileShape:
    """Threads along lines and columns, what each computes, and products in a step."""

    line_threads: int
    column_threads: int
    rows: int
    columns: int
    depth: int

    @property
    def threads(self) -> int:
        return self.line_threads * self.column_threads

    @property
    def lines(self) -> int:
        """Lines of a block."""
        return self.line_threads * self.rows

    @property
    def block_columns(self) -> int:
        return self.column_threads * self.columns


def choose_shape(
    target: GridTarget, columns: int, products: int, window: int = 1
) -> TileShape:
    """The tile for so many columns, whose threads hold whole pooling windows.

    Fewer columns than those of the target's tile are given to fewer threads, and more
    lines to the others; a panel has as many lines as the target's blocks have threads,
    at most, so that it fits shared memory.
    """
    most_rows, most_wide = target.thread_tile
    threads = target.tile[0] // most_rows * (target.tile[1] // most_wide)
    across = min(target.tile[1] // most_wide, power_of_two(-(-columns // most_wide)))
    rows = max(window, min(most_rows, across) // window * window)
    along = max(1, threads // max(across, power_of_two(rows)))
    across = max(across, target.warp // along)
    wide = max(1, min(most_wide, most_rows * most_wide // rows))
    wide = _balanced(columns, across, wide)
    shape = TileShape(along, across, rows, wide, target.depth)
    return _with_depth(shape, products, target)


def finer(target: GridTarget) -> GridTarget:
    """With smaller tiles of as many threads, so that there are more blocks."""
    (rows, wide), (lines, columns) = target.thread_tile, target.tile
    fine = max(1, rows // 4), max(1, wide // 2)
    tile = lines // rows * fine[0], columns // wide * fine[1]
    return replace(target, tile=tile, thread_tile=fine)


def choose_matrix_shape(target: GridTarget, lines: int, columns: int) -> TileShape:
    """The tile for so many lines and columns, whose products are many.

    Where lines and columns are few, threads compute less of them each. A panel has as
    many lines as the target's blocks have threads, at most.
    """
    rows, wide = target.thread_tile
    most = target.tile[0] // rows * (target.tile[1] // wide)
    across = min(target.tile[1] // wide, power_of_two(-(-columns // wide)))
    along = min(most // across, power_of_two(-(-lines // rows)))
    rows = min(rows, most // along)
    while along * across < most and rows * wide > 1:
        if rows >= wide:
            rows, along = -(-rows // 2), 2 * along
        else:
            wide, across = -(-wide // 2), 2 * across
    rows, wide = _balanced(lines, along, rows), _balanced(columns, across, wide)
    return _with_depth(TileShape(along, across, rows, wide, target.depth), None, target)


def power_of_two(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _balanced(extent: int, threads: int, each: int) -> int:
    """What each thread computes where all tiles of an extent are alike."""
    tiles = -(-extent // (threads * each))
    return -(-extent // (threads * tiles))


def _with_depth(
    shape: TileShape, products: int | None, target: GridTarget
) -> TileShape:
    """Deeper where a thread loads little in a step, not deeper than there is to sum."""
    threads, depth = shape.threads, min(target.depth, shape.threads)
    most = min(DEEPER * depth, threads)
    loads = (shape.lines + shape.block_columns) / threads
    while 2 * depth <= most and loads * depth < LOADS:
        depth *= 2
    while products is not None and depth > 1 and depth // 2 >= products:
        depth //= 2
    return replace(shape, depth=depth)


class ProductTile:
    """Emits the sums of one block; each thread keeps its own."""

    def __init__(
        self,
        builder: GridBuilder,
        type: Type,
        shape: TileShape,
        target: GridTarget,
        columns_first: bool,
    ) -> None:
        """``columns_first``: neighbouring threads have neighbouring columns."""
        self.b = builder
        self.type = type
        self.shape = shape
        self.warp = target.warp
        self.thread = builder.thread()
        across = shape.column_threads if columns_first else shape.line_threads
        low = builder.remainder(self.thread, across)
        high = builder.quotient(self.thread, across)
        near, far = RUNS
        if columns_first:
            self.line_thread, self.column_thread = high, low
            runs = far, near
        else:
            self.line_thread, self.column_thread = low, high
            runs = near, far
        self.row_run = math.gcd(runs[0], shape.rows)
        self.column_run = math.gcd(runs[1], shape.columns)

    def line(self, row: Affine) -> Affine:
        """The line of the block that is a thread's ``row``."""
        return self._place(row, self.line_thread, self.row_run, self.shape.line_threads)

    def column(self, column: Affine) -> Affine:
        """The column of the block that is a thread's ``column``."""
        threads = self.shape.column_threads
        return self._place(column, self.column_thread, self.column_run, threads)

    def _place(self, own: Affine, thread: Affine, run: int, threads: int) -> Affine:
        """Runs of a thread's lines lie side by side, those of all threads in turn."""
        runs, rest = self.b.quotient(own, run), self.b.remainder(own, run)
        return runs * (run * threads) + thread * run + rest

    def thread_and_row(self, line: Affine) -> tuple[Affine, Affine]:
        """Which thread along the lines has a line of the block, as which row."""
        threads, run = self.shape.line_threads, self.row_run
        runs, thread, rest = self.b.coordinates(line, (0, threads, run))
        return thread, runs * run + rest

    def sums(
        self,
        a: Operand[L, P],
        b: Operand[M, Q],
        along_products: tuple[bool, bool],
        steps: Affine | int,
        start: Callable[[Affine], Reg],
        stride: int = 1,
    ) -> Buffer:
        """The thread's sums, row by row, each from ``start(column)``.

        ``steps`` is the same for all threads. A step takes ``depth`` products; only
        each ``stride``-th step is computed, from the first one on.
        """
        shape, builder = self.shape, self.b
        count = shape.rows * shape.columns
        totals = builder.local("sums", self.type.element, count)

        def begin(j: Affine) -> None:
            value = start(j)
            builder.loop(
                "i", 0, shape.rows, 1,
                lambda i: builder.store(totals, i * shape.columns + j, value),
            )  # fmt: skip

        builder.loop("j", 0, shape.columns, 1, begin)
        steps = affine(steps)
        if steps.terms or steps.const:
            left = self._loader("a", shape.lines, a, along_products[0])
            right = self._loader("b", shape.block_columns, b, along_products[1])
            self._steps(left, right, steps, stride * shape.depth, totals)
        return totals

    def _loader(
        self, name: str, lines: int, operand: Operand[L, P], along_products: bool
    ) -> PanelLoader[L, P]:
        shape = self.shape
        panel = Panel(lines, shape.depth, shape.threads, self.warp, along_products)
        return PanelLoader(self.b, self.type, panel, name, operand, self.thread)

    def _steps(
        self,
        left: PanelLoader[L, P],
        right: PanelLoader[M, Q],
        steps: Affine,
        distance: int,
        totals: Buffer,
    ) -> None:
        """``distance`` is the number of products from one step to the next."""
        last = (steps + -1) * distance
        left.fetch(affine(0))
        right.fetch(affine(0))

        def step(first: Affine) -> None:
            left.share()
            right.share()
            self.b.barrier()
            if last.terms or last.const:
                # behind the last step, its products are loaded once more
                following = self.b.minimum_index(first + distance, last)
                left.fetch(following)
                right.fetch(following)
            self._multiply(left, right, totals)
            self.b.barrier()

        self.b.loop("first", 0, steps * distance, distance, step)

    def _multiply(
        self, left: PanelLoader[L, P], right: PanelLoader[M, Q], totals: Buffer
    ) -> None:
        """Add the products that the panels hold."""
        builder, shape, type = self.b, self.shape, self.type
        rows = builder.local("a", type.element, shape.rows)
        columns = builder.local("b", type.element, shape.columns)

        def one(k: Affine) -> None:
            def row(i: Affine) -> None:
                at = k * left.panel.stride + self.line(i)
                builder.store(rows, i, builder.load(left.shared, at, type))

            def column(j: Affine) -> None:
                at = k * right.panel.stride + self.column(j)
                builder.store(columns, j, builder.load(right.shared, at, type))

            def product(i: Affine, j: Affine) -> None:
                a = builder.load(rows, i, type)
                b = builder.load(columns, j, type)
                at = i * shape.columns + j
                total = builder.load(totals, at, type)
                builder.store(totals, at, builder.fma(a, b, total))

            builder.loop("i", 0, shape.rows, 1, row)
            builder.loop("j", 0, shape.columns, 1, column)
            builder.nest(("i", "j"), (shape.rows, shape.columns), product)

        builder.loop("k", 0, shape.depth, 1, one)

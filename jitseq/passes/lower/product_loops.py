"""Sums of outer products: the loops around the tiles, and the choice of a tile.

An `OuterProduct` with its buffers enters; loops over blocks of images and of pixels,
over columns, rows and places leave, each with a tile inside. Invariant: every row is
multiplied with every column for each pixel once; no sum in registers is longer than
``CHAIN`` pixels, or one row of pixels where that is more.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Affine, Buffer, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.lower.outer_product import (
    ONES,
    At,
    Block,
    OuterProduct,
    ProductTile,
    Shape,
)
from jitseq.passes.tile import accumulator_budget

CHAIN = 4096
"""Pixels of one sum in registers: float32 errors grow with the length of a chain."""

BLOCK = 512
"""Pixels for which a tile should stay in registers, where images are smaller: then
its addition to memory is 1 % of its time."""

SHORTEST = 128
"""Pixels for which a tile stays in registers wherever a and b lie."""

EPILOGUE_CYCLES = 12.0
"""Cycles around the pixels of a tile, beside 2 for each accumulator."""

LOOP_CYCLES = 0.5
"""Issue slots of one pixel that are not products, in cycles."""


def choose_rows(
    target: Target, rows: int, vectors: int, pixels: int, masked: bool
) -> tuple[int, int]:
    """Rows and vectors of a tile: the fewest cycles a pixel for all of them.

    A tile of R rows and V vectors costs ``R·V`` products and ``R + V`` loads, on two
    ports each, and the addition of its accumulators to memory once in ``pixels``.
    """

    def cycles(r: int, v: int) -> float:
        products = r * v / target.fma_per_cycle
        epilogue = (EPILOGUE_CYCLES + 2.0 * r * v) / pixels
        return max(products, (r + v) / 2) + LOOP_CYCLES + epilogue

    best, best_cost = (1, 1), float("inf")
    for v in (2, 1, 4, 3, 6, 5):
        budget = accumulator_budget(target, v)
        if masked and target.registers < 32:
            budget -= 2  # the mask is a vector register
        for r in range(min(rows, budget // v), 0, -1):
            if v > vectors:
                continue
            cost = 0.0
            for width, across in _pieces(vectors, v):
                for height, down in _pieces(rows, r):
                    cost += across * down * cycles(height, width)
            if cost < best_cost * 0.999:
                best, best_cost = (r, v), cost
    return best


def _pieces(total: int, size: int) -> list[tuple[int, int]]:
    """Sizes and how many of each."""
    whole, rest = divmod(total, size)
    return [(size, whole)] + ([(rest, 1)] if rest else [])


def longest_chain(target: Target, pixel_bytes: int) -> int:
    """Pixels whose a and b stay in half of L2 while all tiles pass over them."""
    return min(CHAIN, max(SHORTEST, target.l2_bytes // 2 // pixel_bytes))


def pixel_blocks(size: tuple[int, int], chain: int) -> list[Block]:
    """Blocks of at most ``chain`` pixels, or of one row."""
    rows, columns = size
    step = max(1, chain // max(columns, 1))
    count = -(-rows // step)
    even = -(-rows // count) if count else 1
    return [(y, min(y + even, rows), 0, columns) for y in range(0, rows, even)]


class OuterProductEmitter:
    """Emits loops over images, blocks, columns, rows and places around the tiles."""

    def __init__(
        self,
        builder: KernelBuilder,
        target: Target,
        product: OuterProduct,
        buffers: tuple[Buffer, Buffer, Buffer],
        totals: tuple[Buffer, ...] = (),
        out_bytes: int = 0,
    ) -> None:
        """``buffers`` are a, b and out; b's totals are added to each of ``totals``."""
        self.b = builder
        self.p = product
        self.source, self.other, self.out = buffers
        self.totals = totals
        self.lanes = target.lanes(self.out.element)
        self.type = Type(self.out.element, self.lanes)
        self.busy = target.fma_latency * target.fma_per_cycle
        self.registers = target.registers
        self.prefetches = out_bytes > target.l1_bytes
        chain = longest_chain(target, product.pixel_bytes)
        self.blocks = pixel_blocks(product.size, chain)
        self.chunk = max(1, min(BLOCK, chain) // max(product.pixels, 1))
        self.vectors = -(-product.columns // self.lanes)
        rest = product.columns % self.lanes
        self.valid = rest or None
        pixels = max(product.pixels // max(len(self.blocks), 1), 1) * self.chunk
        self.height, self.width = choose_rows(
            target, max(len(product.rows), 1), self.vectors, pixels, rest > 0
        )

    # loops

    def emit(self) -> None:
        if self.p.pixels:
            self.b.loop("n", 0, self.p.images, self.chunk, self._images)

    def _images(self, n: Affine) -> None:
        last = n + 1
        if self.chunk > 1:
            last = self.b.minimum_index(n + self.chunk, self.p.images)
        p = self.p

        def block(k: Affine) -> None:
            zero = affine(0)
            at = At(
                n, last, k, affine(p.a.offset), affine(p.b.offset),
                affine(p.out_offset), zero,
            )  # fmt: skip
            self._outer(0, at)

        self.b.loop("block", 0, len(self.blocks), 1, block)

    def _outer(self, depth: int, at: At) -> None:
        if depth == len(self.p.outer):
            self._columns(at)
            return
        loop = self.p.outer[depth]

        def inside(i: Affine) -> None:
            moved = replace(
                at,
                a=at.a + i * loop.a,
                b=at.b + i * loop.b,
                out=at.out + i * loop.out,
                totals=at.totals + i * loop.totals,
            )
            self._outer(depth + 1, moved)

        self.b.loop("group", 0, loop.extent, 1, inside)

    def _columns(self, at: At) -> None:
        """Tiles of columns; the last is a body of its own if narrower or masked."""
        whole, rest = divmod(self.vectors, self.width)
        if not rest and self.valid is not None:
            whole, rest = whole - 1, self.width

        def tile(v: Affine, width: int, valid: int | None) -> None:
            column = v * self.lanes
            moved = replace(
                at,
                b=at.b + column * self.p.column,
                out=at.out + column,
                totals=at.totals + column,
            )
            self._rows(moved, width, valid)

        self.b.loop(
            "v", 0, whole * self.width, self.width,
            lambda v: tile(v, self.width, None),
        )  # fmt: skip
        if rest:
            tile(affine(whole * self.width), rest, self.valid)

    def _rows(self, at: At, width: int, valid: int | None) -> None:
        rows = self.p.rows
        pieces = [rows[i : i + self.height] for i in range(0, len(rows), self.height)]
        shapes = [Shape(piece, width, valid) for piece in pieces]
        if self.totals:
            shapes = self._with_totals(shapes, at, width, valid)
        step = self._even_step()
        whole = len(rows) // self.height * self.height
        if step is None or whole == self.height:
            for shape in shapes:
                self._places(at, shape)
            return
        shape = Shape(rows[: self.height], width, valid)

        def tile(i: Affine) -> None:
            moved = replace(at, a=at.a + i * step[0], out=at.out + i * step[1])
            self._places(moved, shape)

        self.b.loop("row", 0, whole, self.height, tile)
        if whole < len(rows):
            self._places(at, Shape(rows[whole:], width, valid))

    def _with_totals(
        self, shapes: list[Shape], at: At, width: int, valid: int | None
    ) -> list[Shape]:
        """Totals join the first tile, if it sees every pixel and registers are left.

        Otherwise they get a tile of their own, emitted here; the rows' tiles return.
        """
        first = shapes[0] if shapes else Shape((), width, valid)
        needed = (len(first.rows) + 2) * width + 1
        once = len(self.p.places) == 1 and len(self.blocks) == 1
        everything = once and self.p.places[0].pixels == self.blocks[0]
        static = self._even_step() is None or len(shapes) == 1
        free = self.registers - 2 * (valid is not None)
        if shapes and everything and static and needed <= free:
            return [Shape((*first.rows, ONES), width, valid), *shapes[1:]]
        tables = tuple(zip(*self.blocks, strict=True))
        y0, y1, x0, x1 = (self.b.table(values, at.block) for values in tables)
        moved = replace(at, y=(y0, y1), x=(x0, x1))
        ProductTile(self, moved, Shape((ONES,), width, valid)).emit()
        return shapes

    def _even_step(self) -> tuple[int, int] | None:
        """The distance of neighbouring rows in a and in out, if all have the same."""
        rows = self.p.rows
        steps = {(b.shift - a.shift, b.out - a.out) for a, b in pairwise(rows)}
        return steps.pop() if len(steps) == 1 else None

    def _places(self, at: At, shape: Shape) -> None:
        """Loop over places, by tables of their shifts and of their pixels."""
        places, blocks = self.p.places, self.blocks
        clipped = [place.within(block) for place in places for block in blocks]
        bounds = tuple(zip(*clipped))

        def place(t: Affine) -> None:
            entry = t * len(blocks) + at.block
            y0, y1, x0, x1 = (self.b.table(values, entry) for values in bounds)
            moved = replace(
                at,
                a=at.a + self.b.table([p.a for p in places], t),
                out=at.out + self.b.table([p.out for p in places], t),
                y=(y0, y1),
                x=(x0, x1),
            )
            ProductTile(self, moved, shape).emit()

        self.b.loop("tap", 0, len(places), 1, place)

"""Chooses the register tile of a contraction from a `Target`.

A tile is ``images × rows × columns`` outputs of ``vectors`` vectors of output
channels each; its accumulators stay in registers while the reduction runs. The model
counts issue slots: per reduction step a tile of R outputs and V vectors costs
``R·V`` FMAs, ``R`` broadcast loads folded into them and ``V`` weight loads, on two
FMA and two load ports, and never less than the latency of its dependence chains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jitseq.ir.target import Target

EPILOGUE_CYCLES = 12.0
"""Cycles around the reduction of a tile, beside 1.5 for each accumulator."""


LARGEST_IMAGES = 24
"""Images of a tile at most: its third, 8, then divides the blocks of a segment."""


@dataclass(frozen=True)
class Tile:
    """``images`` is the largest of the image counts for which code is emitted."""

    images: int
    rows: int
    columns: int
    vectors: int

    @property
    def outputs(self) -> int:
        return self.images * self.rows * self.columns

    @property
    def accumulators(self) -> int:
        return self.outputs * self.vectors


def accumulator_budget(target: Target, vectors: int) -> int:
    """Accumulators that leave room for weights and one broadcast."""
    if target.registers >= 32:
        return 28 if vectors == 1 else 24
    return target.registers - vectors - 1


def choose_tile(
    target: Target,
    rows: int,
    columns: int,
    vectors: int,
    steps: int,
    pool: tuple[int, int] = (1, 1),
    most_images: int = LARGEST_IMAGES,
) -> Tile:
    """The cheapest tile for an output of ``rows × columns``, ``vectors`` wide.

    ``pool`` is the fused pooling window: tiles hold whole windows. ``steps`` is the
    length of the reduction. A tile has ``most_images`` at most.
    """
    best, best_cost = None, math.inf
    for tile in _candidates(target, rows, columns, vectors, pool, most_images):
        cost = _cost(target, tile, rows, columns, vectors, steps)
        if cost < best_cost - 1e-9:
            best, best_cost = tile, cost
    assert best is not None
    return best


def _candidates(
    target: Target,
    rows: int,
    columns: int,
    vectors: int,
    pool: tuple[int, int],
    most_images: int,
) -> list[Tile]:
    pool_rows, pool_columns = pool
    found = []
    for width in (2, 1, 4, 3, 6, 8):
        if width > vectors:
            continue
        budget = accumulator_budget(target, width)
        for height in range(pool_rows, min(rows, 4 * pool_rows) + 1, pool_rows):
            widest = min(columns, max(budget // (width * height), pool_columns))
            for across in range(pool_columns, widest + 1, pool_columns):
                images = 1
                if height == rows and across == columns:
                    room = budget // (width * height * across)
                    images = min(max(1, room), most_images)
                fits = images * height * across * width <= budget
                if fits or (height, across, width) == (*pool, 1):
                    found.append(Tile(images, height, across, width))
    return found


def _cost(
    target: Target, tile: Tile, rows: int, columns: int, vectors: int, steps: int
) -> float:
    """Cycles for one image."""
    count = math.ceil(rows / tile.rows) * math.ceil(columns / tile.columns)
    whole, rest = divmod(vectors, tile.vectors)
    cost = whole * _tile_cycles(target, tile, steps)
    if rest:
        narrow = Tile(tile.images, tile.rows, tile.columns, rest)
        # another body to compile, and to keep in the instruction cache
        cost += 1.1 * _tile_cycles(target, narrow, steps)
    return count * cost / tile.images


def _tile_cycles(target: Target, tile: Tile, steps: int) -> float:
    fma = tile.accumulators / target.fma_per_cycle
    loads = (tile.outputs + 1.5 * tile.vectors) / 2
    # chains shorter than the latency are split (see the contraction lowering)
    latency = 1.0
    return steps * max(fma, loads, latency) + EPILOGUE_CYCLES + 1.5 * tile.accumulators


def image_counts(images: int) -> tuple[int, ...]:
    """Image counts to emit code for, so that a ragged batch costs only its own work."""
    if images >= 8:
        return (images, max(images // 3, 2), 1)
    if images >= 4:
        return (images, 2, 1)
    return (images, 1) if images > 1 else (1,)

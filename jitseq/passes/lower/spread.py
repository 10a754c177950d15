"""A transposed convolution seen from its input: what each element is spread over.

Enters the `Contraction` record and the layout of its result; leaves a `Spread`: one
run of adjacent output elements for each kernel row of an input pixel. With C output
channels, stride s and the first column ``left`` of the kernel,

``out[n, y', s·x + left + kx, c] += Σ_i g[n, y, x, i] · w[i, c, ky, kx]``

has adjacent elements for adjacent (kx, c): a run of KW·C, most of a vector even where
C is a fraction of one. The rows y of a result's row y' are those of the phase that
holds it. `plan` divides the runs into register tiles and says what they cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from jitseq.ir.compute import Contraction
from jitseq.ir.layout import Layout
from jitseq.ir.program import ELEMENT_BYTES
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.dot import dot_cycles
from jitseq.passes.lower.operands import ELEMENTS
from jitseq.passes.lower.problem import Problem, direct_cycles
from jitseq.passes.tile import accumulator_budget

ADVANTAGE = 1.2
"""How many times cheaper than the direct form a spread has to be."""

L2_CYCLES = 2.0
"""To load a vector of weights that do not stay in L1."""

ADDING_CYCLES = 3.0
"""To read, add and write one vector whose elements other runs wrote just before."""

MOST_VECTORS = 16
"""Vectors of a run at most; wider ones gain little, as few of their lanes are empty."""


@dataclass(frozen=True)
class Rows:
    """Rows ``start + step·j`` of the result: they read input rows ``j + dy``.

    ``taps`` are (ky, dy), with dy increasing.
    """

    start: int
    count: int
    taps: tuple[tuple[int, int], ...]

    def active(self, j: int, height: int) -> tuple[int, int]:
        """First and last tap (exclusive) that read inside of the input."""
        first = sum(1 for _, dy in self.taps if j + dy < 0)
        return first, first + sum(1 for _, dy in self.taps if 0 <= j + dy < height)


@dataclass(frozen=True)
class Strip:
    """One vector of an input pixel's run, from its element ``first`` on.

    ``valid`` lanes are inside of the run and of the result's row; None means all.
    """

    pixel: int
    first: int
    valid: int | None


@dataclass(frozen=True)
class Spread:
    """The runs of all pixels. ``left`` is the result's column of pixel 0's first kx."""

    rows: tuple[Rows, ...]
    step: tuple[int, int]
    kx: int
    columns: int
    left: int
    channels: int
    inputs: int
    in_size: tuple[int, int]
    width: int

    @property
    def run(self) -> int:
        """Elements of a whole run."""
        return self.columns * self.channels

    def inside(self, pixel: int) -> tuple[int, int]:
        """Elements of a pixel's run that lie inside of the result's row."""
        start = self.step[1] * pixel + self.left
        first, last = max(0, -start), min(self.columns, self.width - start)
        return first * self.channels, last * self.channels

    @cached_property
    def whole(self) -> range:
        """The pixels whose runs do not overhang the edges."""
        pixels = range(self.in_size[1])
        found = [x for x in pixels if self.inside(x) == (0, self.run)]
        return range(found[0], found[-1] + 1) if found else range(0)

    @property
    def active_taps(self) -> int:
        """Pairs of a result's row and an input row that it reads."""
        return sum(
            stop - first
            for rows in self.rows
            for first, stop in (
                rows.active(j, self.in_size[0]) for j in range(rows.count)
            )
        )

    @property
    def covered(self) -> int:
        """Elements of all runs of a row, inside of the result."""
        inside = (self.inside(pixel) for pixel in range(self.in_size[1]))
        return sum(max(last - first, 0) for first, last in inside)

    def strips(self, pixel: int, vectors: range, lanes: int) -> list[Strip]:
        """Vectors number ``vectors`` of the part of a run that is inside."""
        first, last = self.inside(pixel)
        found = []
        for v in vectors:
            at = first + v * lanes
            if at < last:
                rest = last - at
                found.append(Strip(pixel, at, rest if rest < lanes else None))
        return found


def spread_of(record: Contraction) -> Spread | None:
    """The spread of a transposed convolution without column dilation and groups."""
    if record.weight_axes != "iohw" or record.groups > 1:
        return None
    step = record.phases[0].step
    rows: dict[int, dict[int, int]] = {}
    counts: dict[int, int] = {}
    columns: dict[int, int] = {}
    taps = 0
    for phase in record.phases:
        counts[phase.start[0]] = phase.count[0]
        for tap in phase.taps:
            rows.setdefault(phase.start[0], {})[tap.ky] = tap.dy
            columns[tap.kx] = phase.start[1] - step[1] * tap.dx
            taps += 1
    if not columns:
        return None
    kx, left = min(columns.items())
    adjacent = {kx + i: left + i for i in range(len(columns))}
    if columns != adjacent or taps != len(columns) * sum(map(len, rows.values())):
        return None
    found = []
    for start, count in sorted(counts.items()):
        ordered = sorted(rows.get(start, {}).items(), key=lambda tap: tap[1])
        found.append(Rows(start, count, tuple(ordered)))
    return Spread(
        tuple(found), step, kx, len(columns), left, record.out_channels,
        record.in_channels, record.in_size, record.out_size[1],
    )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Vectors ``vectors`` of all runs: tiles of ``pixels`` whole runs, then ``rest``.

    ``rest`` are the tiles of the other pixels, each with code of its own.
    """

    vectors: range
    pixels: int
    rest: tuple[tuple[Strip, ...], ...]
    cycles: float
    """For one row of the result and one step of the reduction."""


@lru_cache(maxsize=64)
def plan(spread: Spread, target: Target, lanes: int) -> tuple[Part, ...]:
    """The cheapest division of the runs into parts of about equal width."""
    vectors = -(-spread.run // lanes)
    best: tuple[Part, ...] = ()
    for count in range(1, vectors + 1):
        width, wider = divmod(vectors, count)
        if width + (wider > 0) > accumulator_budget(target, width + (wider > 0)):
            continue
        stops = [width * i + min(i, wider) for i in range(count + 1)]
        ranges = [range(a, b) for a, b in pairwise(stops)]
        parts = tuple(_part(spread, target, lanes, vectors) for vectors in ranges)
        if not best or _cycles(parts) < _cycles(best) - 1e-9:
            best = parts
    return best


def _cycles(parts: Sequence[Part]) -> float:
    return sum(part.cycles for part in parts)


def _part(spread: Spread, target: Target, lanes: int, vectors: range) -> Part:
    width = len(vectors)
    taps = max(len(rows.taps) for rows in spread.rows)
    far = taps * spread.inputs * width * target.vector_bytes > target.l1_bytes // 2
    budget = accumulator_budget(target, width)
    edges = [x for x in range(spread.in_size[1]) if x not in spread.whole]
    best: Part | None = None
    for pixels in range(1, max(1, min(len(spread.whole), budget // width)) + 1):
        tiles, left = divmod(len(spread.whole), pixels)
        others = [*edges, *spread.whole[len(spread.whole) - left :]]
        strips = [s for x in others for s in spread.strips(x, vectors, lanes)]
        chunks = _chunks(strips, budget)
        cycles = tiles * _step(target, pixels * width, pixels, width, far)
        for chunk in chunks:
            weights = len({strip.first for strip in chunk})
            own = len({strip.pixel for strip in chunk})
            cycles += _step(target, len(chunk), own, weights, far)
        if best is None or cycles < best.cycles - 1e-9:
            best = Part(vectors, pixels, chunks, cycles)
    assert best is not None
    return best


def _chunks(strips: list[Strip], budget: int) -> tuple[tuple[Strip, ...], ...]:
    """As few tiles as possible, of about the same size."""
    count = -(-len(strips) // budget)
    size = -(-len(strips) // max(count, 1))
    return tuple(
        tuple(strips[i : i + size]) for i in range(0, len(strips), max(size, 1))
    )


def _step(target: Target, products: int, pixels: int, weights: int, far: bool) -> float:
    """Cycles of one step of a tile's reduction: issue slots, loads and latency."""
    loads = pixels / 2 + weights * (L2_CYCLES if far else 0.5)
    return max(products / target.fma_per_cycle, loads, target.fma_latency)


def suited_spread(
    record: Contraction,
    problems: Sequence[Problem],
    group: Group,
    out: Layout,
    target: Target,
) -> Spread | None:
    """The spread, where it can be stored and costs clearly less than the direct form.

    Pooling needs whole windows in registers; weights have to stay in L2, as they are
    read again for each row.
    """
    spread = spread_of(record) if group.pool is None else None
    if spread is None or not all(out.is_simple(dim) for dim in range(out.ndim)):
        return None
    adjacent = out.stride(3) == spread.channels
    adjacent = adjacent and (out.stride(1) == 1 or spread.channels == 1)
    element = ELEMENTS[group.output.type.dtype]
    lanes = target.lanes(element)
    steps = sum(len(rows.taps) for rows in spread.rows) * spread.inputs
    weight_bytes = steps * spread.run * ELEMENT_BYTES[element]
    wide = spread.run > MOST_VECTORS * lanes
    if not adjacent or wide or weight_bytes > target.l2_bytes // 2:
        return None
    there = min(
        direct_cycles(problems, target, lanes) / ADVANTAGE,
        dot_cycles(problems, group, target, lanes),
    )
    elements = spread.active_taps * spread.inputs * spread.covered
    if elements / lanes / target.fma_per_cycle > there:
        return None
    return spread if spread_cycles(spread, target, lanes) <= there else None


def spread_cycles(spread: Spread, target: Target, lanes: int) -> float:
    """For one image."""
    step = _cycles(plan(spread, target, lanes)) * spread.inputs
    vectors = spread.in_size[1] * -(-spread.run // lanes)
    height = sum(rows.count for rows in spread.rows)
    return step * spread.active_taps + ADDING_CYCLES * vectors * height

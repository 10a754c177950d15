"""Contractions with few output channels → kernels with vectors along the reduction.

With few outputs a vector of output channels would be mostly empty. Here the vectors
run along the (contiguous) input channels. A tile holds the sums of several neighbouring
pixels, or images; one `sum_lanes` gives the totals of one channel, or, from four
channels on, of one pixel, as the vector on which bias and pointwise nodes follow.

The pixels of a row may belong to several phases: column k of a result with column step
s is number k // s of phase k % s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jitseq.ir.compute import Tap
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import (
    Operands,
    Pack,
    Position,
    apply_chain,
    store_at,
)
from jitseq.passes.lower.problem import Problem, direct_cycles, static_phase

SUMMING_CYCLES = 2.5
"""For the lanes of one sum, beside its products (two shuffles)."""

ADVANTAGE = 1.2
"""How many times cheaper than vectors of output channels this form has to be."""

BY_PIXEL = 4
"""Output channels from which the totals of one pixel make a vector."""

UNROLLED_PRODUCTS = 512
"""FMAs that one tile unrolls at most, for each vector of input channels."""


def dot_cycles(
    problems: Sequence[Problem], group: Group, target: Target, lanes: int
) -> float:
    """For one image; infinite where the form does not apply.

    It needs few outputs, a contiguous reduction of at least a vector, and inputs with
    a halo.
    """
    first = problems[0]
    if group.pool is not None or first.groups > 1 or len(first.reduce) > 1:
        return math.inf
    extent, stride = first.reduce[0]
    outputs, linear = first.group_outputs, first.weight_axes in ("oi", "io")
    few = outputs <= (min(BY_PIXEL - 1, lanes // 4) if linear else lanes // 2)
    static = any(static_phase(p.phase, p.size) for p in problems)
    if not few or static or stride != 1 or extent < lanes:
        return math.inf
    columns = len({p.phase.start[1] for p in problems})
    if largest_tile(problems, target, lanes) < columns:
        return math.inf
    pixels = products = 0
    for p in problems:
        count = p.phase.count[0] * p.phase.count[1]
        pixels, products = pixels + count, products + count * len(p.phase.taps)
    steps = products * -(-extent // lanes)
    return outputs * (steps / target.fma_per_cycle + SUMMING_CYCLES * pixels)


def suits_dot(
    problems: Sequence[Problem], group: Group, target: Target, lanes: int
) -> bool:
    """Whether this form is clearly cheaper than vectors of output channels."""
    cycles = ADVANTAGE * dot_cycles(problems, group, target, lanes)
    return cycles <= direct_cycles(problems, target, lanes)


def largest_tile(problems: Sequence[Problem], target: Target, lanes: int) -> int:
    """Pixels of a tile whose sums and weights fit the registers."""
    outputs = problems[0].group_outputs
    spare = 8 if target.registers >= 32 else 3 + outputs
    taps = max(len(p.phase.taps) for p in problems)
    unrolled = UNROLLED_PRODUCTS // max(taps * outputs, 1)
    return max(min((target.registers - spare) // outputs, lanes, unrolled), 1)


@dataclass(frozen=True)
class Tile:
    """``count`` pixels of a row, or images, from the one at (image, row, column).

    ``phases`` are those of the row by column number; ``along`` is the dimension, n or
    x, along which the tile lies.
    """

    phases: Sequence[Problem]
    image: Affine
    row: Affine
    column: Affine
    along: str
    count: int

    def pixel(self, k: int) -> Tile:
        """The k-th of them alone."""
        image = self.image + k * (self.along == "n")
        column = self.column + k * (self.along == "x")
        return replace(self, image=image, column=column, count=1)


class DotEmitter:
    """Emits all phases: loops over tiles, a reduction for each."""

    def __init__(
        self,
        operands: Operands,
        target: Target,
        problems: Sequence[Problem],
        group: Group,
    ) -> None:
        self.b = operands.builder
        self.operands = operands
        self.machine = target
        self.problems = problems
        self.p = problem = problems[0]
        self.group = group
        assert group.anchor is not None
        x, weight, *bias = group.anchor.inputs
        self.source = operands.read(x)
        self.out = operands.write(group.output)
        self.lanes = target.lanes(self.source.element)
        self.largest = largest_tile(problems, target, self.lanes)
        self.type = Type(self.source.element, self.lanes)
        self.extent = problem.reduce[0][0]
        self.padded = -(-self.extent // self.lanes) * self.lanes
        self.outputs = problem.group_outputs
        taps = [tap for one in problems for tap in one.phase.taps]
        self.places = {(tap.ky, tap.kx): i for i, tap in enumerate(taps)}
        pack = Pack(
            "rows",
            axes=problem.weight_axes,
            lanes=self.lanes,
            taps=tuple(self.places),
            channels=problem.channels,
        )
        self.weights = operands.packed(weight, pack)
        self.bias = operands.packed(bias[0], Pack("lanes", lanes=1)) if bias else None

    # loops over tiles

    def emit(self) -> None:
        if self.p.phase.count == (1, 1) and len(self.problems) == 1:
            self._images()
        else:
            self.b.loop("n", 0, self.p.images, 1, self._one_image)

    def _images(self) -> None:
        """One pixel an image: tiles of images, then the images that are left."""
        zero, start = affine(0), affine(0)
        for count in (self.largest, 1):
            stop = start + self.b.round_down(self.p.images + start * -1, count)
            self.b.loop(
                "n", start, stop, count,
                lambda n, count=count: self._tile(  # type: ignore[misc]
                    Tile(self.problems, n, zero, zero, "n", count)
                ),
            )  # fmt: skip
            start = stop

    def _one_image(self, image: Affine) -> None:
        starts = dict.fromkeys(p.phase.start[0] for p in self.problems)
        for start in starts:
            phases = [p for p in self.problems if p.phase.start[0] == start]
            phases.sort(key=lambda p: p.phase.start[1])
            self._rows(image, phases)

    def _rows(self, image: Affine, phases: Sequence[Problem]) -> None:
        """All rows of the same phases; a last tile may be smaller."""
        width = sum(p.phase.count[1] for p in phases)
        step = len(phases)
        most = self.largest // step * step
        tiles = -(-width // most)
        even = -(-width // (tiles * step)) * step
        whole = width // even

        def row(y: Affine) -> None:
            def tile(x: Affine, count: int) -> None:
                self._tile(Tile(phases, image, y, x, "x", count))

            self.b.loop("x", 0, whole, 1, lambda x: tile(x * even, even))
            if width > whole * even:
                tile(affine(whole * even), width - whole * even)

        self.b.loop("y", 0, phases[0].phase.count[0], 1, row)

    # one tile

    def _tile(self, tile: Tile) -> None:
        sums = self._reduce(tile)
        pixels = [sums[k : k + self.outputs] for k in range(0, len(sums), self.outputs)]
        if self.outputs >= BY_PIXEL:
            for k, rows in enumerate(pixels):
                self._finish_pixel(tile.pixel(k), rows)
            return
        channels = zip(*pixels, strict=True)
        totals = [self._finish(tile, o, rows) for o, rows in enumerate(channels)]
        self._store(tile, totals)

    def _finish_pixel(self, tile: Tile, rows: Sequence[Reg]) -> None:
        """All channels of one pixel as a vector."""
        total = self.b.sum_lanes(rows)
        if self.bias is not None:
            bias = self.b.load(self.bias, 0, self.type, self.outputs)
            total = self.b.binary("add", total, bias)
        at = self._position(tile, 0, "c", self.outputs)
        nodes, start = self.group.inner, self.group.anchor_output
        total = apply_chain(self.operands, nodes, start, total, at)
        store_at(self.operands, self.group.output, total, at)

    def _finish(self, tile: Tile, o: int, rows: Sequence[Reg]) -> Reg:
        """One channel of all pixels as a vector; a number where there is one pixel."""
        alone = tile.count == 1
        total = self.b.reduce("add", rows[0]) if alone else self.b.sum_lanes(rows)
        if self.bias is not None:
            bias = self.b.load_splat(self.bias, o, total.type)
            total = self.b.binary("add", total, bias)
        at = self._position(tile, o, "c" if alone else tile.along, tile.count)
        nodes, start = self.group.inner, self.group.anchor_output
        return apply_chain(self.operands, nodes, start, total, at)

    def _reduce(self, tile: Tile) -> tuple[Reg, ...]:
        """The sums of pixel k and output o, at k · outputs + o, over lanes apart."""
        count = tile.count * self.outputs
        whole = self.extent // self.lanes * self.lanes
        busy = self.machine.fma_latency * self.machine.fma_per_cycle
        chains = 1
        while count * chains < busy and chains * 2 * self.lanes <= whole:
            chains *= 2
        sums: tuple[Reg, ...] = (self.b.const(0.0, self.type),) * (count * chains)
        step = chains * self.lanes
        blocks = whole // step * step

        def block(i: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            parts: tuple[Reg, ...] = ()
            for k in range(chains):
                part = sums[k * count : (k + 1) * count]
                parts += self._channels(tile, i + k * self.lanes, part, None)
            return parts

        sums = self.b.fold("i", 0, blocks, step, sums, block)
        while len(sums) > count:
            half = len(sums) // 2
            pairs = zip(sums[:half], sums[half:], strict=True)
            sums = tuple(self.b.binary("add", a, b) for a, b in pairs)
        sums = self.b.fold(
            "i", blocks, whole, self.lanes, sums,
            lambda i, sums: self._channels(tile, i, sums, None),
        )  # fmt: skip
        if self.extent > whole:
            valid = self.extent - whole
            sums = self._channels(tile, affine(whole), sums, valid)
        return sums

    def _channels(
        self, tile: Tile, i: Affine, sums: tuple[Reg, ...], valid: int | None
    ) -> tuple[Reg, ...]:
        """One vector of input channels: each tap's weights serve all its pixels."""
        result = list(sums)
        block = len(self.places) * self.padded
        step = len(tile.phases)
        for number, problem in enumerate(tile.phases):
            for tap in problem.phase.taps:
                at = i + self.places[(tap.ky, tap.kx)] * self.padded
                weights = [
                    self.b.load(self.weights, at + o * block, self.type)
                    for o in range(self.outputs)
                ]
                # other taps read the same elements: see `register_tile`
                start = self._start(tile, problem, tap) + i
                pointer = self.b.pin(self.source, start)
                for k in range(number, tile.count, step):
                    shift = self._shift(tile, problem, k // step)
                    a = self.b.load(pointer, shift, self.type, valid)
                    for o, w in enumerate(weights):
                        place = k * self.outputs + o
                        result[place] = self.b.fma(a, w, result[place])
        return tuple(result)

    def _start(self, tile: Tile, problem: Problem, tap: Tap) -> Affine:
        """What a tap reads for the first of the tile's pixels in a phase."""
        source, (stride_y, stride_x) = problem.source, problem.phase.stride
        column = tile.column.exact_divide(len(tile.phases))
        start = tile.image * source.image + source.offset
        start = start + tile.row * (stride_y * source.row)
        start = start + column * (stride_x * source.column)
        return start + (tap.dy * source.row + tap.dx * source.column)

    def _shift(self, tile: Tile, problem: Problem, k: int) -> int:
        """From the first to the k-th of the tile's pixels in a phase."""
        if tile.along == "n":
            return k * problem.source.image
        return k * problem.phase.stride[1] * problem.source.column

    def _position(self, tile: Tile, o: int, along: str, valid: int) -> Position:
        phase = tile.phases[0].phase
        names = {
            "n": tile.image,
            "y": tile.row * phase.step[0] + phase.start[0],
            "x": tile.column + phase.start[1],
            "c": affine(o),
        }
        dims = self.p.position_dims
        index = tuple(names[d] for d in dims)
        return Position(index, dims.index(along), valid)

    def _store(self, tile: Tile, totals: Sequence[Reg]) -> None:
        """Vectors of pixels where those are adjacent, else vectors of channels."""
        dims = self.p.position_dims
        at = self._position(tile, 0, "c", 1)
        layout = self.operands.layouts[self.group.output]
        index = affine(layout.offset)
        for dim, position in enumerate(at.index):
            index = index + position * layout.stride(dim)
        channel = layout.stride(dims.index("c"))
        if tile.count == 1:
            for o, total in enumerate(totals):
                self.b.store(self.out, index + o * channel, total)
            return
        pixel = layout.stride(dims.index(tile.along))
        if pixel == 1:
            for o, total in enumerate(totals):
                self.b.store(self.out, index + o * channel, total, tile.count)
            return
        assert channel == 1 or self.outputs == 1
        zero = self.b.const(0.0, self.type)
        rows = [*totals, *[zero] * (self.lanes - len(totals))]
        for k, column in enumerate(self.b.transpose(rows)[: tile.count]):
            self.b.store(self.out, index + k * pixel, column, self.outputs)

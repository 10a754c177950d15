"""Convolutions between few channels → kernels with vectors along the columns.

With few output channels a vector of them is mostly empty, and with few input channels
so is a vector along the reduction. Where the columns of the input are adjacent (one
channel, or planar channels) the vectors run along them: each step loads a row's inputs
and multiplies them by one weight in all lanes. What is stored channels-last is
transposed in registers. The last vector of a row overlaps its neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import Operands, Pack, Position, apply_chain
from jitseq.passes.lower.problem import (
    MANY_TAPS,
    Problem,
    direct_cycles,
    static_phase,
)

ADVANTAGE = 1.2
"""How many times cheaper than vectors of output channels this form has to be."""

MOST_ROWS = 4


@dataclass(frozen=True)
class Block:
    """``rows`` rows by ``vectors`` vectors of columns: one of them, or all of a row."""

    rows: int
    vectors: int
    cycles: float


def suits_columns(
    problems: Sequence[Problem], group: Group, target: Target, lanes: int
) -> bool:
    """Whether the columns are adjacent, and vectors along them clearly cheaper."""
    p = problems[0]
    phase = p.phase
    plain = len(problems) == 1 and phase.step == (1, 1) and phase.stride[1] == 1
    plain = plain and group.pool is None and p.groups == 1
    plain = plain and p.position_dims == "ncyx" and p.source.column == 1
    few = p.group_outputs <= lanes // 2 and 0 < len(phase.taps) <= MANY_TAPS
    if not plain or not few or static_phase(phase, p.size):
        return False
    steps = len(phase.taps) * p.group_inputs
    stores = phase.count[0] * -(-phase.count[1] // lanes) * 4.0 * lanes
    cycles = choose_block(p, target, lanes).cycles * steps + stores
    return ADVANTAGE * cycles <= direct_cycles(problems, target, lanes)


def choose_block(problem: Problem, target: Target, lanes: int) -> Block:
    """The cheapest for one step of the reduction over the whole image."""
    rows, columns = problem.phase.count
    whole, outputs = -(-columns // lanes), problem.group_outputs
    best = Block(1, 1, math.inf)
    for vectors in dict.fromkeys((1, whole)):
        for high in range(1, min(rows, MOST_ROWS) + 1):
            inputs = high * vectors
            if inputs * (outputs + 1) >= target.registers and inputs > 1:
                continue
            products = inputs * outputs / target.fma_per_cycle
            step = max(products, (inputs + outputs) / 2, target.fma_latency)
            cycles = -(-rows // high) * (whole // vectors) * step
            if cycles < best.cycles:
                best = Block(high, vectors, cycles)
    return best


class ColumnsEmitter:
    """Emits one phase: loops over blocks, a reduction for each."""

    def __init__(
        self, operands: Operands, target: Target, problem: Problem, group: Group
    ) -> None:
        self.b = operands.builder
        self.operands = operands
        self.p = problem
        self.group = group
        assert group.anchor is not None
        x, weight, *bias = group.anchor.inputs
        self.source = operands.read(x)
        self.out = operands.write(group.output)
        self.lanes = lanes = target.lanes(self.source.element)
        self.type = Type(self.source.element, lanes)
        self.block = choose_block(problem, target, lanes)
        taps = tuple((tap.ky, tap.kx) for tap in problem.phase.taps)
        pack = Pack("rows", axes=problem.weight_axes, taps=taps,
                    channels=problem.channels)  # fmt: skip
        self.weights = operands.packed(weight, pack)
        self.bias = operands.packed(bias[0], Pack("lanes")) if bias else None
        columns = problem.phase.count[1]
        self.valid = columns if columns < lanes else None
        self.last = max(columns - lanes, 0)

    def emit(self) -> None:
        rows, columns = self.p.phase.count
        high, wide = self.block.rows, self.block.vectors
        count = -(-columns // self.lanes)

        def row(n: Affine, y: Affine) -> None:
            if rows % high:
                y = self.b.minimum_index(y, rows - high)
            if wide == count:
                starts = [min(k * self.lanes, self.last) for k in range(count)]
                self._block(n, y, [affine(start) for start in starts])
                return
            self.b.loop(
                "x", 0, columns, self.lanes,
                lambda x: self._block(n, y, [self.b.minimum_index(x, self.last)]),
            )  # fmt: skip

        self.b.loop(
            "n", 0, self.p.images, 1,
            lambda n: self.b.loop("y", 0, rows, high, lambda y: row(n, y)),
        )  # fmt: skip

    def _block(self, n: Affine, y: Affine, columns: Sequence[Affine]) -> None:
        outputs = self.p.group_outputs
        start = [self._bias(o) for o in range(outputs)]
        places = [(r, x) for r in range(self.block.rows) for x in columns]
        extent, stride = self.p.reduce[0]
        source = self.p.source
        base = n * source.image + y * (self.p.phase.stride[0] * source.row)
        base = base + source.offset

        def channel(i: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            return self._taps(base + i * stride, i, places, sums)

        sums = self.b.fold("i", 0, extent, 1, tuple(start) * len(places), channel)
        for k, (r, x) in enumerate(places):
            totals = sums[k * outputs : (k + 1) * outputs]
            self._finish(n, y + r, x, totals)

    def _bias(self, o: int) -> Reg:
        if self.bias is None:
            return self.b.const(0.0, self.type)
        return self.b.load_splat(self.bias, o, self.type)

    def _taps(
        self,
        base: Affine,
        i: Affine,
        places: Sequence[tuple[int, Affine]],
        sums: tuple[Reg, ...],
    ) -> tuple[Reg, ...]:
        """One input channel: each input and each weight is loaded once a tap."""
        source, taps = self.p.source, self.p.phase.taps
        outputs, result = self.p.group_outputs, list(sums)
        down = self.p.phase.stride[0] * source.row
        for t, tap in enumerate(taps):
            # other taps read the same elements: see `register_tile`
            at = base + (tap.dy * source.row + tap.dx)
            pointer = self.b.pin(self.source, at)
            inputs = [
                self.b.load(pointer, x + r * down, self.type, self.valid)
                for r, x in places
            ]
            for o in range(outputs):
                index = i + (o * len(taps) + t) * self.p.group_inputs
                weight = self.b.load_splat(self.weights, index, self.type)
                for k, a in enumerate(inputs):
                    place = k * outputs + o
                    result[place] = self.b.fma(a, weight, result[place])
        return tuple(result)

    def _finish(self, n: Affine, y: Affine, x: Affine, totals: Sequence[Reg]) -> None:
        """Pointwise nodes channel by channel; then pixel by pixel where need be."""
        group, layout = self.group, self.operands.layouts[self.group.output]
        totals = [
            apply_chain(
                self.operands, group.inner, group.anchor_output, total,
                Position((n, affine(o), y, x), 3, self.valid),
            )
            for o, total in enumerate(totals)
        ]  # fmt: skip
        index = n * layout.stride(0) + y * layout.stride(2) + x * layout.stride(3)
        index = index + layout.offset
        if layout.stride(3) == 1:
            for o, total in enumerate(totals):
                at = index + o * layout.stride(1)
                self.b.store(self.out, at, total, self.valid)
            return
        assert layout.stride(1) == 1, "channels or columns are adjacent"
        zero = self.b.const(0.0, self.type)
        rows = [*totals, *[zero] * (self.lanes - len(totals))]
        for k, pixel in enumerate(self.b.transpose(rows)[: self.valid]):
            at = index + k * layout.stride(3)
            self.b.store(self.out, at, pixel, len(totals))

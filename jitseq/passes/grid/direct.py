"""Contractions in groups of few channels: a thread for each output.

Phases of a group's contraction enter; a kernel leaves. A thread adds up the products
of its output, or of its pooling window; neighbouring threads have neighbouring pixels.
"""

from __future__ import annotations

from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.program import Affine, Launch, Reg, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.index import Place, Problem, all_of
from jitseq.passes.grid.lowered import GridKernel, GridOperands, Scope
from jitseq.passes.grid.output import write_output
from jitseq.passes.lower.operands import ELEMENTS

GROUP_OUTPUTS = 8
"""Output channels of a group from which on a tile has enough columns to share what it
loads."""


def suits_direct(problem: Problem) -> bool:
    """Whether there are several groups, too narrow for tiles."""
    return problem.groups > 1 and problem.outputs < GROUP_OUTPUTS


def lower_direct(
    group: Group, problem: Problem, scope: Scope, suffix: str, cost: int | None
) -> GridKernel:
    """The kernel of phases of one size; ``cost`` is given where there are others."""
    operands = scope.operands()
    builder = operands.builder
    channels = problem.outputs * problem.groups
    per_image = len(problem.phases) * channels * problem.pixels_of_image
    items = per_image * (problem.images or 1)
    threads = scope.target.threads
    launch = Launch(threads, items, threads, problem.images is None)
    number = builder.block() * threads + builder.thread()
    total = problem.image_count(builder) * per_image

    def one() -> None:
        inner = (len(problem.phases), problem.groups, problem.outputs)
        image, phase, part, output, y, x = builder.coordinates(
            number, (0, *inner, *problem.pixels)
        )
        _Output(group, problem, operands, phase, part, output).emit(image, y, x)

    builder.when(builder.below(number, total), one)
    return scope.finish(group, operands, launch, suffix, cost=cost)


class _Output:
    """The instructions of one thread."""

    def __init__(
        self,
        group: Group,
        problem: Problem,
        operands: GridOperands,
        phase: Affine,
        part: Affine,
        output: Affine,
    ) -> None:
        assert group.anchor is not None
        self.fusion = group
        self.p = problem
        self.operands = operands
        self.b: GridBuilder = operands.builder
        self.x, self.weight, *bias = group.anchor.inputs
        self.bias = bias[0] if bias else None
        self.type = Type(ELEMENTS[self.x.type.dtype])
        self.phase = phase
        self.part = part
        self.output = output

    def emit(self, image: Affine, y: Affine, x: Affine) -> None:
        b, p = self.b, self.p
        high, wide = p.window
        results = b.local("results", self.type.element, p.window_size)

        def one(k: Affine) -> None:
            row = y * high + b.quotient(k, wide)
            column = x * wide + b.remainder(k, wide)
            b.store(results, k, self._sum(image, row, column))

        b.loop("k", 0, p.window_size, 1, one)
        place = Place(self.phase, image, self.part * p.outputs + self.output, y, x)
        write_output(
            self.operands, self.fusion, p, place,
            lambda k: b.load(results, k, self.type),
        )  # fmt: skip

    def _sum(self, image: Affine, y: Affine, x: Affine) -> Reg:
        """The sum of the products of one output, over taps and the group's channels."""
        b, p = self.b, self.p
        start = self._start()
        if not p.taps:
            return start
        y, x = y * p.phase.stride[0], x * p.phase.stride[1]
        source, weight, phase = p.source, p.weight, self.phase
        base = image * source.image + y * source.row + x * source.column
        base = base + self.part * (p.inputs * source.channel)
        weights = self.output * weight.output + self.part * weight.group

        def row(i: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            dy, ky = p.rows.offset(b, phase, i), p.rows.index(b, phase, i)
            in_row = p.inside(b, 0, y + dy, p.rows.offsets)

            def column(j: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
                dx, kx = p.columns.offset(b, phase, j), p.columns.index(b, phase, j)
                in_column = p.inside(b, 1, x + dx, p.columns.offsets)
                mask = all_of(b, [*in_row, *in_column])
                at = base + dy * source.row + dx * source.column
                weight_at = weights + ky * weight.row + kx * weight.column

                def channel(c: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
                    index = at + c * source.channel
                    a = self.operands.load_where(mask, self.x, index, self.type)
                    index = weight_at + c * weight.input
                    w = self.operands.load(self.weight, index, self.type)
                    return (b.fma(a, w, sums[0]),)

                return b.fold("c", 0, p.inputs, 1, sums, channel)

            return b.fold("kx", 0, p.columns.taps, 1, sums, column)

        (total,) = b.fold("ky", 0, p.rows.taps, 1, (start,), row)
        return total

    def _start(self) -> Reg:
        if self.bias is None:
            return self.b.const(0.0, self.type)
        index = self.part * self.p.outputs + self.output
        return self.operands.load(self.bias, affine(index), self.type)

"""Linear layers of few images: a warp for each output.

A phase whose pixels read their whole image enters; a kernel for few images leaves. The
lanes of a warp run along the products and add up what they have; its first lane
evaluates what follows. Rows of weights are read once for each image, without gaps.
"""

from __future__ import annotations

from jitseq.ir.program import Affine, Launch, Reg, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.index import Place, Problem
from jitseq.passes.grid.lowered import GridKernel, GridOperands, Scope
from jitseq.passes.grid.output import write_output
from jitseq.passes.lower.operands import ELEMENTS

WARPS = 16384
"""Outputs up to which there is a warp for each: with more of them, tiles fill the
processor and read each weight less often. An estimate, not measured."""

MOST_IMAGES = 1024

CHAINS = 4
"""Independent sums of a lane, whose loads are under way at once."""


def few_images(problem: Problem) -> int:
    """The most images for which a warp computes each output; 0 where none should."""
    if not problem.is_matrix or problem.window_size > 1:
        return 0
    outputs = problem.outputs * problem.pixels_of_image
    return min(MOST_IMAGES, WARPS // outputs)


def lower_small_batch(
    group: Group, problem: Problem, scope: Scope, images: tuple[int, int | None]
) -> GridKernel:
    """The kernel for the least to the most ``images``."""
    operands = scope.operands()
    _SmallBatch(group, problem, scope, operands).emit()
    warps = scope.target.threads // scope.target.warp
    outputs = problem.outputs * problem.pixels_of_image * (problem.images or 1)
    launch = Launch(scope.target.threads, outputs, warps, problem.images is None)
    return scope.finish(group, operands, launch, "few", images=images)


class _SmallBatch:
    """The instructions of one thread."""

    def __init__(
        self, group: Group, problem: Problem, scope: Scope, operands: GridOperands
    ) -> None:
        assert group.anchor is not None
        self.fusion = group
        self.p = problem
        self.operands = operands
        self.b = operands.builder
        self.warp = scope.target.warp
        self.threads = scope.target.threads
        self.x, self.weight, *bias = group.anchor.inputs
        self.bias = bias[0] if bias else None
        self.type = Type(ELEMENTS[self.x.type.dtype])

    def emit(self) -> None:
        b, p = self.b, self.p
        thread = b.thread()
        lane = b.remainder(thread, self.warp)
        number = b.block() * (self.threads // self.warp) + b.quotient(thread, self.warp)
        outputs = p.total(b) * p.outputs
        # all lanes take part in the sum, also those of warps behind the last output
        inside = b.minimum_index(number, outputs + -1)
        pixel, output = b.coordinates(inside, (0, p.outputs))
        total = b.warp_add(self._sum(pixel, output, lane), self.warp)

        def write() -> None:
            result = total
            if self.bias is not None:
                bias = self.operands.load(self.bias, output, self.type)
                result = b.binary("add", total, bias)
            image, y, x = p.pixel(b, pixel)
            place = Place(affine(0), image, output, y, x)
            write_output(self.operands, self.fusion, p, place, lambda _: result)

        b.when(b.both(b.below(lane, 1), b.below(number, outputs)), write)

    def _sum(self, pixel: Affine, output: Affine, lane: Affine) -> Reg:
        """What one lane adds up: products ``lane``, ``lane + warp``, …"""
        b, p = self.b, self.p
        zero = b.const(0.0, self.type)
        step = CHAINS * self.warp
        whole = p.products // step * step

        def steps(first: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            return tuple(
                self._add(pixel, output, first + lane + k * self.warp, None, total)
                for k, total in enumerate(sums)
            )

        sums = b.fold("k", 0, whole, step, (zero,) * CHAINS, steps)
        while len(sums) > 1:
            half = len(sums) // 2
            pairs = zip(sums[:half], sums[half:], strict=True)
            sums = tuple(b.binary("add", x, y) for x, y in pairs)

        def rest(first: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            product = first + lane
            mask = b.below(product, p.products)
            return (self._add(pixel, output, product, mask, sums[0]),)

        (total,) = b.fold("k", whole, p.products, self.warp, sums, rest)
        return total

    def _add(
        self, pixel: Affine, output: Affine, product: Affine, mask: Reg | None, sum: Reg
    ) -> Reg:
        products = self.p.products
        at, weight_at = pixel * products + product, output * products + product
        a = self.operands.load_where(mask, self.x, at, self.type)
        w = self.operands.load_where(mask, self.weight, weight_at, self.type)
        return self.b.fma(a, w, sum)

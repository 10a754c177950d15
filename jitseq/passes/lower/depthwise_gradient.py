"""Weight gradient of a depthwise convolution: vectors along the channels.

``dw[tap][c] += Σ_p g[p, c] · x[p + tap, c]``: a tile holds the sums of several taps
for one vector of channels. A few neighbouring pixels are computed together, so that an
element of x is loaded once for all taps that read it. Layouts of x, g and dw enter;
instructions that add to dw and to the biases' gradients leave. Invariant: x has the
halo that the taps reach into; no chain of additions is longer than ``CHAIN`` pixels,
or one image where that is more.
"""

from __future__ import annotations

from collections.abc import Callable

from jitseq.ir.compute import Contraction, Tap
from jitseq.ir.graph import Value
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.problem import image_count
from jitseq.passes.lower.product_loops import BLOCK, CHAIN, pixel_blocks

NEIGHBOURS = 2
"""Pixels that share loads of x: a 3 × 3 kernel then has 14 loads for 18 products."""


class DepthwiseGradientEmitter:
    """Emits loops over images, blocks of rows, channels and groups of taps."""

    def __init__(
        self,
        dw: Value,
        x: Value,
        g: Value,
        biases: tuple[Value, ...],
        record: Contraction,
        operands: Operands,
        target: Target,
    ) -> None:
        self.b = operands.builder
        (self.phase,) = record.phases
        self.source, self.other = operands.read(x), operands.read(g)
        self.out = operands.write(dw)
        self.totals = tuple(operands.write(bias) for bias in biases)
        layouts = operands.layouts
        self.x, self.g, self.dw = layouts[x], layouts[g], layouts[dw]
        self.channels = record.out_channels
        self.lanes = target.lanes(self.out.element)
        self.type = Type(self.out.element, self.lanes)
        # the others: cotangents, x, their total, a mask, one between the loops
        free = target.registers - NEIGHBOURS - 5
        taps = self.phase.taps
        self.groups = [taps[i : i + free] for i in range(0, len(taps), free)] or [()]
        self.blocks = pixel_blocks(self.phase.count, CHAIN)
        rows, columns = self.phase.count
        self.chunk = max(1, BLOCK // max(rows * columns, 1))
        self.images = image_count(self.b, self.x.dims[0][0][0])

    def emit(self) -> None:
        if self.blocks and self.phase.count[1]:
            self.b.loop("n", 0, self.images, self.chunk, self._images)

    def _images(self, n: Affine) -> None:
        last = self.b.minimum_index(n + self.chunk, self.images)
        starts, stops, _, _ = zip(*self.blocks, strict=True)

        def block(k: Affine) -> None:
            rows = (self.b.table(starts, k), self.b.table(stops, k))

            def channels(c: Affine, valid: int | None) -> None:
                for index, taps in enumerate(self.groups):
                    self._tile((n, last), rows, c, taps, index == 0, valid)

            whole = self.channels // self.lanes * self.lanes
            self.b.loop("c", 0, whole, self.lanes, lambda c: channels(c, None))
            if whole < self.channels:
                channels(affine(whole), self.channels - whole)

        self.b.loop("block", 0, len(self.blocks), 1, block)

    def _tile(
        self,
        images: tuple[Affine, Affine],
        rows: tuple[Affine, Affine],
        c: Affine,
        taps: tuple[Tap, ...],
        first: bool,
        valid: int | None,
    ) -> None:
        """Sums of some taps, and of g in the first tile, over rows of some images."""
        x, g = self.x, self.g
        stride_y, stride_x = self.phase.stride
        columns = self.phase.count[1]
        totals = first and bool(self.totals)
        zero = self.b.const(0.0, self.type)
        sums = (zero,) * (len(taps) + totals)

        def line(n: Affine, y: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            at = x.offset + n * x.stride(0) + y * (stride_y * x.stride(2))
            source = self.b.pin(self.source, at + c * x.stride(1))
            at = g.offset + n * g.stride(0) + y * g.stride(2)
            other = self.b.pin(self.other, at + c * g.stride(1))

            def pixels(
                count: int,
            ) -> Callable[[Affine, tuple[Reg, ...]], tuple[Reg, ...]]:
                def body(p: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
                    base = p * (stride_x * x.stride(3))
                    return self._pixels(
                        (source, base), (other, p * g.stride(3)), taps, count, sums,
                        valid,
                    )  # fmt: skip

                return body

            whole = columns // NEIGHBOURS * NEIGHBOURS
            sums = self.b.fold("x", 0, whole, NEIGHBOURS, sums, pixels(NEIGHBOURS))
            return self.b.fold("x", whole, columns, 1, sums, pixels(1))

        sums = self.b.fold(
            "n", *images, 1, sums,
            lambda n, s: self.b.fold("y", *rows, 1, s, lambda y, s: line(n, y, s)),
        )  # fmt: skip
        for tap, reg in zip(taps, sums):
            at = c * self.dw.stride(0) + self.dw.offset
            at = at + (tap.ky * self.dw.stride(2) + tap.kx * self.dw.stride(3))
            old = self.b.load(self.out, at, self.type, valid)
            self.b.store(self.out, at, self.b.binary("add", old, reg), valid)
        for bias in self.totals if totals else ():
            old = self.b.load(bias, c, self.type, valid)
            self.b.store(bias, c, self.b.binary("add", old, sums[-1]), valid)

    def _pixels(
        self,
        source: tuple[Reg, Affine],
        other: tuple[Reg, Affine],
        taps: tuple[Tap, ...],
        count: int,
        sums: tuple[Reg, ...],
        valid: int | None,
    ) -> tuple[Reg, ...]:
        """``count`` neighbours: each element of x into every product that reads it."""
        x, result = self.x, list(sums)
        step = self.g.stride(1)
        cotangents = [
            self.b.gather(
                other[0], other[1] + q * self.g.stride(3), self.type, step, valid
            )
            for q in range(count)
        ]
        for t in range(len(taps), len(sums)):
            for cotangent in cotangents:
                result[t] = self.b.binary("add", result[t], cotangent)
        uses: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for q in range(count):
            for t, tap in enumerate(taps):
                place = (tap.dy, tap.dx + q * self.phase.stride[1])
                uses.setdefault(place, []).append((t, q))
        for dy, dx in sorted(uses):
            at = source[1] + (dy * x.stride(2) + dx * x.stride(3))
            element = self.b.gather(source[0], at, self.type, x.stride(1), valid)
            for t, q in uses[(dy, dx)]:
                result[t] = self.b.fma(element, cotangents[q], result[t])
        return tuple(result)

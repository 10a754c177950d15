"""Transposed convolutions to few channels → kernels that add runs to rows.

Enters a `Spread`; leaves a loop over the rows of the result. A row is filled with the
bias, then each register tile sums the products of several input pixels over kernel
rows and input channels, and adds the resulting runs to the row, which is in L1. Last
the group's pointwise nodes pass over it. Invariant: every row is complete before the
next one starts, and nothing outside of it is read or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from jitseq.passes.lower.problem import image_count
from jitseq.passes.lower.spread import Rows, Spread, Strip, plan

UNROLLED_PRODUCTS = 64
"""FMAs in the body of the reduction loop that make its own cost disappear."""


@dataclass(frozen=True)
class Row:
    """Row ``start + step·j`` of the result, the taps that it has, its first element."""

    image: Affine
    y: Affine
    first: Affine
    stop: Affine
    rows: Rows
    weights: int
    source: Affine
    target: Affine


class Col2imEmitter:
    """Emits all phases of one transposed convolution."""

    def __init__(
        self, operands: Operands, target: Target, spread: Spread, group: Group
    ) -> None:
        self.b = operands.builder
        self.operands = operands
        self.s = spread
        self.group = group
        assert group.anchor is not None
        x, weight, *bias = group.anchor.inputs
        self.read, self.written = operands.layouts[x], operands.layouts[group.output]
        self.source = operands.read(x)
        self.out = operands.write(group.output)
        self.lanes = lanes = target.lanes(self.source.element)
        self.type = Type(self.source.element, lanes)
        self.parts = plan(spread, target, lanes)
        self.run = -(-spread.run // lanes) * lanes
        taps = tuple(
            (ky, spread.kx + i)
            for rows in spread.rows
            for ky, _ in rows.taps
            for i in range(spread.columns)
        )
        pack = Pack(
            "runs",
            axes="iohw",
            lanes=lanes,
            taps=taps,
            channels=((spread.inputs, 1),),
        )
        self.weights = operands.packed(weight, pack)
        by_lanes = Pack("lanes", lanes=lanes)
        self.bias = operands.packed(bias[0], by_lanes) if bias else None

    def emit(self) -> None:
        images = image_count(self.b, self.read.dims[0][0][0])
        self.b.loop("n", 0, images, 1, self._image)

    def _image(self, image: Affine) -> None:
        weights = 0
        for rows in self.s.rows:
            self._rows(image, rows, weights)
            weights += len(rows.taps) * self.s.inputs * self.run

    def _rows(self, image: Affine, rows: Rows, weights: int) -> None:
        active = [rows.active(j, self.s.in_size[0]) for j in range(rows.count)]
        read, written = self.read, self.written

        def row(j: Affine) -> None:
            y = j * self.s.step[0] + rows.start
            source = image * read.stride(0) + j * read.stride(2) + read.offset
            target = image * written.stride(0) + y * written.stride(2)
            first = self.b.table([first for first, _ in active], j)
            stop = self.b.table([stop for _, stop in active], j)
            target = target + written.offset
            self._row(Row(image, y, first, stop, rows, weights, source, target))

        self.b.loop("y", 0, rows.count, 1, row)

    def _row(self, row: Row) -> None:
        self._fill(row)
        whole = self.s.whole
        for part in self.parts if row.rows.taps else ():
            tiles = len(whole) // part.pixels
            strips = [
                strip
                for pixel in whole[: part.pixels]
                for strip in self.s.strips(pixel, part.vectors, self.lanes)
            ]
            self.b.loop(
                "x", 0, tiles * part.pixels, part.pixels,
                lambda x, strips=strips: self._tile(row, x, strips),  # type: ignore[misc]
            )  # fmt: skip
            for chunk in part.rest:
                self._tile(row, affine(0), chunk)
        if self.group.inner:
            self._finish(row)

    def _fill(self, row: Row) -> None:
        """Write the bias, or zeros, to the whole row."""
        channels = self.s.channels
        if self.bias is None or channels == 1:
            value = (
                self.b.load_splat(self.bias, 0, self.type)
                if self.bias
                else self.b.const(0.0, self.type)
            )
            self._along(
                self.s.width * channels,
                lambda e, valid: self.b.store(self.out, row.target + e, value, valid),
            )
            return
        bias = self.bias
        values = [
            self.b.load(bias, c, self.type) for c in range(0, channels, self.lanes)
        ]

        def pixel(x: Affine) -> None:
            for k, value in enumerate(values):
                c = k * self.lanes
                at = row.target + x * channels + c
                self.b.store(self.out, at, value, channels - c)

        self.b.loop("x", 0, self.s.width, 1, pixel)

    def _along(self, extent: int, body: object) -> None:
        """``body(element, valid)`` for whole vectors, then for the rest."""
        whole = extent // self.lanes * self.lanes
        self.b.loop("e", 0, whole, self.lanes, lambda e: body(e, None))  # type: ignore[operator]
        if extent > whole:
            body(affine(whole), extent - whole)  # type: ignore[operator]

    # the reduction

    def _tile(self, row: Row, x: Affine, strips: Sequence[Strip]) -> None:
        """Sum the strips' products over kernel rows and channels; add them."""
        zero = self.b.const(0.0, self.type)
        jumps = [dy * self.read.stride(2) for _, dy in row.rows.taps]
        block = self.s.inputs * self.run
        base = row.source + x * self.read.stride(3)

        def kernel_row(t: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            at = base + self.b.table(jumps, t)
            return self._channels(at, t * block + row.weights, strips, sums)

        sums = self.b.fold(
            "ky", row.first, row.stop, 1, (zero,) * len(strips), kernel_row
        )
        apart = -(-self.s.columns // self.s.step[1])
        # neighbouring runs overlap: those that do not are added first
        order = sorted(range(len(strips)), key=lambda k: strips[k].pixel % apart)
        for k in order:
            strip = strips[k]
            column = (x + strip.pixel) * self.s.step[1] + self.s.left
            at = row.target + column * self.s.channels + strip.first
            before = self.b.load(self.out, at, self.type, strip.valid)
            total = self.b.binary("add", before, sums[k])
            self.b.store(self.out, at, total, strip.valid)

    def _channels(
        self,
        source: Affine,
        weights: Affine,
        strips: Sequence[Strip],
        sums: tuple[Reg, ...],
    ) -> tuple[Reg, ...]:
        """Loop over input channels, several steps at a time."""
        extent, unroll = self.s.inputs, 1
        while unroll * 2 <= extent and len(strips) * unroll * 2 <= UNROLLED_PRODUCTS:
            unroll *= 2

        def body(
            i: Affine, sums: tuple[Reg, ...], steps: int = unroll
        ) -> tuple[Reg, ...]:
            for step in range(steps):
                at = source + (i + step) * self.read.stride(1)
                sums = self._step(at, weights + (i + step) * self.run, strips, sums)
            return sums

        whole = extent // unroll * unroll
        sums = self.b.fold("i", 0, whole, unroll, sums, body)
        return body(affine(whole), sums, extent - whole) if whole < extent else sums

    def _step(
        self,
        source: Affine,
        weights: Affine,
        strips: Sequence[Strip],
        sums: tuple[Reg, ...],
    ) -> tuple[Reg, ...]:
        """One input channel: each weight is loaded once, and each pixel."""
        loaded: dict[int, Reg] = {}
        for strip in strips:
            if strip.first not in loaded:
                at = weights + strip.first
                loaded[strip.first] = self.b.load(self.weights, at, self.type)
        pixels: dict[int, Reg] = {}
        result = []
        for strip, total in zip(strips, sums, strict=True):
            if strip.pixel not in pixels:
                at = source + strip.pixel * self.read.stride(3)
                pixels[strip.pixel] = self.b.load_splat(self.source, at, self.type)
            result.append(self.b.fma(pixels[strip.pixel], loaded[strip.first], total))
        return tuple(result)

    # the pointwise nodes

    def _finish(self, row: Row) -> None:
        """Pass over the row, along its elements where all operands lie like it."""
        channels, width = self.s.channels, self.s.width
        zero = affine(0)
        if channels == 1:
            self._along(width, lambda x, valid: self._apply(row, zero, x, 3, valid))
        elif self._operands_lie_alike():
            self._along(
                width * channels, lambda e, valid: self._apply(row, e, zero, 1, valid)
            )
        else:
            self.b.loop(
                "x", 0, width, 1,
                lambda x: self._along(
                    channels, lambda c, valid: self._apply(row, c, x, 1, valid)
                ),
            )  # fmt: skip

    def _operands_lie_alike(self) -> bool:
        """Whether elements that follow each other in the result do in all operands."""
        made = {node.output for node in self.group.nodes}
        read = {v for node in self.group.inner for v in node.inputs if v not in made}
        pixel = ((self.s.channels, 1), (self.s.width, self.s.channels))
        for value in read:
            layout = self.operands.layouts[value]
            if all(factors[0][0] == 1 for factors in layout.dims):
                continue
            if layout.ndim != 4 or (layout.dims[1][0], layout.dims[3][0]) != pixel:
                return False
        return True

    def _apply(
        self, row: Row, c: Affine, x: Affine, vector_dim: int, valid: int | None
    ) -> None:
        at = Position((row.image, c, row.y, x), vector_dim, valid)
        place = row.target + x * self.s.channels + c
        reg = self.b.load(self.out, place, self.type, valid)
        start, nodes = self.group.anchor_output, self.group.inner
        reg = apply_chain(self.operands, nodes, start, reg, at)
        store_at(self.operands, self.group.output, reg, at)

"""A contraction's tiles: which elements a block of threads multiplies.

Phases of a group's contraction enter; a kernel whose blocks compute tiles of pixels
× output channels leaves. The matrix of windows, whose lines are pixels and whose
columns are products, exists in shared memory only, panel by panel (`tile`).
Invariant: a block stores the outputs of its own tile, each once.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitseq.ir.program import Affine, Buffer, Launch, Reg, Type, affine
from jitseq.ir.target import GridTarget
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.index import Place, Problem, all_of
from jitseq.passes.grid.lowered import GridOperands, Scope
from jitseq.passes.grid.output import write_output
from jitseq.passes.grid.tile import ProductTile, TileShape, choose_shape
from jitseq.passes.lower.operands import ELEMENTS


@dataclass(frozen=True)
class PixelLine:
    """The first element that a pixel reads, and its row and column in the input."""

    base: Affine
    y: Affine
    x: Affine


@dataclass(frozen=True)
class PixelProduct:
    """The distance of a product's element, its tap, and whether there is one."""

    offset: Affine
    dy: Affine
    dx: Affine
    valid: Reg | None


class Pixels:
    """The windows of the input: an `Operand` whose lines are the outputs of a block.

    With w outputs in a pooling window, row ``i`` of a thread is output ``i % w`` of its
    window ``i // w``, so that threads hold whole windows.
    """

    def __init__(self, kernel: TiledKernel) -> None:
        self.k = kernel
        self.b = kernel.builder
        self.p = kernel.problem

    def line(self, number: Affine) -> PixelLine:
        p, b = self.p, self.b
        window, within = p.window_size, affine(0)
        if window > 1:
            thread, row = self.k.tile.thread_and_row(number)
            number = self.k.window(b.quotient(row, window), thread)
            within = b.remainder(row, window)
        number = self.k.clamped_pixel(number)
        if p.leading is not None:
            return PixelLine(number * p.source.column, affine(0), affine(0))
        image, y, x = p.pixel(b, number)
        high, wide = p.window
        y = (y * high + b.quotient(within, wide)) * p.phase.stride[0]
        x = (x * wide + b.remainder(within, wide)) * p.phase.stride[1]
        base = image * p.source.image + y * p.source.row + x * p.source.column
        channels = self.k.group * (p.inputs * p.source.channel)
        return PixelLine(base + channels, y, x)

    def product(self, number: Affine) -> PixelProduct:
        p, b = self.p, self.b
        valid = self.k.valid(number)
        if p.is_matrix:
            return PixelProduct(number, affine(0), affine(0), valid)
        channel, row, column = p.product(b, number)
        phase = self.k.phase
        dy, dx = p.rows.offset(b, phase, row), p.columns.offset(b, phase, column)
        offset = channel * p.source.channel + dy * p.source.row + dx * p.source.column
        return PixelProduct(offset, dy, dx, valid)

    def load(self, line: PixelLine, product: PixelProduct) -> Reg:
        p, b = self.p, self.b
        masks = [product.valid] if product.valid is not None else []
        masks += p.inside(b, 0, line.y + product.dy, p.rows.offsets)
        masks += p.inside(b, 1, line.x + product.dx, p.columns.offsets)
        index = line.base + product.offset
        x = self.k.x
        return self.k.operands.load_where(all_of(b, masks), x, index, self.k.type)


class Weights:
    """The weights of a group: an `Operand` whose lines are output channels."""

    def __init__(self, kernel: TiledKernel) -> None:
        self.k = kernel
        self.b = kernel.builder
        self.p = kernel.problem

    def line(self, number: Affine) -> Affine:
        weight = self.p.weight
        output = self.k.clamped_channel(number)
        return output * weight.output + self.k.group * weight.group

    def product(self, number: Affine) -> tuple[Affine, Reg | None]:
        p, b = self.p, self.b
        valid = self.k.valid(number)
        if p.dense_weight:
            return number, valid
        channel, row, column = p.product(b, number)
        phase = self.k.phase
        ky, kx = p.rows.index(b, phase, row), p.columns.index(b, phase, column)
        taps = ky * p.weight.row + kx * p.weight.column
        return channel * p.weight.input + taps, valid

    def load(self, line: Affine, product: tuple[Affine, Reg | None]) -> Reg:
        offset, valid = product
        weight, type = self.k.weight, self.k.type
        return self.k.operands.load_where(valid, weight, line + offset, type)


class TiledKernel:
    """A kernel under construction: a block computes a tile of pixels × channels."""

    def __init__(
        self, group: Group, problem: Problem, scope: Scope, target: GridTarget
    ) -> None:
        assert group.anchor is not None
        self.fusion = group
        self.problem = p = problem
        self.operands: GridOperands = scope.operands()
        self.builder = b = self.operands.builder
        self.x, self.weight, *bias = group.anchor.inputs
        self.bias = bias[0] if bias else None
        self.type = Type(ELEMENTS[self.x.type.dtype])
        self.shape: TileShape = choose_shape(
            target, p.outputs, p.products, p.window_size
        )
        self.tile = ProductTile(b, self.type, self.shape, target, not p.is_wide)
        self.column_tiles = -(-p.outputs // self.shape.block_columns)
        phase, self.group, first = b.coordinates(
            b.row(), (len(p.phases), p.groups, self.column_tiles)
        )
        self.phase = phase if len(p.phases) > 1 else affine(0)
        self.first_channel = first * self.shape.block_columns
        self.first_pixel = b.block() * self.block_pixels
        self.total = p.total(b)

    @property
    def block_pixels(self) -> int:
        """Pixels of a block, in pooling windows."""
        return self.shape.lines // self.problem.window_size

    @property
    def launch(self) -> Launch:
        p = self.problem
        items = p.pixels_of_image * (p.images or 1)
        rows = len(p.phases) * p.groups * self.column_tiles
        return Launch(
            self.shape.threads, items, self.block_pixels, p.images is None, rows
        )

    def window(self, number: Affine, thread: Affine) -> Affine:
        """The pixel of the block that is a window of a thread along the lines."""
        return number * self.shape.line_threads + thread

    def clamped_pixel(self, number: Affine) -> Affine:
        """A pixel of the block, or the last one of all instead of one behind it."""
        return self.builder.minimum_index(self.first_pixel + number, self.total + -1)

    def clamped_channel(self, number: Affine) -> Affine:
        """An output channel of the group, or its last one."""
        last = self.problem.outputs - 1
        return self.builder.minimum_index(self.first_channel + number, last)

    def valid(self, product: Affine) -> Reg | None:
        """Whether there is such a product; None where there always is."""
        products = self.problem.products
        if products % self.shape.depth == 0:
            return None
        return self.builder.below(product, products)

    @property
    def _whole_columns(self) -> bool:
        return self.problem.outputs % self.shape.block_columns == 0

    def emit(self) -> None:
        results = self._results()
        windows = self.shape.rows // self.problem.window_size
        self.builder.loop("i", 0, windows, 1, lambda i: self._window(results, i))

    def _results(self) -> Buffer:
        """The thread's sums.

        They are a copy, so that the loops around the products keep theirs in registers
        also where the loops that follow are not unrolled.
        """
        b, p = self.builder, self.problem
        outputs_adjacent = p.taps == 1 and p.weight.output < p.weight.input
        along_products = (not p.is_wide, not outputs_adjacent)
        steps = -(-p.products // self.shape.depth)
        operands = Pixels(self), Weights(self)
        sums = self.tile.sums(*operands, along_products, steps, self._start)
        results = b.local("results", self.type.element, sums.size)
        b.loop(
            "i", 0, sums.size, 1,
            lambda i: b.store(results, i, b.load(sums, i, self.type)),
        )  # fmt: skip
        return results

    def _window(self, results: Buffer, i: Affine) -> None:
        """Write a thread's window ``i``, in all of its columns."""
        b, p = self.builder, self.problem
        own = self.tile.line(i)
        if p.window_size > 1:
            own = self.window(i, self.tile.line_thread)
        number = self.first_pixel + own
        first = i * (p.window_size * self.shape.columns)

        def columns() -> None:
            pixel = p.pixel(b, number)
            b.loop(
                "j", 0, self.shape.columns, 1,
                lambda j: self._column(results, first + j, pixel, j),
            )  # fmt: skip

        b.when(b.below(number, self.total), columns)

    def _column(
        self, results: Buffer, first: Affine, pixel: tuple[Affine, ...], j: Affine
    ) -> None:
        """Write a window's output of the thread's channel ``j``."""
        b, p = self.builder, self.problem
        channel = self.first_channel + self.tile.column(j)
        of_all = channel + self.group * p.outputs
        place = Place(self.phase, pixel[0], of_all, *pixel[1:])

        def sum_of(k: int) -> Reg:
            return b.load(results, first + k * self.shape.columns, self.type)

        def write() -> None:
            write_output(self.operands, self.fusion, p, place, sum_of)

        if self._whole_columns:
            write()
        else:
            b.when(b.below(channel, p.outputs), write)

    def _start(self, column: Affine) -> Reg:
        """The bias of a thread's column."""
        if self.bias is None:
            return self.builder.const(0.0, self.type)
        channel = self.first_channel + self.tile.column(column)
        if not self._whole_columns:
            channel = self.clamped_channel(self.tile.column(column))
        index = channel + self.group * self.problem.outputs
        return self.operands.load(self.bias, index, self.type)

"""Gradients of weights: products of x and g summed over all pixels of all images.

A group with a `WeightGradient` enters; kernels leave. A gradient is a matrix product
whose lines are (input channel, kernel row, kernel column), whose columns are output
channels and whose products are the pixels of the batch. Those are dealt out to a number
of parts, which depends on shapes only, step by step: a first kernel stores the sums of
each part, a second one adds the parts in order. A group of few channels has a warp for
each weight and part. Gradients of biases, companions of the group, are sums of their
own. Invariant: a weight that no pixel reaches gets zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from jitseq.ir.compute import Reduction, WeightGradient
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.program import Affine, Launch, Reg, Type, affine
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.grid.direct import suits_direct
from jitseq.passes.grid.index import Problem, all_of, problems_of
from jitseq.passes.grid.lowered import GridKernel, GridOperands, Scope
from jitseq.passes.grid.reduction import lower_reduction
from jitseq.passes.grid.summation import add_parts
from jitseq.passes.grid.tile import ProductTile, choose_matrix_shape
from jitseq.passes.lower.operands import ELEMENTS

BLOCKS = 256
"""Blocks of tiles up to which the batch is cut into parts. An estimate."""

WARPS = 4096
"""Warps up to which the batch is cut into parts, where each sums one weight."""

EXPECTED_IMAGES = 64
PART_STEPS = 4
"""Steps of a part, at least, for the expected number of images."""


def lower_weight_gradient(
    group: Group, record: WeightGradient, scope: Scope
) -> list[GridKernel]:
    """The kernels of a weight gradient and of the bias gradients beside it."""
    gradient = _Gradient(group, record, scope)
    first = gradient.by_warps() if gradient.is_narrow else gradient.by_tiles()
    kernels = [first]
    if gradient.parts > 1:
        kernels.append(add_parts(group, gradient.target, group.output, scope))
    for node in group.companions:
        total = compute_of(node)
        assert isinstance(total, Reduction)
        kernels += lower_reduction(Group(node), total, scope)
    return kernels


@dataclass(frozen=True)
class WeightLine:
    """An input channel and tap: the distance of its elements from those of a pixel."""

    offset: Affine
    dy: Affine
    dx: Affine


@dataclass(frozen=True)
class PixelProduct:
    """A pixel of the batch: where the first tap reads x, where g is, if it is one."""

    source: Affine
    y: Affine
    x: Affine
    cotangent: Affine
    valid: Reg


class _Gradient:
    """The gradient under construction: what its lines, columns and products are."""

    def __init__(self, group: Group, record: WeightGradient, scope: Scope) -> None:
        assert group.anchor is not None
        self.fusion = group
        self.scope = scope
        self.x, self.g = group.anchor.inputs
        self.shape = group.output.type.shape
        (self.p,) = problems_of(record.forward, self.x, self.g, self.shape)
        self.kernel = self.shape[2:] if self.p.leading is None else (1, 1)
        self.lines = self.p.inputs * prod(self.kernel)
        self.offsets = (
            _all_offsets(self.p, 0, self.kernel[0]),
            _all_offsets(self.p, 1, self.kernel[1]),
        )
        self.tile_shape = choose_matrix_shape(scope.target, self.lines, self.p.outputs)
        self.line_tiles = -(-self.lines // self.tile_shape.lines)
        self.column_tiles = -(-self.p.outputs // self.tile_shape.block_columns)
        self.parts = self._parts()
        self.target = group.output
        if self.parts > 1:
            shape = (self.parts, *self.shape)
            self.target = scope.temporary(self.x.type.dtype, shape)
        self.operands: GridOperands = scope.operands()
        self.b: GridBuilder = self.operands.builder
        self.type = Type(ELEMENTS[self.x.type.dtype])

    @property
    def is_narrow(self) -> bool:
        return suits_direct(self.p)

    @property
    def _depth(self) -> int:
        """Products of a block, or of a warp, in a step."""
        return self.scope.target.warp if self.is_narrow else self.tile_shape.depth

    def _parts(self) -> int:
        """Into how many parts the pixels of the batch are cut."""
        if self.is_narrow:
            wanted = -(-WARPS // prod(self.shape))
        else:
            tiles = self.line_tiles * self.column_tiles * self.p.groups
            wanted = -(-BLOCKS // tiles)
        images = EXPECTED_IMAGES if self.p.images is None else self.p.images
        useful = images * self.p.pixels_of_image // (PART_STEPS * self._depth)
        return max(1, min(wanted, useful, self.scope.target.splits))

    def steps(self) -> Affine:
        """Steps of a part for any number of images."""
        step = self.parts * self._depth
        return self.b.quotient(self.p.total(self.b) + (step - 1), step)

    def line(self, number: Affine) -> WeightLine:
        b, source = self.b, self.p.source
        channel, ky, kx = b.coordinates(number, (0, *self.kernel))
        dy, dx = b.table(self.offsets[0], ky), b.table(self.offsets[1], kx)
        offset = channel * source.channel + dy * source.row + dx * source.column
        return WeightLine(offset, dy, dx)

    def pixel(self, number: Affine) -> PixelProduct:
        """The places of a pixel in the first channel of x and of g."""
        p, b = self.p, self.b
        valid = b.below(number, p.total(b))
        if p.leading is not None:
            source, cotangent = number * p.source.column, number * p.outputs
            return PixelProduct(source, affine(0), affine(0), cotangent, valid)
        image, inner = b.coordinates(number, (0, p.pixels_of_image))
        y, x = b.coordinates(inner, p.pixels)
        y, x = y * p.phase.stride[0], x * p.phase.stride[1]
        source = image * p.source.image + y * p.source.row + x * p.source.column
        step = p.outputs * p.groups * p.pixels_of_image
        return PixelProduct(source, y, x, image * step + inner, valid)

    @property
    def cotangent_step(self) -> int:
        """Elements of g between output channels."""
        return 1 if self.p.leading is not None else self.p.pixels_of_image

    def load_x(self, line: WeightLine, pixel: PixelProduct, channels: Affine) -> Reg:
        """The element of x, or zero outside of the image and behind the batch."""
        p, masks = self.p, [pixel.valid]
        masks += p.inside(self.b, 0, pixel.y + line.dy, self.offsets[0])
        masks += p.inside(self.b, 1, pixel.x + line.dx, self.offsets[1])
        index = pixel.source + line.offset + channels
        return self.operands.load_where(all_of(self.b, masks), self.x, index, self.type)

    def load_g(self, channel: Affine, pixel: PixelProduct) -> Reg:
        index = pixel.cotangent + channel * self.cotangent_step
        return self.operands.load_where(pixel.valid, self.g, index, self.type)

    # a tile for each block

    def by_tiles(self) -> GridKernel:
        """Blocks of the parts' tiles along the grid, groups and columns across it."""
        p, b, shape = self.p, self.b, self.tile_shape
        tile = ProductTile(b, self.type, shape, self.scope.target, False)
        part, line_tile = b.coordinates(b.block(), (0, self.line_tiles))
        of_group, column_tile = b.coordinates(b.row(), (0, self.column_tiles))
        if p.groups == 1:
            of_group = affine(0)
        first_line = line_tile * shape.lines
        first_column = column_tile * shape.block_columns
        lines = _Inputs(self, first_line, part * shape.depth, of_group)
        columns = _Cotangents(self, first_column, part * shape.depth, of_group)
        sums = tile.sums(
            lines, columns, (p.is_wide, p.is_wide), self.steps(),
            lambda _: b.const(0.0, self.type), self.parts,
        )  # fmt: skip
        out = self.operands.write(self.target)

        def row(i: Affine) -> None:
            line = first_line + tile.line(i)

            def store(j: Affine) -> None:
                column = first_column + tile.column(j)
                output = column + of_group * p.outputs
                index = part * prod(self.shape) + output * self.lines + line
                value = b.load(sums, i * shape.columns + j, self.type)
                inside = b.below(column, p.outputs)
                b.when(inside, lambda: b.store(out, index, value))

            inside = b.below(line, self.lines)
            b.when(inside, lambda: b.loop("j", 0, shape.columns, 1, store))

        b.loop("i", 0, shape.rows, 1, row)
        blocks = self.parts * self.line_tiles
        rows = p.groups * self.column_tiles
        launch = Launch(shape.threads, blocks, 1, False, rows)
        return self.scope.finish(self.fusion, self.operands, launch)

    # a warp for each weight

    def by_warps(self) -> GridKernel:
        """The lanes of a warp run along the pixels of a part."""
        p, b, warp = self.p, self.b, self.scope.target.warp
        threads, weights = self.scope.target.threads, prod(self.shape)
        thread = b.thread()
        lane = b.remainder(thread, warp)
        number = b.block() * (threads // warp) + b.quotient(thread, warp)
        total = self.parts * weights
        # all lanes take part in the sum, also those of warps behind the last weight
        part, weight = b.coordinates(
            b.minimum_index(number, total - 1), (self.parts, weights)
        )
        of_group, output, line_number = b.coordinates(
            weight, (p.groups, p.outputs, self.lines)
        )
        line = self.line(line_number)
        channels = of_group * (p.inputs * p.source.channel)
        channel = of_group * p.outputs + output
        first = part * warp + lane
        distance = self.parts * warp

        def step(k: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            pixel = self.pixel(first + k)
            x, g = self.load_x(line, pixel, channels), self.load_g(channel, pixel)
            return (b.fma(x, g, sums[0]),)

        zero = b.const(0.0, self.type)
        (lane_sum,) = b.fold(
            "k", 0, self.steps() * distance, distance, (zero,), step
        )  # fmt: skip
        result = b.warp_add(lane_sum, warp)
        out = self.operands.write(self.target)
        first_lane = b.both(b.below(lane, 1), b.below(number, total))
        b.when(first_lane, lambda: b.store(out, number, result))
        launch = Launch(threads, total, threads // warp, False)
        return self.scope.finish(self.fusion, self.operands, launch)


class _Inputs:
    """x, an `Operand` whose lines are input channels and taps."""

    def __init__(
        self, outer: _Gradient, first: Affine, pixels: Affine, of_group: Affine
    ) -> None:
        self.o = outer
        self.first = first
        self.pixels = pixels
        self.channels = of_group * (outer.p.inputs * outer.p.source.channel)

    def line(self, number: Affine) -> WeightLine:
        o = self.o
        return o.line(o.b.minimum_index(self.first + number, o.lines - 1))

    def product(self, number: Affine) -> PixelProduct:
        return self.o.pixel(self.pixels + number)

    def load(self, line: WeightLine, product: PixelProduct) -> Reg:
        return self.o.load_x(line, product, self.channels)


class _Cotangents:
    """g, an `Operand` whose lines are output channels."""

    def __init__(
        self, outer: _Gradient, first: Affine, pixels: Affine, of_group: Affine
    ) -> None:
        self.o = outer
        self.first = first
        self.pixels = pixels
        self.channels = of_group * outer.p.outputs

    def line(self, number: Affine) -> Affine:
        last = self.o.p.outputs - 1
        channel = self.o.b.minimum_index(self.first + number, last)
        return channel + self.channels

    def product(self, number: Affine) -> PixelProduct:
        return self.o.pixel(self.pixels + number)

    def load(self, line: Affine, product: PixelProduct) -> Reg:
        return self.o.load_g(line, product)


def _all_offsets(problem: Problem, axis: int, kernel: int) -> tuple[int, ...]:
    """The input offset of each kernel row (column); what reads nothing is outside."""
    taps = (problem.rows, problem.columns)[axis]
    known = dict(zip(taps.indices, taps.offsets, strict=True))
    return tuple(known.get(k, problem.size[axis]) for k in range(kernel))

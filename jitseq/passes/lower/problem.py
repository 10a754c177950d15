"""A contraction with all its numbers: strides, loops over channels, padding.

Enters the `Contraction` record of a node and the layouts of its tensors; leaves one
`Problem` for each phase, which the emitters (`contraction`, `dot`) read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jitseq.ir.compute import Contraction, Phase, Tap
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import Factors, Layout
from jitseq.ir.program import Affine, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group, compute_of, is_linear
from jitseq.passes.lower.operands import Operands

MANY_TAPS = 49
"""More taps than this are looped over instead of being unrolled."""

STATIC_PIXELS = 16
"""Up to this many pixels each get their own code, without the taps that read zeros."""


@dataclass(frozen=True)
class Walk:
    """Strides of a tensor seen as images of pixels, and its first element."""

    image: int
    row: int
    column: int
    offset: int


@dataclass(frozen=True)
class Problem:
    """One phase with all its numbers; what the tile emitter reads.

    ``reduce`` are the loops over input channels: (extent, stride), outermost first;
    ``channels`` are the same loops in terms of the logical channel number.
    """

    phase: Phase
    groups: int
    images: Affine
    source: Walk
    target: Walk
    reduce: tuple[tuple[int, int], ...]
    channels: tuple[tuple[int, int], ...]
    weight_axes: str
    group_stride: int
    group_outputs: int
    size: tuple[int, int]
    position_dims: str

    @property
    def group_inputs(self) -> int:
        count = 1
        for extent, _ in self.reduce:
            count *= extent
        return count

    @property
    def taps_are_overlapping(self) -> bool:
        return len(self.phase.taps) > 1


def image_count(builder: KernelBuilder, extent: int | None) -> Affine:
    return affine(builder.count) if extent is None else affine(extent)


def problems(
    record: Contraction,
    source: Layout,
    target: Layout,
    builder: KernelBuilder,
    mergeable: bool,
) -> list[Problem]:
    """The phases of a contraction with the strides of its tensors."""
    if is_linear(record):
        read, write, images = _rows_of_vectors(source, target)
        reduce, channels = _reduction_loops(source.dims[-1])
        dims = {1: "c", 2: "nc", 3: "nxc", 4: "nyxc"}[target.ndim]
        count = _linear_count(target)
        phases: tuple[Phase, ...] = (
            Phase((0, 0), (1, 1), count, (1, 1), record.phases[0].taps),
        )
        size = count
    else:
        read, write = _image_walk(source), _image_walk(target)
        images = source.dims[0][0][0]
        reduce = ((record.in_channels // record.groups, source.stride(1)),)
        channels = ((reduce[0][0], 1),)
        dims, phases, size = "ncyx", record.phases, record.in_size
    group_stride = reduce[0][0] * reduce[0][1] if record.groups > 1 else 0
    return [
        _merge_rows(
            Problem(
                phase, record.groups, image_count(builder, images), read, write,
                reduce, channels, record.weight_axes, group_stride,
                record.out_channels // record.groups, size, dims,
            ),
            mergeable,
        )
        for phase in phases
    ]  # fmt: skip


def _reduction_loops(
    factors: Factors,
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Loops over the features in memory order: by memory and by logical stride."""
    logical: list[tuple[int, int, int]] = []
    step = 1
    for extent, stride in reversed(factors):
        assert extent is not None
        logical.append((extent, stride, step))
        step *= extent
    loops: list[tuple[int, int, int]] = []
    for extent, stride, step in sorted(logical, key=lambda loop: -loop[1]):
        if loops and loops[-1][1:] == (extent * stride, extent * step):
            loops[-1] = (loops[-1][0] * extent, stride, step)
        else:
            loops.append((extent, stride, step))
    reduce = tuple((extent, stride) for extent, stride, _ in loops)
    return reduce, tuple((extent, step) for extent, _, step in loops)


def _image_walk(layout: Layout) -> Walk:
    return Walk(layout.stride(0), layout.stride(2), layout.stride(3), layout.offset)


def _linear_count(layout: Layout) -> tuple[int, int]:
    inner = [factors[0][0] or 1 for factors in layout.dims[1:-1]]
    return (inner[0], inner[1]) if len(inner) == 2 else (1, inner[0] if inner else 1)


def _rows_of_vectors(source: Layout, target: Layout) -> tuple[Walk, Walk, int | None]:
    """``[n, …, features]`` seen as images of one channel vector a pixel."""
    walks = []
    for layout in (source, target):
        strides = [layout.stride(dim) for dim in range(layout.ndim - 1)]
        image = strides[0] if strides else 0
        inner = [0, 0, *strides[1:]][-2:]
        walks.append(Walk(image, inner[0], inner[1], layout.offset))
    images = source.dims[0][0][0] if source.ndim > 1 else 1
    return walks[0], walks[1], images


def _merge_rows(problem: Problem, mergeable: bool) -> Problem:
    """A 1×1 convolution without gaps between rows is one long row."""
    phase, source, target = problem.phase, problem.source, problem.target
    rows, columns = phase.count
    plain = len(phase.taps) == 1 and phase.stride == (1, 1) and phase.step == (1, 1)
    joined = source.row == columns * source.column
    joined = joined and target.row == columns * target.column
    if not (
        mergeable
        and plain
        and joined
        and rows > 1
        and not reads_padding(phase, problem.size)
    ):
        return problem
    # a transposed convolution may skip the first rows: its tap has an offset
    (tap,) = phase.taps
    start = source.offset + tap.dy * source.row + tap.dx * source.column
    taps = (Tap(0, 0, tap.ky, tap.kx),)
    merged = Phase((0, 0), (1, 1), (1, rows * columns), (1, 1), taps)
    moved = replace(source, offset=start)
    return replace(problem, phase=merged, size=(1, rows * columns), source=moved)


def static_phase(phase: Phase, size: tuple[int, int]) -> bool:
    """Whether each output pixel gets code of its own, without taps that read zeros."""
    rows, columns = phase.count
    few = rows * columns <= STATIC_PIXELS and len(phase.taps) <= MANY_TAPS
    return few and reads_padding(phase, size)


def reads_padding(phase: Phase, size: tuple[int, int]) -> bool:
    """Whether some tap of a corner pixel reads outside of the input."""
    rows, columns = phase.count
    corners = [(y, x) for y in (0, rows - 1) for x in (0, columns - 1)]
    return any(
        not reads(phase, tap, y, x, size) for tap in phase.taps for y, x in corners
    )


def reads(phase: Phase, tap: Tap, y: int, x: int, size: tuple[int, int]) -> bool:
    """Whether a tap of output (y, x) reads inside of the input."""
    stride_y, stride_x = phase.stride
    inside_y = 0 <= stride_y * y + tap.dy < size[0]
    return inside_y and 0 <= stride_x * x + tap.dx < size[1]


def rows_merge(group: Group, operands: Operands) -> bool:
    """Whether the operands of the epilogue also see rows as one long row.

    Rows and columns are the last dimensions of an image; features follow them in the
    output of a linear layer. What is the same for all pixels is seen either way.
    """
    assert group.anchor is not None
    record = compute_of(group.anchor)
    assert isinstance(record, Contraction)
    columns = -2 if is_linear(record) else -1
    for node in group.inner:
        for value in node.inputs:
            layout = operands.layouts.get(value)
            if layout is None:
                continue
            height, y_stride = _extent_and_stride(layout, columns - 1)
            width, x_stride = _extent_and_stride(layout, columns)
            joined = y_stride == (width or 1) * x_stride and height != 1 and width != 1
            if not joined and not height == width == 1:
                return False
    return True


def _extent_and_stride(layout: Layout, dim: int) -> tuple[int | None, int]:
    """Of a dimension counted from the end; (1, 0) where the layout has fewer."""
    return layout.dims[dim][0] if -dim <= layout.ndim else (1, 0)


def direct_cycles(problems: Sequence[Problem], target: Target, lanes: int) -> float:
    """For one image with vectors of output channels, at full speed."""
    products = sum(_products(p.phase, p.size) for p in problems)
    first = problems[0]
    vectors = -(-first.group_outputs // lanes) * first.groups
    return products * first.group_inputs * vectors / target.fma_per_cycle


def _products(phase: Phase, size: tuple[int, int]) -> int:
    """Taps of all pixels, those outside of the input where code meets them."""
    rows, columns = phase.count
    if not static_phase(phase, size):
        return rows * columns * len(phase.taps)
    return sum(
        reads(phase, tap, y, x, size)
        for tap in phase.taps
        for y in range(rows)
        for x in range(columns)
    )

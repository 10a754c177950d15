"""Which element each row, column and product of a contraction reads.

A `Contraction` with the values of its node enters; a `Problem` for all phases of equal
size leaves, with which kernels turn numbers of pixels, output channels and products
into places of the input, the weight and the output. Invariant: all tensors are
row-major without gaps.

The products of an output are numbered by (input channel, kernel row, kernel column);
its pixels by (image, row, column), where a fused pooling window counts as one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jitseq.ir.compute import Contraction, Phase
from jitseq.ir.graph import Value
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.layout import extents
from jitseq.ir.program import Affine, Reg, affine
from jitseq.passes.fusion_group import Group, is_linear


@dataclass(frozen=True)
class Strides:
    """Elements between neighbours of a tensor seen as images of pixels."""

    image: int
    channel: int
    row: int
    column: int


@dataclass(frozen=True)
class WeightStrides:
    """Elements between neighbours of a weight, and between its groups."""

    output: int
    input: int
    row: int
    column: int
    group: int


@dataclass(frozen=True)
class Place:
    """An output: phase, image, channel of all groups, row and column of the phase."""

    phase: Affine
    image: Affine
    channel: Affine
    y: Affine
    x: Affine


@dataclass(frozen=True)
class TapAxis:
    """Kernel rows (or columns): input offsets and kernel indices, phase by phase."""

    offsets: tuple[int, ...]
    indices: tuple[int, ...]
    taps: int

    def offset(self, builder: GridBuilder, phase: Affine, number: Affine) -> Affine:
        return builder.table(self.offsets, phase * self.taps + number)

    def index(self, builder: GridBuilder, phase: Affine, number: Affine) -> Affine:
        return builder.table(self.indices, phase * self.taps + number)


@dataclass(frozen=True)
class Problem:
    """Phases of a contraction that differ in their taps and places only.

    ``images`` is None where the batch is a run-time number. ``leading`` are the extents
    of a linear layer's axes between the batch and the features, which are the columns
    of its only row; None for images.
    """

    phases: tuple[Phase, ...]
    rows: TapAxis
    columns: TapAxis
    groups: int
    inputs: int
    outputs: int
    images: int | None
    size: tuple[int, int]
    source: Strides
    weight: WeightStrides
    window: tuple[int, int]
    leading: tuple[int, ...] | None
    ndim: int

    @property
    def phase(self) -> Phase:
        """The first one; all have its counts, steps and strides."""
        return self.phases[0]

    @property
    def taps(self) -> int:
        return len(self.phase.taps)

    @property
    def products(self) -> int:
        """Products of one output."""
        return self.inputs * self.taps

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of the phase, in whole pooling windows."""
        (rows, columns), (high, wide) = self.phase.count, self.window
        return rows // high, columns // wide

    @property
    def window_size(self) -> int:
        return self.window[0] * self.window[1]

    @property
    def pixels_of_image(self) -> int:
        return math.prod(self.pixels)

    @property
    def flops(self) -> int:
        """Multiplications and additions for one image."""
        pixels = math.prod(self.phase.count) * len(self.phases)
        outputs = pixels * self.outputs * self.groups
        return 2 * outputs * self.products * (self.images or 1)

    @property
    def is_wide(self) -> bool:
        """Whether neighbouring pixels lie side by side in memory, channel by channel.

        Otherwise an image is one pixel, and channels lie side by side.
        """
        return self.leading is None and self.phase.count != (1, 1)

    @property
    def is_matrix(self) -> bool:
        """Whether product k reads element k of a pixel's input and of its weights."""
        whole = self.leading is not None or (
            self.phase.count == (1, 1)
            and self.rows.offsets == tuple(range(self.size[0]))
            and self.columns.offsets == tuple(range(self.size[1]))
        )
        return whole and self.dense_weight and self.groups == 1

    @property
    def dense_weight(self) -> bool:
        """Whether the weights of an output follow each other in order of products."""
        if len(self.phases) > 1:
            return False
        weight = self.weight
        offsets = [t.ky * weight.row + t.kx * weight.column for t in self.phase.taps]
        return offsets == list(range(self.taps)) and weight.input == self.taps

    def total(self, builder: GridBuilder) -> Affine:
        """Pixels of all images."""
        return self.image_count(builder) * self.pixels_of_image

    def image_count(self, builder: GridBuilder) -> Affine:
        return affine(builder.count if self.images is None else self.images)

    def pixel(self, builder: GridBuilder, number: Affine) -> tuple[Affine, ...]:
        """Image, row and column of a pixel, counted in pooling windows."""
        return builder.coordinates(number, (0, *self.pixels))

    def product(self, builder: GridBuilder, number: Affine) -> tuple[Affine, ...]:
        """Input channel of the group, and number of the kernel row and column."""
        return builder.coordinates(number, (0, self.rows.taps, self.columns.taps))

    def inside(
        self, builder: GridBuilder, axis: int, at: Affine, offsets: Sequence[int]
    ) -> list[Reg]:
        """Masks for a row (or column) inside of the image; none where it always is.

        ``at`` is what some pixel of the phase reads by one of ``offsets``.
        """
        if self.leading is not None:
            return []
        last = self.phase.stride[axis] * (self.phase.count[axis] - 1)
        masks = [builder.below(-1, at)] if min(offsets) < 0 else []
        if last + max(offsets) >= self.size[axis]:
            masks.append(builder.below(at, self.size[axis]))
        return masks

    def index(self, builder: GridBuilder, at: Place) -> tuple[Affine, ...]:
        """The logical index of an output; its pixel may be one of a pooled image."""
        if self.leading is not None:
            inner = builder.coordinates(at.x, self.leading) if self.leading else ()
            return (at.image, *inner, at.channel)[-self.ndim :]
        starts = [
            builder.table([phase.start[axis] for phase in self.phases], at.phase)
            for axis in (0, 1)
        ]
        step = self.phase.step
        y, x = at.y * step[0] + starts[0], at.x * step[1] + starts[1]
        return at.image, at.channel, y, x


def problems(record: Contraction, group: Group) -> list[Problem]:
    """The phases of a group's contraction."""
    assert group.anchor is not None
    x, weight = group.anchor.inputs[:2]
    return problems_of(record, x, group.anchor_output, weight.type.shape, group)


def problems_of(
    record: Contraction,
    x: Value,
    out: Value,
    weight: Sequence[int],
    group: Group | None = None,
) -> list[Problem]:
    """The phases of a contraction of ``x`` to ``out``, with a weight of that shape.

    Those with the same number of pixels and of taps are one problem.
    """
    outputs = record.out_channels // record.groups
    inputs = record.in_channels // record.groups
    shape = extents(x.type)
    images = shape[0] if x.type.ndim > 1 else 1
    phases, leading, size = record.phases, None, record.in_size
    if is_linear(record):
        leading = tuple(e or 1 for e in shape[1:-1])
        size = (1, math.prod(leading))
        phases = (Phase((0, 0), (1, 1), size, (1, 1), phases[0].taps),)
        source = Strides(size[1] * inputs, 1, 0, inputs)
    else:
        plane = size[0] * size[1]
        source = Strides(record.in_channels * plane, plane, size[1], 1)
    return [
        Problem(
            alike,
            *_tap_axes(alike),
            groups=record.groups,
            inputs=inputs,
            outputs=outputs,
            images=images,
            size=size,
            source=source,
            weight=_weight_strides(record, weight),
            window=group.pool_window if group else (1, 1),
            leading=leading,
            ndim=out.type.ndim,
        )
        for alike in _alike(phases)
    ]


def _alike(phases: Sequence[Phase]) -> list[tuple[Phase, ...]]:
    """Phases of the same size, in order of the first ones."""
    found: dict[object, list[Phase]] = {}
    for phase in phases:
        rows, columns = _tap_axes((phase,))
        found.setdefault((phase.count, rows.taps, columns.taps), []).append(phase)
    return [tuple(alike) for alike in found.values()]


def _tap_axes(phases: Sequence[Phase]) -> tuple[TapAxis, TapAxis]:
    """The rows and the columns of phases that have equally many of them."""
    rows, columns = zip(*map(_lattice, phases), strict=True)
    return _tap_axis(rows), _tap_axis(columns)


Offsets = list[tuple[int, int]]


def _lattice(phase: Phase) -> tuple[Offsets, Offsets]:
    """The rows and the columns whose product the taps of a phase are, in order."""
    rows = dict.fromkeys((tap.dy, tap.ky) for tap in phase.taps)
    columns = dict.fromkeys((tap.dx, tap.kx) for tap in phase.taps)
    lattice = [(dy, dx, ky, kx) for dy, ky in rows for dx, kx in columns]
    taps = [(tap.dy, tap.dx, tap.ky, tap.kx) for tap in phase.taps]
    assert lattice == taps, "the taps of a phase are rows times columns"
    return list(rows), list(columns)


def _tap_axis(phases: Sequence[Offsets]) -> TapAxis:
    pairs = [pair for phase in phases for pair in phase]
    offsets, indices = tuple(d for d, _ in pairs), tuple(k for _, k in pairs)
    return TapAxis(offsets, indices, len(phases[0]))


def _weight_strides(record: Contraction, shape: Sequence[int]) -> WeightStrides:
    height, width = shape[2:] if len(shape) == 4 else (1, 1)
    inner, outer = height * width, shape[1] * height * width
    per_group = shape[0] // record.groups * outer
    if record.weight_axes in ("oihw", "oi"):
        return WeightStrides(outer, inner, width, 1, per_group)
    return WeightStrides(inner, outer, width, 1, per_group)


def all_of(builder: GridBuilder, masks: Sequence[Reg]) -> Reg | None:
    """The conjunction of masks; None where there are none."""
    found: Reg | None = None
    for mask in masks:
        found = mask if found is None else builder.both(found, mask)
    return found

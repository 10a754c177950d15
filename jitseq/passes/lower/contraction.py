"""Convolution, transposed convolution and linear layers: the loops around the tiles.

All are ``out[n, y, x, o] = Σ_t Σ_i a[n, s·y + dy(t), s·x + dx(t), i] · w[t, i, o]``
(`ir.compute.Phase`). The vectors run along the output channels; `register_tile` keeps
``outputs × vectors`` accumulators in registers. Where there are few output channels
the vectors run along the reduction instead (`lower/dot.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jitseq.ir.program import ELEMENT_BYTES, Affine, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import Operands, Pack
from jitseq.passes.lower.problem import MANY_TAPS, Problem, static_phase
from jitseq.passes.lower.register_tile import Channels, RegisterTile
from jitseq.passes.tile import LARGEST_IMAGES, Tile, choose_tile, image_counts

ALIASING_BYTES = 4096
ALIASED_IMAGES = 12
"""Images whose distance is a multiple of 4 KiB share the ways of one cache set: more
than these push each other out (2048 → 10 features, 64 images: 50 to 22 µs)."""

IMAGES_OUTERMOST_BYTES = 128 << 10
"""Weights up to this size stay in cache while images pass by, one after the other."""


class ContractionEmitter:
    """Emits the loops and tiles of one phase."""

    def __init__(
        self,
        operands: Operands,
        target: Target,
        problem: Problem,
        group: Group,
    ) -> None:
        self.b = operands.builder
        self.operands = operands
        self.machine = target
        self.p = problem
        self.group = group
        assert group.anchor is not None
        x, weight, *bias = group.anchor.inputs
        self.source = operands.read(x)
        element = self.source.element
        self.lanes = target.lanes(element)
        self.type = Type(element, self.lanes)
        self.taps = taps = problem.phase.taps
        self.vectors = -(-problem.group_outputs // self.lanes)
        self.tile = self._choose()
        self.unrolled = len(taps) <= MANY_TAPS
        self.widths = self._widths()
        self.weights = operands.packed(weight, self._weight_pack()) if taps else None
        lanes_pack = Pack("lanes", groups=problem.groups, lanes=self.lanes)
        self.bias = operands.packed(bias[0], lanes_pack) if bias else None

    def _choose(self) -> Tile:
        rows, columns = self.p.phase.count
        ph, pw = self.group.pool_window
        steps = max(1, len(self.taps)) * self.p.group_inputs
        distance = self.p.source.image * ELEMENT_BYTES[self.source.element]
        aliased = distance % ALIASING_BYTES == 0
        return choose_tile(
            self.machine,
            rows // ph * ph,
            columns // pw * pw,
            self.vectors,
            steps,
            (ph, pw),
            ALIASED_IMAGES if aliased else LARGEST_IMAGES,
        )

    @property
    def static(self) -> bool:
        return static_phase(self.p.phase, self.p.size)

    def _widths(self) -> tuple[int, ...]:
        whole, rest = divmod(self.vectors, self.tile.vectors)
        return (self.tile.vectors,) * whole + ((rest,) if rest else ())

    def _weight_pack(self) -> Pack:
        return Pack(
            "weights",
            groups=self.p.groups,
            lanes=self.lanes,
            widths=self.widths,
            axes=self.p.weight_axes,
            taps=tuple((tap.ky, tap.kx) for tap in self.taps),
            channels=self.p.channels,
            taps_outer=not self.unrolled,
        )

    @property
    def weight_bytes(self) -> int:
        steps = len(self.taps) * self.p.group_inputs
        bytes_per_vector = self.machine.vector_bytes
        return self.p.groups * steps * self.vectors * bytes_per_vector

    # loops around the tile

    def emit(self) -> None:
        if self.weight_bytes <= IMAGES_OUTERMOST_BYTES and self.tile.images == 1:
            self.b.loop("n", 0, self.p.images, 1, self._one_image)
        else:
            self._groups(self._image_loops)

    def _one_image(self, image: Affine) -> None:
        self._groups(lambda channels, width: self._pixels(1, image, channels, width))

    def _groups(self, body: Callable[[Channels, int], None]) -> None:
        """Loop over groups and over tiles of output channels.

        The last tile is a body of its own when it is narrower than the others or
        when its last vector is not full.
        """

        def one_group(group: Affine) -> None:
            valid = self.p.group_outputs - (self.vectors - 1) * self.lanes
            masked = valid < self.lanes
            width = self.tile.vectors
            whole = len([w for w in self.widths if w == width])
            if self.widths[-1] == width and masked:
                whole -= 1
            self.b.loop(
                "tile", 0, whole * width, width,
                lambda v: body(Channels(group, v, None), width),
            )  # fmt: skip
            if whole < len(self.widths):
                inside = valid if masked else None
                last = Channels(group, affine(whole * width), inside)
                body(last, self.widths[-1])

        self.b.loop("group", 0, self.p.groups, 1, one_group)

    def _image_loops(self, channels: Channels, width: int) -> None:
        start = affine(0)
        for images in image_counts(self.tile.images):
            stop = start + self.b.round_down(self.p.images + start * -1, images)
            body = partial(self._pixels, images, channels=channels, width=width)
            self.b.loop("n", start, stop, images, body)
            start = stop

    def _pixels(
        self,
        images: int,
        image: Affine,
        channels: Channels,
        width: int,
    ) -> None:
        """Loop over tiles of pixels; the last tile overlaps its neighbour.

        Rows and columns are counted in whole pooling windows.
        """
        ph, pw = self.group.pool_window
        rows, columns = self.p.phase.count[0] // ph, self.p.phase.count[1] // pw
        tile = Tile(images, self.tile.rows, self.tile.columns, width)
        high, wide = tile.rows // ph, tile.columns // pw
        if self.static:
            for y in range(0, rows, high):
                for x in range(0, columns, wide):
                    at = (min(y, rows - high) * ph, min(x, columns - wide) * pw)
                    place = (image, affine(at[0]), affine(at[1]))
                    RegisterTile(self, tile, place, channels, at).emit()
            return

        def column(y: Affine, x: Affine) -> None:
            if columns % wide:
                x = self.b.minimum_index(x, columns - wide)
            RegisterTile(self, tile, (image, y * ph, x * pw), channels, None).emit()

        def row(y: Affine) -> None:
            if rows % high:
                y = self.b.minimum_index(y, rows - high)
            self.b.loop("x", 0, columns, wide, lambda x: column(y, x))

        self.b.loop("y", 0, rows, high, row)

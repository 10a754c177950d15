"""Convolution, transposed convolution and linear layers → register-tiled kernels.

All are ``out[n, y, x, o] = Σ_t Σ_i a[n, s·y + dy(t), s·x + dx(t), i] · w[t, i, o]``
(`ir.compute.Phase`). The vectors run along the output channels; a tile keeps
``outputs × vectors`` accumulators in registers, each step multiplies one broadcast
element of ``a`` by packed weights. Where there are few output channels the vectors
run along the reduction instead (`lower/dot.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jitseq.ir.compute import Contraction, Phase, Tap
from jitseq.ir.graph import Value
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import Factors, Layout
from jitseq.ir.program import ELEMENT_BYTES, Affine, Buffer, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import (
    Epilogue,
    Operands,
    Pack,
    Position,
    fetch,
    zero_halo,
)
from jitseq.passes.tile import Tile, choose_tile, image_counts

MANY_TAPS = 49
"""More taps than this are looped over instead of being unrolled."""

STATIC_PIXELS = 16
"""Up to this many pixels each get their own code, without the taps that read zeros."""

IMAGES_OUTERMOST_BYTES = 128 << 10
"""Weights up to this size stay in cache while images pass by, one after the other."""

PREFETCH_BYTES = 8192
"""How far ahead weights are asked for where reading them is what takes time: 1.2 to
1.5 times faster for one image from L2 and L3; slower by a third in tiles that compute
more (measured at 1, 2, 4 and 8 KiB)."""

PREFETCH_OUTPUTS = 4
"""Outputs of a tile up to which a weight serves too few products to hide its load."""

Registers = dict[tuple[int, int], Reg]


@dataclass(frozen=True)
class Walk:
    """Strides (image, row, column) of a tensor seen as images, and its first element."""

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
    if record.weight_axes == "oi":
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
                reduce, channels, record.weight_axes, group_stride, record.out_channels // record.groups, size, dims,
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
    if not (mergeable and plain and joined and rows > 1 and not reads_padding(phase, problem.size)):
        return problem
    merged = Phase((0, 0), (1, 1), (1, rows * columns), (1, 1), phase.taps)
    return Problem(
        merged, problem.groups, problem.images, source, target, problem.reduce,
        problem.channels, problem.weight_axes, problem.group_stride,
        problem.group_outputs, (1, rows * columns), problem.position_dims,
    )  # fmt: skip


class ContractionEmitter:
    """Emits the loops and tiles of one phase."""

    def __init__(
        self,
        operands: Operands,
        target: Target,
        problem: Problem,
        group: Group,
        buffers: tuple[Buffer, Buffer, Value, Value | None],
    ) -> None:
        self.b = operands.builder
        self.operands = operands
        self.machine = target
        self.p = problem
        self.group = group
        self.source, self.out, weight, bias = buffers
        element = self.source.element
        self.lanes = target.lanes(element)
        self.type = Type(element, self.lanes)
        self.taps = taps = problem.phase.taps
        self.inner = Epilogue(self.b, group.inner)
        self.outer = Epilogue(self.b, group.outer)
        self.vectors = -(-problem.group_outputs // self.lanes)
        self.tile = self._choose()
        self.unrolled = len(taps) <= MANY_TAPS
        self.widths = self._widths()
        self.weights = operands.packed(weight, self._weight_pack()) if taps else None
        lanes_pack = Pack("lanes", groups=problem.groups, lanes=self.lanes)
        self.bias = operands.packed(bias, lanes_pack) if bias else None

    def _choose(self) -> Tile:
        rows, columns = self.p.phase.count
        ph, pw = self.group.pool_window
        steps = max(1, len(self.taps)) * self.p.group_inputs
        return choose_tile(
            self.machine, rows // ph * ph, columns // pw * pw, self.vectors, steps, (ph, pw)
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

    def streams_weights(self, outputs: int) -> bool:
        """Whether a tile of so many outputs waits for weights from beyond L1."""
        far = self.weight_bytes > self.machine.l1_bytes
        return far and outputs <= PREFETCH_OUTPUTS

    # loops around the tile

    def emit(self) -> None:
        if self.weight_bytes <= IMAGES_OUTERMOST_BYTES and self.tile.images == 1:
            self.b.loop("n", 0, self.p.images, 1, self._one_image)
        else:
            self._groups(self._image_loops)

    def _one_image(self, image: Affine) -> None:
        self._groups(lambda *channel: self._pixels(1, image, *channel))

    def _groups(self, body: Callable[[Affine, Affine, int, int | None], None]) -> None:
        """Loop over groups and over tiles of output channels.

        The last tile is a body of its own when it is narrower than the others or
        when its last vector is not full.
        """

        def one_group(group: Affine) -> None:
            valid = self.p.group_outputs - (self.vectors - 1) * self.lanes
            partial = valid < self.lanes
            width = self.tile.vectors
            whole = len([w for w in self.widths if w == width])
            if self.widths[-1] == width and partial:
                whole -= 1
            self.b.loop(
                "tile", 0, whole * width, width, lambda v: body(group, v, width, None)
            )
            if whole < len(self.widths):
                last = affine(whole * width)
                body(group, last, self.widths[-1], valid if partial else None)

        self.b.loop("group", 0, self.p.groups, 1, one_group)

    def _image_loops(self, group: Affine, vector: Affine, width: int, valid: int | None) -> None:
        start = affine(0)
        for images in image_counts(self.tile.images):
            stop = start + self.b.round_down(self.p.images + start * -1, images)
            self.b.loop(
                "n", start, stop, images,
                lambda n, images=images: self._pixels(images, n, group, vector, width, valid),
            )  # fmt: skip
            start = stop

    def _pixels(
        self,
        images: int,
        image: Affine,
        group: Affine,
        vector: Affine,
        width: int,
        valid: int | None,
    ) -> None:
        """Loop over tiles of pixels; the last tile overlaps its neighbour.

        Rows and columns are counted in whole pooling windows.
        """
        ph, pw = self.group.pool_window
        rows, columns = self.p.phase.count[0] // ph, self.p.phase.count[1] // pw
        tile = Tile(images, self.tile.rows, self.tile.columns, width)
        high, wide = tile.rows // ph, tile.columns // pw
        channel = (group, vector, valid)
        if self.static:
            for y in range(0, rows, high):
                for x in range(0, columns, wide):
                    at = (min(y, rows - high) * ph, min(x, columns - wide) * pw)
                    TileEmitter(self, tile, image, *map(affine, at), channel, at).emit()
            return

        def column(y: Affine, x: Affine) -> None:
            if columns % wide:
                x = self.b.minimum_index(x, columns - wide)
            TileEmitter(self, tile, image, y * ph, x * pw, channel, None).emit()

        def row(y: Affine) -> None:
            if rows % high:
                y = self.b.minimum_index(y, rows - high)
            self.b.loop("x", 0, columns, wide, lambda x: column(y, x))

        self.b.loop("y", 0, rows, high, row)


class TileEmitter:
    """Emits one register tile: reduction, epilogue, stores."""

    def __init__(
        self,
        outer: ContractionEmitter,
        tile: Tile,
        image: Affine,
        y: Affine,
        x: Affine,
        channel: tuple[Affine, Affine, int | None],
        at: tuple[int, int] | None,
    ) -> None:
        self.o = outer
        self.b = outer.b
        self.p = outer.p
        self.tile = tile
        self.image, self.y, self.x = image, y, x
        self.group, self.vector, self.valid = channel
        self.at = at
        self.pixels = [
            (n, r, c)
            for n in range(tile.images)
            for r in range(tile.rows)
            for c in range(tile.columns)
        ]

    def emit(self) -> None:
        accumulators = self._reduce()
        regs = {
            key: self._inner(key, reg)
            for key, reg in zip(self._keys(), accumulators, strict=True)
        }
        if self.o.group.pool is None:
            for (pixel, v), reg in regs.items():
                self._store(self.pixels[pixel], v, reg)
        else:
            self._pool(regs)

    def _keys(self) -> list[tuple[int, int]]:
        width = self.tile.vectors
        return [(p, v) for p in range(len(self.pixels)) for v in range(width)]

    # the reduction

    def _reduce(self) -> tuple[Reg, ...]:
        """Sums of products, started from the bias; short chains run side by side."""
        count = len(self.pixels) * self.tile.vectors
        start = self._start()
        accumulators = tuple(start[v] for _ in self.pixels for v in range(self.tile.vectors))
        active = self._active_taps()
        if not active:
            return accumulators
        unroll, chains = self._unrolling(count)
        extra = (chains - 1) * count
        if extra:
            zero = self.b.const(0.0, self.o.type)
            accumulators += (zero,) * extra
        sums = self._reduce_taps(active, accumulators, unroll, chains)
        while len(sums) > count:
            half = len(sums) // 2
            pairs = zip(sums[:half], sums[half:], strict=True)
            sums = tuple(self.b.binary("add", a, b) for a, b in pairs)
        return sums

    def _start(self) -> list[Reg]:
        if self.o.bias is None:
            return [self.b.const(0.0, self.o.type)] * self.tile.vectors
        lanes = self.o.lanes
        base = self.group * (self.o.vectors * lanes) + self.vector * lanes
        return [
            self.b.load(self.o.bias, base + v * lanes, self.o.type)
            for v in range(self.tile.vectors)
        ]

    def _active_taps(self) -> list[tuple[int, Tap, tuple[int, ...]]]:
        """Each tap's index and the pixels for which it reads inside of the input."""
        everything = tuple(range(len(self.pixels)))
        if self.at is None:
            return [(i, tap, everything) for i, tap in enumerate(self.o.taps)]
        y0, x0 = self.at
        active = []
        for i, tap in enumerate(self.o.taps):
            reading = tuple(
                k
                for k, (_, r, c) in enumerate(self.pixels)
                if reads(self.p.phase, tap, y0 + r, x0 + c, self.p.size)
            )
            if reading:
                active.append((i, tap, reading))
        return active

    def _unrolling(self, count: int) -> tuple[int, int]:
        """Steps in the loop's body, and independent sums (a power of two)."""
        machine = self.o.machine
        taps = len(self.o.taps) if self.o.unrolled else 1
        extent = self.p.reduce[-1][0]
        busy = machine.fma_latency * machine.fma_per_cycle
        chains = 1
        while count * chains < busy and chains * 2 <= extent:
            chains *= 2
        unroll = max(chains, 1)
        while unroll * 2 <= extent and count * taps * unroll * 2 <= 64:
            unroll *= 2
        return unroll, chains

    def _reduce_taps(
        self,
        active: list[tuple[int, Tap, tuple[int, ...]]],
        accumulators: tuple[Reg, ...],
        unroll: int,
        chains: int,
    ) -> tuple[Reg, ...]:
        source = self.p.source
        stride_y, stride_x = self.p.phase.stride
        base = self.image * source.image + self.group * self.p.group_stride + source.offset
        base = base + self.y * (stride_y * source.row) + self.x * (stride_x * source.column)
        if self.o.unrolled:
            offsets = [
                (i, affine(tap.dy * source.row + tap.dx * source.column), reading)
                for i, tap, reading in active
            ]
            return self._channels(base, affine(0), offsets, accumulators, unroll, chains)
        moves = [tap.dy * source.row + tap.dx * source.column for tap in self.o.taps]
        block = self.p.group_inputs * self.tile.vectors * self.o.lanes
        reading = tuple(range(len(self.pixels)))

        def one_tap(t: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            at = base + self.b.table(moves, t)
            return self._channels(
                at, t * block, [(0, affine(0), reading)], sums, unroll, chains
            )

        return self.b.fold("tap", 0, len(moves), 1, accumulators, one_tap)

    def _channels(
        self,
        base: Affine,
        weight_base: Affine,
        taps: list[tuple[int, Affine, tuple[int, ...]]],
        accumulators: tuple[Reg, ...],
        unroll: int,
        chains: int,
    ) -> tuple[Reg, ...]:
        """Loop over input channels, the innermost loop ``unroll`` steps at a time."""
        *outer, (extent, stride) = self.p.reduce
        tap_count = len(self.o.taps) if self.o.unrolled else 1
        row = tap_count * self.tile.vectors * self.o.lanes
        per_vector = len(self.o.taps) * self.p.group_inputs * self.o.lanes
        tile_base = self.group * (self.o.vectors * per_vector) + self.vector * per_vector
        tile_base = tile_base + weight_base

        def innermost(a: Affine, w: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            def body(i: Affine, sums: tuple[Reg, ...], steps: int = unroll) -> tuple[Reg, ...]:
                for step in range(steps):
                    at = a + (i + step) * stride
                    sums = self._step(at, w + (i + step) * row, taps, sums, step % chains)
                return sums

            whole = extent // unroll * unroll
            sums = self.b.fold("i", 0, whole, unroll, sums, body)
            return body(affine(whole), sums, extent - whole) if whole < extent else sums

        def nest(
            depth: int, a: Affine, w: Affine, sums: tuple[Reg, ...], inner: int
        ) -> tuple[Reg, ...]:
            if depth == len(outer):
                return innermost(a, w, sums)
            count, step = outer[depth]
            inner //= count
            return self.b.fold(
                f"i{depth}", 0, count, 1, sums,
                lambda i, sums: nest(depth + 1, a + i * step, w + i * (inner * row), sums, inner),
            )  # fmt: skip

        return nest(0, base, tile_base, accumulators, self.p.group_inputs)

    def _step(
        self,
        at: Affine,
        weight_at: Affine,
        taps: list[tuple[int, Affine, tuple[int, ...]]],
        sums: tuple[Reg, ...],
        chain: int,
    ) -> tuple[Reg, ...]:
        """One input channel, all unrolled taps."""
        width, lanes, type = self.tile.vectors, self.o.lanes, self.o.type
        packed = self.o.weights
        assert packed is not None
        result = list(sums)
        first = chain * len(self.pixels) * width
        for index, offset, reading in taps:
            places = [weight_at + (index * width + v) * lanes for v in range(width)]
            weights = [self.b.load(packed, place, type) for place in places]
            if self.o.streams_weights(len(self.pixels)):
                ahead = PREFETCH_BYTES // ELEMENT_BYTES[type.element]
                for place in places:
                    self.b.prefetch(packed, place + ahead)
            pointer: Buffer | Reg = self.o.source
            start = at + offset
            if self.p.taps_are_overlapping:
                # The same element serves other taps of other pixels; without the
                # pin LLVM would keep such elements in registers, and spill.
                pointer, start = self.b.pin(pointer, start), affine(0)
            for pixel in reading:
                a = self.b.load_splat(pointer, start + self._shift(pixel), type)
                for v in range(width):
                    k = first + pixel * width + v
                    result[k] = self.b.fma(a, weights[v], result[k])
        return tuple(result)

    def _shift(self, pixel: int) -> int:
        image, row, column = self.pixels[pixel]
        source = self.p.source
        stride_y, stride_x = self.p.phase.stride
        shift = image * source.image + row * stride_y * source.row
        return shift + column * stride_x * source.column

    # epilogue and stores

    def _position(self, pixel: tuple[int, int, int], v: int, scale: tuple[int, int]) -> Position:
        """Logical index of an output; ``scale`` is the pooling window it belongs to."""
        image, row, column = pixel
        phase = self.p.phase
        y = self.y.exact_divide(scale[0]) + row // scale[0]
        x = self.x.exact_divide(scale[1]) + column // scale[1]
        index = {
            "n": self.image + image,
            "y": y * phase.step[0] + phase.start[0],
            "x": x * phase.step[1] + phase.start[1],
            "c": self.group * self.p.group_outputs + (self.vector + v) * self.o.lanes,
        }
        dims = self.p.position_dims
        valid = self.valid if v == self.tile.vectors - 1 else None
        return Position(tuple(index[d] for d in dims), dims.index("c"), valid)

    def _inner(self, key: tuple[int, int], reg: Reg) -> Reg:
        group = self.o.group
        if not group.inner:
            return reg
        at = self._position(self.pixels[key[0]], key[1], (1, 1))
        return self.o.inner.apply({group.anchor_output: reg}, self.o.type, self._fetch(at))

    def _fetch(self, at: Position) -> Callable[[Value, Sequence[object]], Reg]:
        operands, type = self.o.operands, self.o.type
        return lambda value, shape: fetch(operands, value, shape, at, type)

    def _pool(self, regs: Registers) -> None:
        """Combine the windows of the tile; the first pixel of each stores."""
        ph, pw = self.o.group.pool_window
        op = "maximum" if self.o.group.pool_kind == "max" else "add"
        place = {pixel: k for k, pixel in enumerate(self.pixels)}
        for n, r, c in self.pixels:
            if r % ph or c % pw:
                continue
            window = [place[(n, r + i, c + j)] for i in range(ph) for j in range(pw)]
            for v in range(self.tile.vectors):
                self._store((n, r, c), v, self._combine(op, [regs[(k, v)] for k in window]))

    def _combine(self, op: str, items: Sequence[Reg]) -> Reg:
        total = items[0]
        for item in items[1:]:
            total = self.b.binary(op, total, item)
        if op == "maximum":
            return total
        scale = self.b.const(1.0 / self.o.group.pool_divisor, self.o.type)
        return self.b.binary("mul", total, scale)

    def _store(self, pixel: tuple[int, int, int], v: int, reg: Reg) -> None:
        group = self.o.group
        at = self._position(pixel, v, group.pool_window)
        if group.outer:
            known = {group.pooled_output: reg}
            reg = self.o.outer.apply(known, self.o.type, self._fetch(at))
        target = self.p.target
        names = dict(zip(self.p.position_dims, at.index, strict=True))
        index = names["c"] + target.offset
        for name, stride in (("n", target.image), ("y", target.row), ("x", target.column)):
            if name in names:
                index = index + names[name] * stride
        self.b.store(self.o.out, index, reg, at.valid)


def clear_halo(operands: Operands, out: Buffer, layout: Layout, lanes: int) -> None:
    """Zero what surrounds the images that a kernel writes."""
    if not any(layout.halo):
        return
    builder = operands.builder
    images = image_count(builder, layout.dims[0][0][0])
    builder.loop(
        "n", 0, images, 1, lambda n: zero_halo(builder, out, layout, n, lanes)
    )


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
    """Whether the operands of the epilogue also see rows as one long row."""
    for node in group.inner:
        for value in node.inputs:
            layout = operands.layouts.get(value)
            if layout is None or layout.ndim < 3:
                continue
            (height, y_stride), (width, x_stride) = layout.dims[-2][0], layout.dims[-1][0]
            joined = y_stride == (width or 1) * x_stride and height != 1 and width != 1
            if not joined and not height == width == 1:
                return False
    return True

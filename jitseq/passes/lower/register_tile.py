"""One register tile of a contraction: reduction, epilogue, stores.

Each step multiplies one broadcast element of the input by packed weights and adds to
accumulators that never leave registers; pointwise nodes and pooling windows follow
before anything is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitseq.ir.compute import Tap
from jitseq.ir.program import ELEMENT_BYTES, Affine, Buffer, Reg, affine
from jitseq.passes.lower.operands import Position, apply_chain, store_at
from jitseq.passes.lower.problem import reads
from jitseq.passes.lower.window_tile import pooled, pooled_with_index
from jitseq.passes.tile import Tile

if TYPE_CHECKING:
    from jitseq.passes.lower.contraction import ContractionEmitter

PREFETCH_BYTES = 8192
"""How far ahead weights are asked for where reading them is what takes time: 1.2 to
1.5 times faster for one image from L2 and L3; slower by a third in tiles that compute
more (measured at 1, 2, 4 and 8 KiB)."""

PREFETCH_OUTPUTS = 4
"""Outputs of a tile up to which a weight serves too few products to hide its load."""

UNROLLED_PRODUCTS = 64
"""FMAs in the body of the reduction loop that make its own cost disappear."""

Registers = dict[tuple[int, int], Reg]
ActiveTap = tuple[int, Tap, tuple[int, ...]]
PlacedTap = tuple[int, Affine, tuple[int, ...]]


@dataclass(frozen=True)
class Channels:
    """Which output channels: the group, the first vector, lanes of the last vector."""

    group: Affine
    vector: Affine
    valid: int | None


class RegisterTile:
    """Emits one register tile: reduction, epilogue, stores."""

    def __init__(
        self,
        outer: ContractionEmitter,
        tile: Tile,
        place: tuple[Affine, Affine, Affine],
        channels: Channels,
        at: tuple[int, int] | None,
    ) -> None:
        self.o = outer
        self.b = outer.b
        self.p = outer.p
        self.tile = tile
        self.image, self.y, self.x = place
        self.group, self.vector = channels.group, channels.vector
        self.valid = channels.valid
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
        accumulators = tuple(
            start[v] for _ in self.pixels for v in range(self.tile.vectors)
        )
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

    def _active_taps(self) -> list[ActiveTap]:
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
        while unroll * 2 <= extent and count * taps * unroll * 2 <= UNROLLED_PRODUCTS:
            unroll *= 2
        return unroll, chains

    def _reduce_taps(
        self,
        active: list[ActiveTap],
        accumulators: tuple[Reg, ...],
        unroll: int,
        chains: int,
    ) -> tuple[Reg, ...]:
        source = self.p.source
        stride_y, stride_x = self.p.phase.stride
        base = (
            self.image * source.image + self.group * self.p.group_stride + source.offset
        )
        base = (
            base
            + self.y * (stride_y * source.row)
            + self.x * (stride_x * source.column)
        )
        if self.o.unrolled:
            offsets = [
                (i, affine(tap.dy * source.row + tap.dx * source.column), reading)
                for i, tap, reading in active
            ]
            return self._channels(
                base, affine(0), offsets, accumulators, unroll, chains
            )
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
        taps: list[PlacedTap],
        accumulators: tuple[Reg, ...],
        unroll: int,
        chains: int,
    ) -> tuple[Reg, ...]:
        """Loop over input channels, the innermost loop ``unroll`` steps at a time."""
        *outer, (extent, stride) = self.p.reduce
        tap_count = len(self.o.taps) if self.o.unrolled else 1
        row = tap_count * self.tile.vectors * self.o.lanes
        per_vector = len(self.o.taps) * self.p.group_inputs * self.o.lanes
        tile_base = (
            self.group * (self.o.vectors * per_vector) + self.vector * per_vector
        )
        tile_base = tile_base + weight_base

        def innermost(a: Affine, w: Affine, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
            def body(
                i: Affine, sums: tuple[Reg, ...], steps: int = unroll
            ) -> tuple[Reg, ...]:
                for step in range(steps):
                    at = a + (i + step) * stride
                    sums = self._step(
                        at, w + (i + step) * row, taps, sums, step % chains
                    )
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
            jump = inner * row
            return self.b.fold(
                f"i{depth}", 0, count, 1, sums,
                lambda i, s: nest(depth + 1, a + i * step, w + i * jump, s, inner),
            )  # fmt: skip

        return nest(0, base, tile_base, accumulators, self.p.group_inputs)

    def _step(
        self,
        at: Affine,
        weight_at: Affine,
        taps: list[PlacedTap],
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
            if self._streams_weights:
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

    @property
    def _streams_weights(self) -> bool:
        """Whether the tile waits for weights from beyond L1."""
        far = self.o.weight_bytes > self.o.machine.l1_bytes
        return far and len(self.pixels) <= PREFETCH_OUTPUTS

    def _shift(self, pixel: int) -> int:
        image, row, column = self.pixels[pixel]
        source = self.p.source
        stride_y, stride_x = self.p.phase.stride
        shift = image * source.image + row * stride_y * source.row
        return shift + column * stride_x * source.column

    # epilogue and stores

    def _position(
        self, pixel: tuple[int, int, int], v: int, scale: tuple[int, int]
    ) -> Position:
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
        at = self._position(self.pixels[key[0]], key[1], (1, 1))
        return apply_chain(self.o.operands, group.inner, group.anchor_output, reg, at)

    def _pool(self, regs: Registers) -> None:
        """Combine the windows of the tile; the first pixel of each stores."""
        ph, pw = self.o.group.pool_window
        place = {pixel: k for k, pixel in enumerate(self.pixels)}
        for n, r, c in self.pixels:
            if r % ph or c % pw:
                continue
            window = [place[(n, r + i, c + j)] for i in range(ph) for j in range(pw)]
            for v in range(self.tile.vectors):
                items = [regs[(k, v)] for k in window]
                if not self.o.group.companions:
                    self._store((n, r, c), v, pooled(self.b, self.o.group, items))
                    continue
                best, index = pooled_with_index(self.b, items)
                at = self._position((n, r, c), v, self.o.group.pool_window)
                for node in self.o.group.companions:
                    store_at(self.o.operands, node.output, index, at)
                self._store((n, r, c), v, best)

    def _store(self, pixel: tuple[int, int, int], v: int, reg: Reg) -> None:
        group = self.o.group
        at = self._position(pixel, v, group.pool_window)
        if group.outer:
            start = group.pooled_output
            reg = apply_chain(self.o.operands, group.outer, start, reg, at)
        store_at(self.o.operands, group.output, reg, at)

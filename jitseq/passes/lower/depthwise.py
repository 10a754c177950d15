"""Depthwise convolution → kernels with vectors along the channels.

A tile holds ``rows × columns`` outputs of one channel vector. Each input pixel that
the tile touches is loaded once and multiplied into every output that it belongs to;
the weights of all taps stay in registers.
"""

from __future__ import annotations

from jitseq.ir.compute import Contraction, Phase
from jitseq.ir.graph import Value
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import (
    Operands,
    Pack,
    Position,
    apply_chain,
    store_at,
)
from jitseq.passes.lower.problem import image_count


def lower_depthwise(
    group: Group, record: Contraction, operands: Operands, target: Target
) -> None:
    """Emit every phase: one for a convolution, several for a transposed one."""
    assert group.anchor is not None
    x, weight, *rest = group.anchor.inputs
    operands.read(x)
    out, layout = operands.write(group.output), operands.layouts[group.output]
    clear_halo(operands, out, layout, target.lanes(out.element))
    bias = rest[0] if rest else None
    for phase in record.phases:
        _Depthwise(group, record, phase, operands, target, weight, bias).emit()


class _Depthwise:
    def __init__(
        self,
        group: Group,
        record: Contraction,
        phase: Phase,
        operands: Operands,
        target: Target,
        weight: Value,
        bias: Value | None,
    ) -> None:
        assert group.anchor is not None
        self.b = operands.builder
        self.group = group
        self.phase = phase
        self.operands = operands
        self.layout = operands.layouts[group.anchor.inputs[0]]
        self.source = operands.read(group.anchor.inputs[0])
        self.channels = record.out_channels
        self.lanes = target.lanes(self.source.element)
        self.type = Type(self.source.element, self.lanes)
        self.padded = -(-self.channels // self.lanes) * self.lanes
        taps = tuple((tap.ky, tap.kx) for tap in phase.taps)
        pack = Pack("channels", lanes=self.lanes, taps=taps, axes=record.weight_axes)
        self.weights = operands.packed(weight, pack) if taps else None
        lanes_pack = Pack("lanes", lanes=self.lanes)
        self.bias = operands.packed(bias, lanes_pack) if bias else None
        self.rows, self.columns = self._tile(target)

    def _tile(self, target: Target) -> tuple[int, int]:
        """Outputs at a time: with all taps' weights they fill the registers."""
        free = target.registers - min(len(self.phase.taps), 9) - 3
        height, width = self.phase.count
        options = [
            (min(rows, height), min(columns, width))
            for rows, columns in ((3, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1))
            if min(rows, height) * min(columns, width) <= max(free, 1)
        ]

        def accesses(option: tuple[int, int]) -> tuple[int, int]:
            rows, columns = option
            taps = len(self.phase.taps)
            pixels = (rows * self.phase.stride[0] + 2) * (
                columns * self.phase.stride[1] + 2
            )
            tiles = -(-height // rows) * -(-width // columns)
            return tiles * (pixels + taps + rows * columns * taps // 2), -rows * columns

        return min(options, key=accesses)

    def emit(self) -> None:
        """Channels innermost: their vectors are neighbours in memory."""
        images = image_count(self.b, self.layout.dims[0][0][0])
        height, width = self.phase.count
        tiles = (images, -(-height // self.rows), -(-width // self.columns))
        self.b.nest(("n", "y", "x"), tiles, self._place)

    def _place(self, n: Affine, y: Affine, x: Affine) -> None:
        """All channels of one tile; the last tile overlaps its neighbour."""
        height, width = self.phase.count
        y, x = y * self.rows, x * self.columns
        if height % self.rows:
            y = self.b.minimum_index(y, height - self.rows)
        if width % self.columns:
            x = self.b.minimum_index(x, width - self.columns)
        whole = self.channels // self.lanes * self.lanes
        self.b.loop(
            "c", 0, whole, self.lanes, lambda c: self._tile_at(n, c, y, x, None)
        )
        if self.channels > whole:
            self._tile_at(n, affine(whole), y, x, self.channels - whole)

    def _tile_at(
        self, n: Affine, c: Affine, y: Affine, x: Affine, valid: int | None
    ) -> None:
        outputs = [(r, q) for r in range(self.rows) for q in range(self.columns)]
        sums = dict.fromkeys(outputs, self._start(c))
        stride_y, stride_x = self.phase.stride
        layout = self.layout
        base = n * layout.stride(0) + c + y * (stride_y * layout.stride(2))
        base = base + x * (stride_x * layout.stride(3)) + layout.offset
        weights = [self._weight(c, t) for t in range(len(self.phase.taps))]
        uses: dict[tuple[int, int], list[tuple[tuple[int, int], int]]] = {}
        for r, q in outputs:
            for t, tap in enumerate(self.phase.taps):
                pixel = (r * stride_y + tap.dy, q * stride_x + tap.dx)
                uses.setdefault(pixel, []).append(((r, q), t))
        for dy, dx in sorted(uses):
            at = base + (dy * layout.stride(2) + dx * layout.stride(3))
            value = self.b.load(self.source, at, self.type, valid)
            for output, t in uses[(dy, dx)]:
                sums[output] = self.b.fma(value, weights[t], sums[output])
        for (r, q), reg in sums.items():
            self._store(Position(self._index(n, c, y + r, x + q), 1, valid), reg)

    def _start(self, c: Affine) -> Reg:
        if self.bias is None:
            return self.b.const(0.0, self.type)
        return self.b.load(self.bias, c, self.type)

    def _weight(self, c: Affine, t: int) -> Reg:
        assert self.weights is not None
        return self.b.load(self.weights, c + t * self.padded, self.type)

    def _index(self, n: Affine, c: Affine, y: Affine, x: Affine) -> tuple[Affine, ...]:
        (step_y, step_x), (first_y, first_x) = self.phase.step, self.phase.start
        return (n, c, y * step_y + first_y, x * step_x + first_x)

    def _store(self, at: Position, reg: Reg) -> None:
        group = self.group
        reg = apply_chain(self.operands, group.inner, group.anchor_output, reg, at)
        store_at(self.operands, group.output, reg, at)

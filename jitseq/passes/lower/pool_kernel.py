"""What the kernels behind pooling share: vectors of channels, by logical position.

Enter a group whose anchor reads channels-last images; subclasses emit the loops.
Invariant: integers of memory are floats in registers, lanes beyond the channels are
neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitseq.ir.compute import Window, WindowGradient
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import Operands, Position, apply_chain, store_at
from jitseq.passes.lower.problem import image_count

VECTORS_AT_ONCE = 4

Vectors = Sequence[tuple[Affine, int | None]]
"""First channel and valid lanes of each vector."""


def channel_vectors(
    builder: KernelBuilder, channels: int, lanes: int, body: Callable[[Vectors], None]
) -> None:
    """All channels, a few vectors at a time; the last one may be partial."""
    whole = channels // lanes
    together = min(VECTORS_AT_ONCE, whole)
    done = whole // together * together * lanes if whole else 0

    def several(c: Affine) -> None:
        body([(c + k * lanes, None) for k in range(together)])

    builder.loop("c", 0, done, max(together, 1) * lanes, several)
    rest: list[tuple[Affine, int | None]] = []
    for start in range(done, channels, lanes):
        valid = min(lanes, channels - start)
        rest.append((affine(start), valid if valid < lanes else None))
    if rest:
        body(rest)


class PoolKernel:
    """Loads and stores of channel vectors, by logical position."""

    def __init__(
        self, group: Group, windows: Window, operands: Operands, target: Target
    ) -> None:
        assert group.anchor is not None
        self.b = operands.builder
        self.group = group
        self.windows = windows
        self.operands = operands
        self.inputs = group.anchor.inputs
        self.channels = self.inputs[0].type.shape[1]
        element = operands.read(self.inputs[0]).element
        self.type = Type(element, target.lanes(element))
        batch = operands.layouts[self.inputs[0]].dims[0][0][0]
        self.images = image_count(self.b, batch)
        self.taps = max(windows.rows.count) * max(windows.cols.count)

    def over_channels(self, body: Callable[[Vectors], None]) -> None:
        channel_vectors(self.b, self.channels, self.type.lanes, body)

    def load(self, number: int, at: Sequence[Affine], valid: int | None) -> Reg:
        """A vector of input ``number`` as floats; ``at`` is (n, c, y, x)."""
        value = self.inputs[number]
        layout = self.operands.layouts[value]
        index = affine(layout.offset)
        for dim, position in enumerate(at):
            index = index + position * layout.stride(dim)
        return self.b.load(self.operands.read(value), index, self.type, valid)

    def store(self, at: Position, reg: Reg) -> None:
        """Through the pointwise nodes that ride on the result."""
        group = self.group
        reg = apply_chain(self.operands, group.inner, group.anchor_output, reg, at)
        store_at(self.operands, group.output, reg, at)

    def chosen(self, index: Reg, tap: Reg, g: Reg) -> Reg:
        """``g`` where the index is ``tap``, else 0."""
        wins = self.b.emit("eq", Type("mask", self.type.lanes), index, tap)
        return self.b.emit("select", self.type, wins, g, self.zero())

    def zero(self) -> Reg:
        return self.b.const(0.0, self.type)


class GradientKernel(PoolKernel):
    def __init__(
        self, group: Group, record: WindowGradient, operands: Operands, target: Target
    ) -> None:
        super().__init__(group, record.forward, operands, target)
        self.size = record.in_size
        self.is_max = record.forward.kind == "max"

    @property
    def divisor(self) -> int | None:
        """An average's divisor where it is the same for all windows."""
        rows, cols = self.windows.rows.divisor, self.windows.cols.divisor
        if self.windows.divisor is not None:
            return self.windows.divisor
        return rows[0] * cols[0] if len(set(rows)) == len(set(cols)) == 1 else None

    def scaled(self, reg: Reg, divisor: int) -> Reg:
        return self.b.binary("mul", reg, self.b.const(1.0 / divisor, self.type))

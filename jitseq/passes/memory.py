"""Memory: every buffer's place, and the finished Program.

Values that live inside one segment share an arena whose size depends on the block;
values that cross segments get a buffer for the whole batch; what has no batch gets
memory of its own, and sums over the batch some for each share of it. Arena places are
given first fit, largest first, so that values whose lives overlap never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from jitseq.ir.graph import Value
from jitseq.ir.packing import packed_size
from jitseq.ir.program import (
    ELEMENT_BYTES,
    Argument,
    Call,
    Kernel,
    Program,
    Segment,
    Sums,
)
from jitseq.ir.program_text import kernel_text
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.layout import LaidOut
from jitseq.passes.lower.operands import ELEMENTS, Lowered, Source
from jitseq.passes.segment import Stretch

ALIGNMENT = 64


@dataclass(frozen=True)
class Life:
    """Bytes needed from call ``first`` to call ``last``, both included."""

    size: int
    first: int
    last: int


def assign_offsets(lives: Sequence[Life], reuse: bool = True) -> tuple[list[int], int]:
    """An offset for each, and the total: no two that live at once overlap."""
    order = sorted(range(len(lives)), key=lambda i: (-lives[i].size, i))
    offsets = [0] * len(lives)
    placed: list[int] = []
    for i in order:
        offsets[i] = _first_gap(lives, offsets, placed, i, reuse)
        placed.append(i)
    total = max((offsets[i] + lives[i].size for i in placed), default=0)
    return offsets, total


def _first_gap(
    lives: Sequence[Life], offsets: list[int], placed: list[int], i: int, reuse: bool
) -> int:
    life = lives[i]
    taken = sorted(
        (offsets[j], offsets[j] + lives[j].size)
        for j in placed
        if not reuse or (lives[j].first <= life.last and life.first <= lives[j].last)
    )
    at = 0
    for start, end in taken:
        if at + life.size <= start:
            break
        at = max(at, -(-end // ALIGNMENT) * ALIGNMENT)
    return at


@dataclass(frozen=True)
class Planned:
    """A program, and what its context slots hold.

    Slots: the graph's inputs, results, ``variables`` that change in place, ``packs``
    of static values, whole-batch buffers, memory without a batch, sums.
    """

    program: Program
    variables: tuple[Value, ...]
    packs: tuple[Source, ...]
    function_of_kernel: tuple[int, ...]


def plan_memory(
    fused: FusedGraph,
    laid: LaidOut,
    kernels: Sequence[Lowered],
    stretches: Sequence[Stretch],
    reuse: bool = True,
) -> Planned:
    """Place all buffers, name and deduplicate kernels, write the calls."""
    return _Planner(fused, laid, kernels, stretches, reuse).run()


class _Planner:
    def __init__(
        self,
        fused: FusedGraph,
        laid: LaidOut,
        kernels: Sequence[Lowered],
        stretches: Sequence[Stretch],
        reuse: bool,
    ) -> None:
        self.fused = fused
        self.laid = laid
        self.kernels = kernels
        self.stretches = stretches
        self.reuse = reuse
        self.slots: dict[object, int] = {}
        self.variables = tuple(dict.fromkeys(fused.changed.values()))
        direct = (*fused.graph.inputs, *laid.results, *self.variables)
        for slot, value in enumerate(direct):
            self.slots[value] = slot
        self.next_slot = len(direct)
        self.packs: list[Source] = []
        self.arena: dict[Value, int] = {}
        self.fixed: dict[Source, int] = {}
        self.fixed_bytes = 0
        self.sums: dict[Value, int] = {}
        self.sums_bytes = 0
        self.unique: dict[str, int] = {}
        self.functions: list[Kernel] = []

    def run(self) -> Planned:
        self._slots_for_packs()
        segment_sums = [self._place_sums(stretch) for stretch in self.stretches]
        batch_bytes = self._slots_across_segments()
        self.fixed_slot, self.sums_slot = self.next_slot, self.next_slot + 1
        arena_bytes = max((self._arena(s) for s in self.stretches), default=0)
        segments, used = [], []
        for stretch, sums in zip(self.stretches, segment_sums, strict=True):
            calls = []
            for index in range(stretch.start, stretch.stop):
                calls.append(self._call(index))
                used.append(calls[-1].kernel)
            segments.append(Segment(tuple(calls), stretch.block, stretch.batched, sums))
        program = Program(
            tuple(self.functions), tuple(segments), self.next_slot + 2, arena_bytes,
            tuple(batch_bytes), self.fixed_slot, self.fixed_bytes, self.sums_slot,
            self.sums_bytes,
        )  # fmt: skip
        return Planned(program, self.variables, tuple(self.packs), tuple(used))

    def _slots_for_packs(self) -> None:
        """A slot for each packed static value; the others are packed into memory."""
        for kernel in self.kernels:
            for source in kernel.sources:
                if source.pack is None or source in self.slots or source in self.fixed:
                    continue
                if source.value in self.fused.static:
                    self.slots[source] = self.next_slot
                    self.packs.append(source)
                    self.next_slot += 1
                else:
                    count = packed_size(source.pack, source.value.type.inner_shape)
                    size = ELEMENT_BYTES[ELEMENTS[source.value.type.dtype]]
                    self._fix(source, count * size)

    def _fix(self, source: Source, size: int) -> None:
        self.fixed[source] = self.fixed_bytes
        self.fixed_bytes += _aligned(size + ALIGNMENT)

    def _place_sums(self, stretch: Stretch) -> tuple[Sums, ...]:
        """Memory for what the stretch sums; neighbours of one type are one range."""
        found: list[Sums] = []
        for kernel in self.kernels[stretch.start : stretch.stop]:
            for source in kernel.writes if kernel.accumulates else ():
                size = _aligned(self._bytes(source.value) + ALIGNMENT)
                element = ELEMENTS[source.value.type.dtype]
                self.sums[source.value] = self.sums_bytes
                if found and found[-1].element == element:
                    last = found.pop()
                    found.append(Sums(last.offset, last.bytes + size, element))
                else:
                    found.append(Sums(self.sums_bytes, size, element))
                self.sums_bytes += size
        return tuple(found)

    @cached_property
    def _touches(self) -> dict[Value, list[int]]:
        """Call indices that read or write each owned value."""
        touches: dict[Value, list[int]] = {}
        for index, kernel in enumerate(self.kernels):
            for source in kernel.sources:
                if source.pack is None:
                    touches.setdefault(self.laid.owner(source.value), []).append(index)
        return touches

    def _slots_across_segments(self) -> list[int]:
        """A slot for each whole-batch buffer; what has no batch gets fixed memory."""
        sizes = []
        for value, touches in self._touches.items():
            if value in self.slots or value in self.sums:
                continue
            homes = {self._stretch_of(index) for index in touches}
            if self.fused.batched and not value.type.has_batch:
                self._fix(Source(value), self._bytes(value))
            elif len(homes) > 1:
                self.slots[value] = self.next_slot
                self.next_slot += 1
                sizes.append(self._bytes(value))
        return sizes

    def _stretch_of(self, index: int) -> int:
        return next(i for i, s in enumerate(self.stretches) if index < s.stop)

    def _bytes(self, value: Value) -> int:
        """Of one image, or of everything where there is no batch."""
        size = self.laid.layouts[value].size
        return size * ELEMENT_BYTES[ELEMENTS[value.type.dtype]]

    def _arena(self, stretch: Stretch) -> int:
        values, lives = [], []
        for value, touches in self._touches.items():
            inside = stretch.start <= touches[0] < stretch.stop
            placed = value in self.slots or value in self.sums
            if placed or Source(value) in self.fixed or not inside:
                continue
            images = stretch.block if value.type.has_batch else 1
            # vectors of the last pixel may reach past its end
            size = images * self._bytes(value) + ALIGNMENT
            values.append(value)
            lives.append(Life(_aligned(size), touches[0], touches[-1]))
        offsets, total = assign_offsets(lives, self.reuse)
        self.arena.update(zip(values, offsets, strict=True))
        return total

    def _call(self, index: int) -> Call:
        lowered = self.kernels[index]
        text = kernel_text(lowered.kernel)
        if text not in self.unique:
            self.unique[text] = len(self.functions)
            name = f"k{len(self.functions)}_{lowered.kernel.name}"
            self.functions.append(replace(lowered.kernel, name=name))
        arguments = tuple(
            self._argument(source, buffer.written)
            for source, buffer in zip(
                lowered.sources, lowered.kernel.buffers, strict=True
            )
        )
        return Call(self.unique[text], arguments, lowered.count)

    def _argument(self, source: Source, written: bool) -> Argument:
        value = self.laid.owner(source.value)
        place = Source(value, source.pack)
        if place in self.fixed:
            return Argument("context", self.fixed_slot, self.fixed[place], 0)
        if source.pack is not None:
            return Argument("context", self.slots[source], 0, 0)
        if value in self.sums:
            if written:
                return Argument("sums", 0, self.sums[value], 0)
            return Argument("context", self.sums_slot, self.sums[value], 0)
        if value in self.arena:
            return Argument("arena", 0, self.arena[value], 0)
        stride = self._bytes(value) if value.type.has_batch else 0
        return Argument("context", self.slots[value], 0, stride)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT

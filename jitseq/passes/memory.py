"""Memory: every buffer's place, and the finished Program.

Values that live inside one segment share an arena whose size depends on the block;
values that cross segments get a buffer for the whole batch. Arena places are given
first fit, largest first, so that values whose lives overlap never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitseq.ir.graph import Graph, Value
from jitseq.ir.layout import Layout
from jitseq.ir.program import (
    ELEMENT_BYTES,
    Argument,
    Call,
    Kernel,
    Program,
    Segment,
)
from jitseq.ir.program_text import kernel_text
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
    """A program, and the packed parameters in order of their context slots."""

    program: Program
    packs: tuple[Source, ...]
    kernel_of_group: tuple[int, ...]


def plan_memory(
    graph: Graph,
    laid: LaidOut,
    kernels: Sequence[Lowered],
    stretches: Sequence[Stretch],
    reuse: bool = True,
) -> Planned:
    """Place all buffers, name and deduplicate kernels, write the calls."""
    return _Planner(graph, laid, kernels, stretches, reuse).run()


class _Planner:
    def __init__(
        self,
        graph: Graph,
        laid: LaidOut,
        kernels: Sequence[Lowered],
        stretches: Sequence[Stretch],
        reuse: bool,
    ) -> None:
        self.laid = laid
        self.kernels = kernels
        self.stretches = stretches
        self.reuse = reuse
        self.slots: dict[object, int] = {}
        for value in graph.inputs:
            self.slots[value] = len(self.slots)
        for i, value in enumerate(laid.results):
            self.slots[value] = len(graph.inputs) + i
        self.next_slot = len(graph.inputs) + len(laid.results)
        self.packs: list[Source] = []
        self.arena: dict[Value, int] = {}
        self.unique: dict[str, int] = {}
        self.functions: list[Kernel] = []

    def run(self) -> Planned:
        self._slots_for_packs()
        batch_bytes = self._slots_across_segments()
        arena_bytes = max((self._arena(s) for s in self.stretches), default=0)
        segments, used = [], []
        for stretch in self.stretches:
            calls = []
            for index in range(stretch.start, stretch.stop):
                calls.append(self._call(index))
                used.append(calls[-1].kernel)
            segments.append(Segment(tuple(calls), stretch.block))
        program = Program(
            tuple(self.functions), tuple(segments), self.next_slot, arena_bytes,
            tuple(batch_bytes),
        )  # fmt: skip
        return Planned(program, tuple(self.packs), tuple(used))

    def _slots_for_packs(self) -> None:
        for kernel in self.kernels:
            for source in kernel.sources:
                if source.pack is not None and source not in self.slots:
                    self.slots[source] = self.next_slot
                    self.packs.append(source)
                    self.next_slot += 1

    def _touches(self) -> dict[Value, list[int]]:
        """Call indices that read or write each owned value."""
        touches: dict[Value, list[int]] = {}
        for index, kernel in enumerate(self.kernels):
            for source in kernel.sources:
                if source.pack is None:
                    touches.setdefault(self.laid.owner(source.value), []).append(index)
        return touches

    def _slots_across_segments(self) -> list[int]:
        sizes = []
        for value, touches in self._touches().items():
            if value in self.slots:
                continue
            homes = {self._stretch_of(index) for index in touches}
            if len(homes) > 1:
                self.slots[value] = self.next_slot
                self.next_slot += 1
                sizes.append(self._bytes(value))
        return sizes

    def _stretch_of(self, index: int) -> int:
        return next(i for i, s in enumerate(self.stretches) if index < s.stop)

    def _bytes(self, value: Value) -> int:
        """Of one image, or of everything where there is no batch; rounded up."""
        size = self.laid.layouts[value].size * ELEMENT_BYTES[ELEMENTS[value.type.dtype]]
        return size

    def _arena(self, stretch: Stretch) -> int:
        values, lives = [], []
        for value, touches in self._touches().items():
            inside = stretch.start <= touches[0] < stretch.stop
            if value in self.slots or not inside:
                continue
            images = stretch.block if value.type.has_batch else 1
            # vectors of the last pixel may reach past its end
            size = images * self._bytes(value) + ALIGNMENT
            values.append(value)
            lives.append(
                Life(-(-size // ALIGNMENT) * ALIGNMENT, touches[0], touches[-1])
            )
        offsets, total = assign_offsets(lives, self.reuse)
        self.arena.update(zip(values, offsets, strict=True))
        return total

    def _call(self, index: int) -> Call:
        lowered = self.kernels[index]
        text = kernel_text(lowered.kernel)
        if text not in self.unique:
            self.unique[text] = len(self.functions)
            name = f"k{len(self.functions)}_{lowered.kernel.name}"
            kernel = lowered.kernel
            self.functions.append(
                Kernel(name, kernel.buffers, kernel.count, kernel.body)
            )
        arguments = tuple(self._argument(source) for source in lowered.sources)
        return Call(self.unique[text], arguments)

    def _argument(self, source: Source) -> Argument:
        if source.pack is not None:
            return Argument("context", self.slots[source], 0, 0)
        value = self.laid.owner(source.value)
        if value in self.arena:
            return Argument("arena", 0, self.arena[value], 0)
        stride = self._image_stride(self.laid.layouts[value], value)
        return Argument("context", self.slots[value], 0, stride)

    def _image_stride(self, layout: Layout, value: Value) -> int:
        return self._bytes(value) if value.type.has_batch else 0

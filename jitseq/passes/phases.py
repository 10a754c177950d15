"""Phases: when each kernel of a program runs.

Kernels enter in an order in which they could run; phases leave. A phase is a run of
kernels on images, block by block, or of kernels that have no batch and run once. A
value that is summed over the batch is complete only behind the phase that sums it, so
what reads it belongs to a later one. Kernels run as late as they can, so that forward
and backward share a phase and an image's values stay in cache between them; a kernel
moves to an earlier phase where fewer bytes then cross from one phase to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jitseq.ir.graph import Value
from jitseq.ir.layout import element_count
from jitseq.ir.program import ELEMENT_BYTES
from jitseq.passes.lower.operands import ELEMENTS, Lowered, Source

Owner = Callable[[Value], Value]


@dataclass(frozen=True)
class Phase:
    """Indices of kernels, and whether they run for blocks of images."""

    kernels: tuple[int, ...]
    batched: bool


def phases(kernels: Sequence[Lowered], owner: Owner) -> tuple[Phase, ...]:
    """Phases in order; none is empty.

    Args:
        kernels: each behind those whose results it reads.
        owner: the value whose memory a value shows.
    """
    if not any(kernel.per_image for kernel in kernels):
        # one image, whatever its kernels sum
        return (Phase(tuple(range(len(kernels))), True),) if kernels else ()
    levels = _Levels(kernels, owner).assign()
    found = []
    for level in range(max(levels) + 1):
        for batched in (False, True):
            members = tuple(
                i
                for i, kernel in enumerate(kernels)
                if levels[i] == level and kernel.per_image == batched
            )
            if members:
                found.append(Phase(members, batched))
    return tuple(found)


class _Levels:
    """Level k: kernels without a batch of step k, then kernels on images of step k."""

    def __init__(self, kernels: Sequence[Lowered], owner: Owner) -> None:
        self.kernels = kernels
        self.owner = owner
        self.producer: dict[Source, int] = {}
        self.inputs: list[list[Source]] = []
        for i, kernel in enumerate(kernels):
            reads = dict.fromkeys(map(self._memory, kernel.reads))
            self.inputs.append([source for source in reads if source in self.producer])
            for source in kernel.writes:
                self.producer[self._memory(source)] = i
        self.readers: dict[Source, list[int]] = {}
        for i, sources in enumerate(self.inputs):
            for source in sources:
                self.readers.setdefault(source, []).append(i)
        self.level = [0] * len(kernels)

    def _memory(self, source: Source) -> Source:
        return Source(self.owner(source.value), source.pack)

    def assign(self) -> list[int]:
        for i in range(len(self.kernels)):
            self.level[i] = self._earliest(i)
        last = max(self.level)
        for i in reversed(range(len(self.kernels))):
            self.level[i] = self._latest(i, last)
        for i in range(len(self.kernels)):
            self._raise(i)
        return self.level

    def _after(self, producer: int, reader: int) -> int:
        """Levels that must lie between a kernel and one that reads its result."""
        if self.kernels[producer].per_image and not self.kernels[reader].per_image:
            return 1
        return 1 if self._sums(producer) else 0

    def _sums(self, i: int) -> bool:
        return self.kernels[i].per_image and self.kernels[i].accumulates

    def _earliest(self, i: int) -> int:
        producers = (self.producer[source] for source in self.inputs[i])
        return max((self.level[p] + self._after(p, i) for p in producers), default=0)

    def _latest(self, i: int, last: int) -> int:
        written = map(self._memory, self.kernels[i].writes)
        readers = [r for source in written for r in self.readers.get(source, ())]
        return min((self.level[r] - self._after(i, r) for r in readers), default=last)

    def _raise(self, i: int) -> None:
        """Move a kernel to an earlier level where that saves memory."""
        if not self.kernels[i].per_image:
            return
        best, least = self.level[i], self._crossing(i)
        for level in range(self._earliest(i), self.level[i]):
            self.level[i] = level
            bytes = self._crossing(i)
            if bytes < least:
                best, least = level, bytes
        self.level[i] = best

    def _crossing(self, i: int) -> int:
        """Bytes an image that cross phases among what the kernel reads and writes."""
        written = [self._memory(source) for source in self.kernels[i].writes]
        total = 0
        for source in (*self.inputs[i], *written):
            type = source.value.type
            made = self.level[self.producer[source]]
            used = (self.level[r] for r in self.readers.get(source, ()))
            if type.has_batch and any(level != made for level in used):
                total += element_count(type) * ELEMENT_BYTES[ELEMENTS[type.dtype]]
        return total

"""Builds the body of one kernel that a grid of threads runs.

`GridBuilder` adds to `KernelBuilder` what a thread may ask and share. Invariant: all
types have one lane, and the bounds of every loop are the same in all threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitseq.ir.kernel_builder import Index, KernelBuilder
from jitseq.ir.program import (
    INDEX,
    Affine,
    Buffer,
    Guard,
    Instr,
    Kernel,
    Pointer,
    Reg,
    Type,
    affine,
)

MASK = Type("mask")


class GridBuilder(KernelBuilder):
    """Appends instructions of one thread."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch: list[Buffer] = []

    def finish(self, name: str) -> Kernel:
        (body,) = self._bodies
        arguments, scratch = tuple(self.buffers), tuple(self.scratch)
        return Kernel(name, arguments, self.count, self.first, tuple(body), scratch)

    # threads

    def thread(self) -> Affine:
        """The number of this thread in its block."""
        return affine(self.emit("thread", INDEX))

    def block(self) -> Affine:
        """The number of this block along the grid's first axis."""
        return affine(self.emit("block", INDEX))

    def row(self) -> Affine:
        """The number of this block along the grid's second axis."""
        return affine(self.emit("row", INDEX))

    def barrier(self) -> None:
        """What other threads of the block stored in shared memory may be loaded now."""
        self._bodies[-1].append(Instr("barrier", (), (), None))

    def warp_add(self, value: Reg, width: int) -> Reg:
        """The sum over ``width`` neighbouring threads, a power of two up to 32."""
        return self.emit("warp_add", value.type, value, extra=width)

    def warp_maximum(self, value: Reg, width: int) -> Reg:
        """The maximum over neighbouring threads; NaN if any of them is."""
        return self.emit("warp_maximum", value.type, value, extra=width)

    # scratch memory

    def shared(self, name: str, element: str, size: int) -> Buffer:
        """Memory of the block, not initialised."""
        self.scratch.append(Buffer(name, element, True, "shared", size))
        return self.scratch[-1]

    def local(self, name: str, element: str, size: int) -> Buffer:
        """Memory of this thread, in registers where all its indices are constant."""
        self.scratch.append(Buffer(name, element, True, "local", size))
        return self.scratch[-1]

    # indices and masks

    def quotient(self, a: Index, divisor: int) -> Affine:
        """``a // divisor`` for an index that is not negative."""
        a = affine(a)
        if divisor == 1:
            return a
        if not a.terms:
            return affine(a.const // divisor)
        return affine(self.emit("quotient", INDEX, a, extra=divisor))

    def remainder(self, a: Index, divisor: int) -> Affine:
        """``a % divisor`` for an index that is not negative."""
        a = affine(a)
        if divisor == 1:
            return affine(0)
        if not a.terms:
            return affine(a.const % divisor)
        return affine(self.emit("remainder", INDEX, a, extra=divisor))

    def coordinates(self, item: Index, extents: Sequence[int]) -> tuple[Affine, ...]:
        """The indices of a row-major number; the first may exceed its extent."""
        found: list[Affine] = []
        left = affine(item)
        for extent in reversed(extents[1:]):
            found.append(self.remainder(left, extent))
            left = self.quotient(left, extent)
        return (left, *reversed(found))

    def below(self, a: Index, b: Index) -> Reg:
        """The mask ``a < b``."""
        return self.emit("below", MASK, affine(a), affine(b))

    def inside(self, a: Index, size: Index) -> Reg:
        """The mask ``0 <= a < size``."""
        return self.both(self.below(-1, a), self.below(a, size))

    def both(self, a: Reg, b: Reg) -> Reg:
        return self.emit("both", MASK, a, b)

    def load_where(self, mask: Reg, pointer: Pointer, index: Index, type: Type) -> Reg:
        """An element, or zero where the mask is false."""
        return self.emit("load_where", type, mask, pointer, affine(index))

    def when(self, mask: Reg, body: Callable[[], None]) -> None:
        """``if mask: body()``."""
        guard = Guard(mask)
        self._bodies.append(guard.body)
        body()
        self._bodies.pop()
        self._bodies[-1].append(guard)

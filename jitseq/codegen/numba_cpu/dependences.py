"""Which instructions of a straight run have to stay in order, and how far apart.

Instructions enter, in order; for each leave the numbers of those that must come before
it, and a level that is higher than all of theirs. Levels are as early as possible for
stores and indices, and as late as their users allow for everything else, so that
a value is computed close to where it is used.

A pinned pointer starts the next part of a tile, which stays behind the part before.

Invariant: accesses of a written buffer depend on each other, unless both only read, or
their addresses differ by a constant and the elements do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jitseq.ir.program import INDEX, Affine, Buffer, Instr, Pointer, Reg

READS = ("load", "load_splat", "gather")
Terms = frozenset[tuple[Reg, int]]


class Access(NamedTuple):
    """Elements [low, high) behind ``terms`` of one buffer."""

    number: int
    terms: Terms
    low: int
    high: int
    writes: bool

    def conflicts(self, other: Access) -> bool:
        if not (self.writes or other.writes):
            return False
        if self.terms != other.terms:
            return True
        return self.low < other.high and other.low < self.high


class Dependences:
    """Remembers where pinned pointers point to, through all bodies of a kernel."""

    def __init__(self) -> None:
        self.pins: dict[Reg, tuple[Buffer, Affine]] = {}

    def root(self, pointer: Pointer, index: Affine) -> tuple[Buffer, Affine]:
        """The buffer that is accessed, and the whole index into it."""
        if isinstance(pointer, Buffer):
            return pointer, index
        buffer, origin = self.pins[pointer]
        return buffer, origin + index

    def of_run(self, run: Sequence[Instr]) -> list[set[int]]:
        """For each instruction the numbers of those before it that it needs."""
        makers: dict[Reg, int] = {}
        accesses: dict[Buffer, list[Access]] = {}
        found = []
        for number, instr in enumerate(run):
            before = {makers[reg] for reg in registers_of(instr) if reg in makers}
            makers.update((result, number) for result in instr.results)
            if instr.op == "pin":
                self.pins[instr.results[0]] = self.root(*instr.args)
                before.update(range(number))
            elif instr.op == "store" or instr.op in READS:
                buffer, access = self._access(number, instr)
                if buffer.written:
                    earlier = accesses.setdefault(buffer, [])
                    before |= {a.number for a in earlier if a.conflicts(access)}
                    earlier.append(access)
            found.append(before)
        return found

    def _access(self, number: int, instr: Instr) -> tuple[Buffer, Access]:
        buffer, index = self.root(instr.args[0], instr.args[1])
        first, last = 0, 0
        if instr.op == "gather":
            stride, valid = instr.extra
            first, last = sorted((0, stride * (valid - 1)))
        elif instr.op in ("load", "store"):
            value = instr.args[2] if instr.op == "store" else instr.results[0]
            last = (value.type.lanes if instr.extra is None else instr.extra) - 1
        terms = frozenset(index.terms)
        low, high = index.const + first, index.const + last + 1
        return buffer, Access(number, terms, low, high, instr.op == "store")


def registers_of(instr: Instr) -> Iterator[Reg]:
    """All registers that an instruction uses, also in its index."""
    for argument in instr.args:
        if isinstance(argument, Reg):
            yield argument
        elif isinstance(argument, Affine):
            for register, _ in argument.terms:
                yield register


def levels_of(run: Sequence[Instr], before: Sequence[set[int]]) -> list[int]:
    """A level for each instruction of a run, above the levels of what it needs."""
    levels: list[int] = []
    for needed in before:
        levels.append(1 + max((levels[number] for number in needed), default=-1))
    latest = [len(run)] * len(run)
    for number in reversed(range(len(run))):
        if latest[number] < len(run) and _moves(run[number]):
            levels[number] = latest[number]
        for needed_number in before[number]:
            latest[needed_number] = min(latest[needed_number], levels[number] - 1)
    for number in reversed(range(len(run) - 1)):
        if run[number].op == "prefetch":  # beside what it stands in front of
            levels[number] = max(levels[number], levels[number + 1])
    return levels


def _moves(instr: Instr) -> bool:
    return bool(instr.results) and instr.results[0].type != INDEX

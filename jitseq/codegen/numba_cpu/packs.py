"""The statements of a kernel: calls on packs of vectors, and loops that carry packs.

A Kernel enters: instructions on single registers, tiles unrolled. Statements leave: one
stands for several instructions that differ in registers and constant offsets only, and
its result is a pack with a member for each. Constants are collected in front.

Invariant: every instruction whose result is used is in a statement, where equal ones
share a member, and the statements keep all dependences (`dependences.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from jitseq.codegen.numba_cpu.dependences import registers_of
from jitseq.codegen.numba_cpu.groups import MOST_MEMBERS, statements_of
from jitseq.codegen.numba_cpu.statements import (
    Body,
    Carried,
    LoopStatement,
    Pack,
    PackedKernel,
    Registers,
    Statement,
)
from jitseq.ir.program import Instr, Item, Kernel, Loop, Reg, Type


def pack_kernel(kernel: Kernel) -> PackedKernel:
    """Group the instructions of all bodies of a kernel for CPUs."""
    packer = _Packer(Registers(_users(kernel.body)))
    body = packer.body(kernel.body)
    constants = tuple(packer.constants.values())
    return PackedKernel(constants, body, packer.known.places, packer.known.same)


class _Packer:
    def __init__(self, known: Registers) -> None:
        self.known = known
        self.constants: dict[tuple[Type, str], tuple[Pack, float]] = {}

    def body(self, body: Sequence[Item]) -> Body:
        """Runs of instructions between loops, each grouped for itself."""
        found: list[Statement | LoopStatement] = []
        for is_loop, group in groupby(body, lambda item: isinstance(item, Loop)):
            items: list[Any] = list(group)
            if is_loop:
                found += map(self.loop, items)
                continue
            run = [instr for instr in items if not self.is_constant(instr)]
            found += statements_of(run, self.known)
        return tuple(found)

    def is_constant(self, instr: Instr) -> bool:
        """Whether it is a constant; one that is used gets its place among those."""
        if instr.op != "const":
            return False
        if instr.results[0] in self.known.users:
            type, value = instr.results[0].type, float(instr.extra)
            made = Pack(type, 1, "const"), value
            pack, _ = self.constants.setdefault((type, repr(value)), made)
            self.known.places[instr.results[0]] = pack, 0
        return True

    def loop(self, loop: Loop) -> LoopStatement:
        carried = []
        for positions in self.carried_alike(loop):
            type, size = loop.carried[positions[0]].type, len(positions)
            inside, after = Pack(type, size, "carry"), Pack(type, size, "carry")
            for member, position in enumerate(positions):
                self.known.places[loop.carried[position]] = inside, member
                self.known.places[loop.results[position]] = after, member
            carried.append(Carried(positions, inside, after))
        return LoopStatement(loop, tuple(carried), self.body(loop.body))

    def carried_alike(self, loop: Loop) -> list[tuple[int, ...]]:
        """Carried registers of one type that the same ops read and compute."""
        maker = {r: i.op for i in loop.body if isinstance(i, Instr) for r in i.results}
        found: dict[Any, list[int]] = {}
        for position, (register, value) in enumerate(
            zip(loop.carried, loop.yielded, strict=True)
        ):
            reads = self.known.users.get(register, [loop])[0]
            read = reads.op if isinstance(reads, Instr) else ""
            key = register.type, maker.get(value, ""), read
            found.setdefault(key, []).append(position)
        return [
            tuple(positions[first : first + MOST_MEMBERS])
            for positions in found.values()
            for first in range(0, len(positions), MOST_MEMBERS)
        ]


def _users(body: Sequence[Item]) -> dict[Reg, list[Item]]:
    """For each register the instructions and loops that use it."""
    users: dict[Reg, list[Item]] = {}
    open_bodies = [body]
    while open_bodies:
        for item in open_bodies.pop():
            used: Sequence[Reg]
            if isinstance(item, Loop):
                open_bodies.append(item.body)
                used = (*item.entering, *item.yielded)
            else:
                assert isinstance(item, Instr), "guards stand in grids only"
                used = tuple(registers_of(item))
            for register in used:
                users.setdefault(register, []).append(item)
    return users

"""A straight run of instructions, grouped: what is alike becomes one statement.

Instructions of one level (`dependences.py`) do not need each other. Those of one op
with the same address up to a constant, and operands of the same origin, are grouped.
Where a group reads members of several loads of memory that the kernel does not write,
it gets a load of its own. A product of splats and weights takes in the splats' loads.

Invariant: a group follows all that it needs, and else the order of the program.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from jitseq.codegen.numba_cpu.dependences import READS, levels_of
from jitseq.codegen.numba_cpu.reductions import with_accumulations
from jitseq.codegen.numba_cpu.statements import Pack, Place, Registers, Statement
from jitseq.ir.program import INDEX, Affine, Instr, Reg

MOST_MEMBERS = 32
"""Of one pack: as many vectors as the largest register file holds."""

ALONE = ("pin", "transpose", "sum_lanes")
"""Ops whose statement is one instruction."""


def statements_of(run: Sequence[Instr], known: Registers) -> list[Statement]:
    """The statements of instructions without a loop between them.

    ``known`` learns the places of their results.
    """
    grouping = _Run(list(run), known)
    grouping.group()
    grouping.make_tile_steps()
    grouping.drop_unused_loads()
    statements = [grouping.statement(group) for group in grouping.in_order()]
    readers = grouping.readers()
    outside = {pack for pack, groups in readers.items() if None in groups}
    return with_accumulations(statements, known, outside)


@dataclass(eq=False)
class _Group:
    """Instructions of one statement, by number; ``distinct`` are its members.

    ``first`` is where it would stand in the program.
    """

    numbers: list[int] = field(default_factory=list)
    distinct: dict[Any, int] = field(default_factory=dict)
    first: float = 0
    result: Pack | None = None
    operands: dict[int, tuple[Place, ...]] = field(default_factory=dict)
    splats: _Group | None = None


class _Run:
    def __init__(self, run: list[Instr], known: Registers) -> None:
        self.run = run
        self.known = known
        self.before = known.dependences.of_run(run)
        self.groups: list[_Group] = []
        self.reads = {
            instr.results[0]: number
            for number, instr in enumerate(run)
            if instr.op in READS and not self.buffer(instr).written
        }

    def buffer(self, instr: Instr) -> Any:
        return self.known.dependences.root(instr.args[0], instr.args[1])[0]

    # what is alike

    def group(self) -> None:
        levels = levels_of(self.run, self.before)
        order = sorted(range(len(levels)), key=lambda number: (levels[number], number))
        for _, numbers in groupby(order, lambda number: levels[number]):
            for group in self.level(numbers):
                self.give_operands(group)
                self.give_places(group)
                self.groups.append(group)

    def level(self, numbers: Iterable[int]) -> list[_Group]:
        """Instructions that do not need each other, grouped where they are alike."""
        alike: dict[Any, list[_Group]] = {}
        for number in numbers:
            instr = self.run[number]
            groups = alike.setdefault(self.key(instr), [])
            member = self.member(instr)
            group = next((g for g in groups if member in g.distinct), None)
            if group is None:
                if not groups or len(groups[-1].distinct) == MOST_MEMBERS:
                    groups.append(_Group(first=number))
                group = groups[-1]
            group.distinct.setdefault(member, number)
            group.numbers.append(number)
        return [group for groups in alike.values() for group in groups]

    def key(self, instr: Instr) -> tuple[Any, ...]:
        """Equal for instructions that one statement can stand for."""
        parts: list[Any] = [instr.op, repr(instr.extra)]
        parts += [register.type for register in instr.results]
        if instr.op in ALONE:
            return (*parts, id(instr))
        for position, argument in enumerate(instr.args):
            if isinstance(argument, Affine):
                parts.append(self.terms(argument))
            elif argument in self.reads:
                parts.append(self.key(self.run[self.reads[argument]]))
            elif argument in self.known.places:
                pack = self.known.places[argument][0]
                sums = instr.op == "fma" and position == 2
                parts.append(pack.type if sums else pack)
            else:
                parts.append(argument)
        return tuple(parts)

    def member(self, instr: Instr) -> tuple[Any, ...]:
        """What tells instructions of one key apart."""
        if instr.op in ALONE:
            return ()
        return tuple(self.member_of(argument) for argument in instr.args)

    def member_of(self, argument: object) -> Any:
        if isinstance(argument, Affine):
            return argument.const
        if isinstance(argument, Reg):
            if argument in self.reads:
                return self.run[self.reads[argument]].args[1].const
            if argument in self.known.places:
                return self.known.places[argument]
        return None

    def terms(self, index: Affine) -> frozenset[tuple[Reg, int]]:
        same = self.known.same
        return frozenset((same.get(reg, reg), c) for reg, c in index.terms)

    # operands and results

    def give_operands(self, group: _Group) -> None:
        places = self.known.places
        members = [self.run[number] for number in group.distinct.values()]
        if members[0].op in ("transpose", "sum_lanes"):
            group.operands = {0: tuple(places[row] for row in members[0].args)}
            return
        for position, argument in enumerate(members[0].args):
            if argument not in places:
                continue
            registers = [instr.args[position] for instr in members]
            found = tuple(places[register] for register in registers)
            packs = {pack for pack, _ in found}
            if len(packs) > 1 and all(register in self.reads for register in registers):
                again = self.loaded_again(group, registers)
                self.needs_instead(group, position, again)
                found = self.places_in(again)
            group.operands[position] = found

    def loaded_again(self, group: _Group, registers: Sequence[Reg]) -> _Group:
        """A load of exactly these registers, in front of the group that reads them."""
        again = _Group(first=group.first - 0.5)
        for register in registers:
            number = self.reads[register]
            instr = self.run[number]
            copy = len(self.run)
            self.run.append(instr)
            self.before.append(set(self.before[number]))
            again.numbers.append(copy)
            again.distinct.setdefault(self.member(instr), copy)
        op = self.run[again.numbers[0]].op
        again.result = Pack(registers[0].type, len(again.distinct), op)
        self.groups.append(again)
        return again

    def needs_instead(self, group: _Group, position: int, again: _Group) -> None:
        """The group needs the new loads, and no longer those of one argument."""
        for number in group.numbers:
            arguments = self.run[number].args
            others = {*arguments[:position], *arguments[position + 1 :]}
            if arguments[position] not in others:
                self.before[number].discard(self.reads[arguments[position]])
            self.before[number].update(again.numbers)

    def places_in(self, again: _Group) -> tuple[Place, ...]:
        assert again.result is not None
        order = {member: i for i, member in enumerate(again.distinct)}
        members = (self.member(self.run[number]) for number in again.numbers)
        return tuple((again.result, order[member]) for member in members)

    def give_places(self, group: _Group) -> None:
        """A pack for the results, or one name for an index."""
        first, places = self.run[group.numbers[0]], self.known.places
        if not first.results or first.op == "pin":
            return
        if first.results[0].type == INDEX:
            for number in group.numbers:
                instr = self.run[number]
                original = self.run[group.distinct[self.member(instr)]].results[0]
                self.known.same[instr.results[0]] = original
            return
        order = {member: position for position, member in enumerate(group.distinct)}
        size = max(len(first.results), len(order))
        group.result = Pack(first.results[0].type, size, first.op)
        for number in group.numbers:
            instr = self.run[number]
            for position, register in enumerate(instr.results):
                places[register] = group.result, position or order[self.member(instr)]

    # tile steps and loads that nobody reads

    def readers(self) -> dict[Pack, list[_Group | None]]:
        """The groups that read a pack, None for those outside of the run."""
        found: dict[Pack, list[_Group | None]] = {}
        for group in self.groups:
            for places in group.operands.values():
                for pack in {pack for pack, _ in places}:
                    found.setdefault(pack, []).append(group)
        inside = set(map(id, self.run))
        for instr in self.run:
            for register in instr.results:
                users = self.known.users.get(register, [])
                if register in self.known.places and any(
                    id(user) not in inside for user in users
                ):
                    pack = self.known.places[register][0]
                    found.setdefault(pack, []).append(None)
        return found

    def make_tile_steps(self) -> None:
        """Products of splats with weights take in the loading of the splats."""
        readers = self.readers()
        by_result = {group.result: group for group in self.groups}
        for group in list(self.groups):
            if self.run[group.numbers[0]].op != "fma":
                continue
            splats = by_result.get(group.operands[0][0][0])
            if splats and readers[group.operands[0][0][0]] == [group]:
                load = self.run[splats.numbers[0]]
                written = load.op != "load_splat" or self.buffer(load).written
                if not written and _is_outer_product(group):
                    group.splats = splats
                    group.numbers += splats.numbers
                    self.groups.remove(splats)

    def drop_unused_loads(self) -> None:
        """Loads that all readers have replaced by their own."""
        readers = self.readers()
        kept = []
        for group in self.groups:
            op = self.run[group.numbers[0]].op
            if op not in READS or group.result in readers:
                kept.append(group)
        self.groups = kept

    # order

    def in_order(self) -> list[_Group]:
        """What is needed first, else as in the program."""
        group_of = {number: g for g in self.groups for number in g.numbers}
        needs: dict[_Group, set[_Group]] = {group: set() for group in self.groups}
        followers: dict[_Group, list[_Group]] = {group: [] for group in self.groups}
        for number, group in group_of.items():
            for other in map(group_of.get, self.before[number]):
                if other is not None and other is not group:
                    if other not in needs[group]:
                        followers[other].append(group)
                    needs[group].add(other)
        position = {group: i for i, group in enumerate(self.groups)}
        ready = [(g.first, position[g]) for g in self.groups if not needs[g]]
        heapq.heapify(ready)
        found = []
        while ready:
            group = self.groups[heapq.heappop(ready)[1]]
            found.append(group)
            for follower in followers[group]:
                needs[follower].discard(group)
                if not needs[follower]:
                    heapq.heappush(ready, (follower.first, position[follower]))
        assert len(found) == len(self.groups), "statements need each other"
        return found

    def statement(self, group: _Group) -> Statement:
        instrs = tuple(self.run[number] for number in group.distinct.values())
        if group.splats is None:
            return Statement(instrs[0].op, instrs, group.result, group.operands)
        loads = group.splats.distinct.values()
        splats = tuple(self.run[number] for number in loads)
        weights = group.operands[1][0][0]
        whole = tuple((weights, member) for member in range(weights.size))
        operands = {1: whole, 2: group.operands[2]}
        return Statement("outer_fma", instrs, group.result, operands, splats)


def _is_outer_product(group: _Group) -> bool:
    """Whether each splat meets all weights, one after the other."""
    (splats, _), (weights, _) = group.operands[0][0], group.operands[1][0]
    if any(pack is not weights for pack, _ in group.operands[1]):
        return False
    found = zip(group.operands[0], group.operands[1], strict=True)
    return [(x, w) for (_, x), (_, w) in found] == [
        (x, w) for x in range(splats.size) for w in range(weights.size)
    ]

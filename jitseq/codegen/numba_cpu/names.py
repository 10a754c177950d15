"""Names, expressions and lines of a kernel's text, and when packs are read last.

Buffers, registers and packs enter, text leaves. Invariant: names are unique in
a function, never those of its functions or of Python, and follow from the kernel alone;
a name is given to a second pack only when the first is read no more.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from jitseq.codegen.numba_cpu.statements import (
    Body,
    LoopStatement,
    Pack,
    Place,
    Statement,
)
from jitseq.codegen.numba_cpu.vectors import FUNCTIONS
from jitseq.ir.program import Affine, Reg

WIDTH = 100
INDENT = "    "

ROLES = {
    "load": "v", "gather": "v", "load_splat": "x", "splat": "x", "uniform": "u",
    "to_float": "f", "carry": "acc", "const": "c", "sum_lanes": "s",
    "reduce_add": "s", "reduce_maximum": "s",
}  # fmt: skip
"""How results of an op are named; masks are m, others t."""


class Names:
    """Gives out names, each once."""

    def __init__(self) -> None:
        self.taken: set[str] = {*FUNCTIONS, *keyword.kwlist, "range", "kernel"}
        self.counts: Counter[str] = Counter()

    def exactly(self, name: str) -> str:
        assert name not in self.taken, name
        self.taken.add(name)
        return name

    def release(self, name: str) -> None:
        """The name of a loop's variable, behind the loop."""
        self.taken.remove(name)

    def plain(self, base: str) -> str:
        """``base``, or with a number behind it where it is taken."""
        base = base if base.isidentifier() else "i"
        return self.exactly(base) if base not in self.taken else self.numbered(base)

    def numbered(self, base: str) -> str:
        while True:
            name = f"{base}{self.counts[base]}"
            self.counts[base] += 1
            if name not in self.taken:
                return self.exactly(name)

    def of_pack(self, pack: Pack) -> str:
        if pack.op == "carry":
            return self.plain("acc")
        role = "m" if pack.type.element == "mask" else ROLES.get(pack.op, "t")
        return self.numbered(role)


def sum_text(names: dict[Reg, str], index: Affine, const: int | None = None) -> str:
    """``4*n + 3*y + x + 7``; ``const`` replaces the constant."""
    text = ""
    for register, coefficient in index.terms:
        size = abs(coefficient)
        part = names[register] if size == 1 else f"{size}*{names[register]}"
        sign = "-" if coefficient < 0 else "+"
        text = f"{text} {sign} {part}" if text else part if sign == "+" else f"-{part}"
    const = index.const if const is None else const
    if not text:
        return str(const)
    return f"{text} {'-' if const < 0 else '+'} {abs(const)}" if const else text


def places_text(names: dict[Pack, str], places: Sequence[Place], whole: bool) -> str:
    """A pack of these members, built from what has names.

    Where ``whole`` is false a single vector may stand for equal members.
    """
    runs = list(_runs(places))
    if len(runs) == 1:
        ((pack, members),) = runs
        lone = not whole and len(set(members)) == 1
        return _part(names[pack], pack.size, members[:1] if lone else members)
    parts = [_part(names[pack], pack.size, members) for pack, members in runs]
    if sum(part not in names.values() for part in parts) > 1:
        return _taken(names, places)
    return f"pack({', '.join(parts)})"


def _taken(names: dict[Pack, str], places: Sequence[Place]) -> str:
    """Members of all packs behind each other; two calls instead of many."""
    start: dict[Pack, int] = {}
    count = 0
    for pack, _ in places:
        if pack not in start:
            start[pack] = count
            count += pack.size
    order = [start[pack] + member for pack, member in places]
    whole = f"pack({', '.join(names[pack] for pack in start)})"
    return _part(whole, count, order)


def _runs(places: Sequence[Place]) -> Iterator[tuple[Pack, list[int]]]:
    """Members of the same pack that follow each other."""
    run: list[int] = []
    for i, (pack, member) in enumerate(places):
        run.append(member)
        if i + 1 == len(places) or places[i + 1][0] is not pack:
            yield pack, run
            run = []


def _part(name: str, size: int, members: list[int]) -> str:
    count = len(members)
    if members == list(range(size)):
        return name
    if count % size == 0:
        times = count // size
        if members == list(range(size)) * times:
            return f"tile({name}, times={times})"
        if members == [m for m in range(size) for _ in range(times)]:
            return f"each({name}, times={times})"
    return f"take({name}, order={tuple_text(members)})"


def tuple_text(numbers: Sequence[int]) -> str:
    """A literal of the numbers; long progressions are a range."""
    count, step = len(numbers), numbers[1] - numbers[0] if len(numbers) > 1 else 0
    if count > 4 and step:
        stop = numbers[0] + step * count
        if list(numbers) == list(range(numbers[0], stop, step)):
            start = f"{numbers[0]}, " if numbers[0] or step != 1 else ""
            return f"range({start}{stop}{f', {step}' if step != 1 else ''})"
    return f"({', '.join(map(str, numbers))}{',' if len(numbers) == 1 else ''})"


def last_uses(
    places: dict[Reg, Place], body: Body, yielded: Sequence[Reg]
) -> dict[Pack, int]:
    """The position in a body at which each pack is read last; yielding is the end."""
    found = {}
    for position, item in enumerate(body):
        for pack in packs_used(places, item):
            found[pack] = position
    for register in yielded:
        found[places[register][0]] = len(body)
    return found


def packs_used(
    places: dict[Reg, Place], item: Statement | LoopStatement
) -> Iterator[Pack]:
    """Every pack that an item reads, also in the loops inside of it."""
    if isinstance(item, Statement):
        for operand in item.operands.values():
            yield from (pack for pack, _ in operand)
        return
    for register in (*item.loop.entering, *item.loop.yielded):
        yield places[register][0]
    for inner in item.body:
        yield from packs_used(places, inner)


def wrapped(line: str) -> list[str]:
    """A line in pieces of at most ``WIDTH`` columns, cut behind commas and in sums."""
    if len(line) <= WIDTH:
        return [line]
    indent = line[: len(line) - len(line.lstrip())] + INDENT
    target, equals, value = line.partition(" = ")
    if equals and "(" not in value:
        line = f"{target} = ({value})"
    first, *pieces = re.split(r"(?<=,) | (?=[+-] )", line)
    lines = [first]
    for piece in pieces:
        if len(lines[-1]) + 1 + len(piece) <= WIDTH:
            lines[-1] += " " + piece
        else:
            lines.append(indent + piece)
    return lines

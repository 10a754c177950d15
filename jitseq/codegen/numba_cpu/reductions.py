"""Consecutive steps of one register tile, as one `accumulate` statement.

The statements of a straight run enter, in order, and leave with fewer: a step loads
weights that nobody else reads, and multiplies them by elements in all lanes; steps
whose sums follow from each other and whose addresses differ by constants become one.

Invariant: only loads of memory that the kernel does not write move, and only to later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from jitseq.codegen.numba_cpu.statements import (
    Accumulation,
    Pack,
    Place,
    Registers,
    Statement,
)
from jitseq.ir.program import Affine, Instr, Pointer


class _Factor(NamedTuple):
    """What loads it, and the load of each product."""

    loads: tuple[Statement, ...]
    instrs: tuple[Instr, ...]


class _Step(NamedTuple):
    """A statement as an accumulation of one step, and the loads that it takes in."""

    statement: Statement
    sum: Accumulation
    sums: tuple[Place, ...]
    loads: tuple[Statement, ...]


def with_accumulations(
    statements: Sequence[Statement], known: Registers, outside: set[Pack]
) -> list[Statement]:
    """The statements of a run; packs ``outside`` are read by others too."""
    run = _Reductions(statements, known, outside)
    for chain in run.chains():
        run.replace(chain)
    run.drop_pins()
    return [run.made.get(s, s) for s in statements if s not in run.taken]


class _Reductions:
    def __init__(
        self, statements: Sequence[Statement], known: Registers, outside: set[Pack]
    ) -> None:
        self.statements = statements
        self.known = known
        self.makers = {s.result: s for s in statements if s.result is not None}
        self.readers = Counter(
            pack
            for statement in statements
            for pack in {p for places in statement.operands.values() for p, _ in places}
        )
        self.outside = outside
        self.pins = {s.instrs[0].results[0] for s in statements if s.op == "pin"}
        self.taken: set[Statement] = set()
        self.made: dict[Statement, Statement] = {}

    # what is a step

    def step(self, statement: Statement) -> _Step | None:
        """None where the statement is something else."""
        if statement.op == "outer_fma":
            weights = self.loaded(statement, 1)
            if weights is None or not _is_vector(weights):
                return None
            rows, columns = len(statement.splats), len(weights.instrs)
            x = _Factor((), tuple(s for s in statement.splats for _ in range(columns)))
            w = _Factor(weights.loads, weights.instrs * rows)
            return self.of_factors(statement, x, w)
        if statement.op != "fma":
            return None
        first, second = (self.loaded(statement, position) for position in (0, 1))
        if first is None or second is None:
            return None
        if _is_vector(second):
            return self.of_factors(statement, first, second)
        return self.of_factors(statement, second, first) if _is_vector(first) else None

    def loaded(self, reader: Statement, position: int) -> _Factor | None:
        """An operand that is loaded in this run, for this reader only."""
        packs = {pack for pack, _ in reader.operands[position]}
        pack = packs.pop()
        maker = self.makers.get(pack)
        if packs or maker is None or pack in self.outside or self.readers[pack] > 1:
            return None
        if maker.op not in ("load", "load_splat") or maker.instrs[0].extra is not None:
            return None
        instrs = [maker.instrs[member] for _, member in reader.operands[position]]
        return _Factor((maker,), tuple(instrs))

    def of_factors(self, statement: Statement, x: _Factor, w: _Factor) -> _Step | None:
        """None where memory is written or its elements are converted."""
        kind = w.instrs[0].results[0].type.element
        for load in (x.instrs[0], w.instrs[0]):
            buffer, _ = self.known.dependences.root(load.args[0], load.args[1])
            if buffer.written or buffer.element != kind:
                return None
        (x_pointer, i), (w_pointer, j) = map(self.start, (x.instrs[0], w.instrs[0]))
        rows, columns = _rows_and_columns(_offsets(x.instrs), _offsets(w.instrs))
        sum = Accumulation(
            x_pointer, i, w_pointer, j, rows, columns,
            pinned=x_pointer is not x.instrs[0].args[0],
            w_pinned=w_pointer is not w.instrs[0].args[0],
            vectors=_is_vector(x),
        )  # fmt: skip
        return _Step(statement, sum, statement.operands[2], (*x.loads, *w.loads))

    def start(self, load: Instr) -> tuple[Pointer, Affine]:
        """What a load reads from; a pin of this run is looked through."""
        pointer, index = load.args[:2]
        if pointer in self.pins:
            return self.known.dependences.root(pointer, index)
        return pointer, index

    # steps that follow each other

    def chains(self) -> list[list[_Step]]:
        """Steps each of which adds to all sums of the one before, and to no others."""
        found: list[list[_Step]] = []
        open_chains: dict[Pack, list[_Step]] = {}
        for statement in self.statements:
            step = self.step(statement)
            if step is None:
                continue
            pack = step.sums[0][0]
            chain = open_chains.get(pack)
            if (
                chain is None
                or self.readers[pack] > 1
                or pack in self.outside
                or step.sums != tuple((pack, member) for member in range(pack.size))
                or not chain[0].sum.goes_on_with(step.sum)
            ):
                chain = []
                found.append(chain)
            chain.append(step)
            assert statement.result is not None
            open_chains[statement.result] = chain
        return found

    def replace(self, chain: list[_Step]) -> None:
        """One statement where the last of them stood."""
        first, last = chain[0], chain[-1].statement
        w_steps = tuple(step.sum.j.const - first.sum.j.const for step in chain)
        sum = replace(
            first.sum,
            x_steps=tuple(step.sum.i.const - first.sum.i.const for step in chain),
            w_steps=w_steps,
            ahead=self.ahead(first.sum, w_steps),
        )
        for step in chain:
            self.taken.update(step.loads)
            self.taken.add(step.statement)
        self.taken.remove(last)
        self.made[last] = Statement(
            "accumulate", last.instrs, last.result, {4: first.sums}, sum=sum
        )

    def ahead(self, sum: Accumulation, w_steps: Sequence[int]) -> int | None:
        """How far in front of the weights they are prefetched, at every step."""
        hints = {
            statement.instrs[0].args[1].const: statement
            for statement in self.statements
            if statement.op == "prefetch"
            and statement.instrs[0].args[0] is sum.w
            and frozenset(statement.instrs[0].args[1].terms) == frozenset(sum.j.terms)
            and _offsets(statement.instrs) == tuple(dict.fromkeys(sum.columns))
        }
        for place in hints:
            distance: int = place - sum.j.const
            wanted = [sum.j.const + step + distance for step in w_steps]
            if distance > 0 and all(at in hints for at in wanted):
                self.taken.update(hints[at] for at in wanted)
                return distance
        return None

    def drop_pins(self) -> None:
        """Pinned pointers through which nobody reads any more."""
        inside: set[int] = set()
        pointers: set[object] = set()
        for statement in self.statements:
            for instr in (*statement.instrs, *statement.splats):
                inside.add(id(instr))
                if statement not in self.taken and statement not in self.made:
                    pointers.update(instr.args[:1])
        for statement in self.statements:
            if statement.op == "pin":
                pin = statement.instrs[0].results[0]
                users = self.known.users.get(pin, [])
                if pin not in pointers and all(id(user) in inside for user in users):
                    self.taken.add(statement)


def _offsets(instrs: Sequence[Instr]) -> tuple[int, ...]:
    first = instrs[0].args[1].const
    return tuple(instr.args[1].const - first for instr in instrs)


def _is_vector(factor: _Factor) -> bool:
    return factor.instrs[0].op == "load"


def _rows_and_columns(
    xs: tuple[int, ...], ws: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the factors of each sum are, with fewer numbers.

    Sums in a row share what is multiplied by vectors, which may be common to all rows.
    """
    count = len(xs)
    width = next(
        width for width in range(count, 0, -1)
        if count % width == 0 and all(xs[k] == xs[k - k % width] for k in range(count))
    )  # fmt: skip
    common = all(ws[k] == ws[k % width] for k in range(count))
    return xs[::width], ws[:width] if common else ws

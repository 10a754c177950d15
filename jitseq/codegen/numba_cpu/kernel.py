"""One kernel of a Program → the lines of one Python function.

Statements on packs enter; leaves the text. Invariant: an index that several statements
of a body share is computed once, before the first of them, and what a loop carries
keeps one name inside the loop and behind it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jitseq.codegen.numba_cpu.dependences import READS
from jitseq.codegen.numba_cpu.names import (
    INDENT,
    WIDTH,
    Names,
    last_uses,
    packs_used,
    places_text,
    sum_text,
    tuple_text,
    wrapped,
)
from jitseq.codegen.numba_cpu.packs import pack_kernel
from jitseq.codegen.numba_cpu.statements import (
    Accumulation,
    Body,
    Carried,
    LoopStatement,
    Pack,
    Statement,
)
from jitseq.ir.program import INDEX, Affine, Buffer, Instr, Kernel, Loop, Pointer, Reg

INDICES = {"table": "entry", "imin": "least", "imax": "most", "round_down": "whole"}
"""Ops that make an index, and what their results are called."""


class KernelText:
    """Writes the function of a kernel into ``lines``."""

    def __init__(self, kernel: Kernel) -> None:
        packed = pack_kernel(kernel)
        self.places = packed.places
        self.same = packed.same
        self.lines: list[str] = []
        self.names = Names()
        self.indices: dict[Reg, str] = {}
        self.packs: dict[Pack, str] = {}
        self.pointers: dict[Pointer, str] = {}
        self.open_sums: list[dict[Any, str]] = []
        self.shared: list[Counter[Any]] = []
        self.depth = 0
        self.header(kernel)
        for pack, value in packed.constants:
            name = self.packs[pack] = self.names.of_pack(pack)
            element, lanes = pack.type
            literals = f'value={value!r}, lanes={lanes}, element="{element}"'
            self.add(f"{name} = const({literals})")
        self.body(packed.body, (), set())

    def add(self, line: str) -> None:
        self.lines += wrapped(INDENT * self.depth + line)

    def header(self, kernel: Kernel) -> None:
        """The signature, and a docstring that says what is read and written."""
        arguments: list[str] = []
        uses: dict[bool, list[str]] = {False: [], True: []}
        for i, buffer in enumerate(kernel.buffers):
            name = self.names.exactly(f"{'out' if buffer.written else 'in'}{i}")
            self.pointers[buffer] = name
            arguments.append(name)
            uses[buffer.written].append(f"{name}: {buffer.element}")
        for register, name in ((kernel.count, "images"), (kernel.first, "first")):
            self.indices[register] = self.names.exactly(name)
            arguments.append(name)
        self.add(f"def {self.names.exactly(kernel.name)}({', '.join(arguments)}):")
        self.depth = 1
        parts = [("Reads", uses[False]), ("writes", uses[True])]
        text = "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)
        doc = f'"""{text[0].upper()}{text[1:]}."""'
        self.lines += textwrap.wrap(
            doc, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT
        )

    # structure

    def body(self, body: Body, yielded: Sequence[Reg], owned: set[Pack]) -> None:
        """The items of one body; ``owned`` are the packs that it may overwrite."""
        last = last_uses(self.places, body, yielded)
        self.open_sums.append({})
        self.shared.append(self.count_sums(body))
        for position, item in enumerate(body):
            dying = {p for p in owned if last.get(p) == position}
            if isinstance(item, Statement):
                self.statement(item, dying)
                if item.result is not None:
                    owned.add(item.result)
            else:
                self.loop(item, dying)
                owned.update(carried.after for carried in item.carried)
        self.open_sums.pop()
        self.shared.pop()

    def loop(self, item: LoopStatement, dying: set[Pack]) -> None:
        loop = item.loop
        inside = {p for part in item.body for p in packs_used(self.places, part)}
        inside.update(self.places[register][0] for register in loop.yielded)
        for carried in item.carried:
            places = [self.places[loop.entering[i]] for i in carried.positions]
            others = Counter(self.places[register][0] for register in loop.entering)
            pack, size = places[0][0], len(places)
            whole = places == [(pack, i) for i in range(pack.size)]
            if whole and pack in dying - inside and others[pack] == size:
                name = self.packs[pack]
            else:
                name = self.names.of_pack(carried.inside)
                self.add(f"{name} = {places_text(self.packs, places, True)}")
            self.packs[carried.inside] = self.packs[carried.after] = name
        variable = self.names.plain(loop.var.hint)
        self.indices[loop.var] = variable
        self.add(f"for {variable} in {self.range_text(loop)}:")
        self.depth += 1
        start = len(self.lines)
        self.body(item.body, loop.yielded, {c.inside for c in item.carried})
        self.yield_values(loop, item.carried)
        if len(self.lines) == start:
            self.add("pass")
        self.depth -= 1
        self.names.release(variable)

    def range_text(self, loop: Loop) -> str:
        start, stop = (sum_text(self.indices, e) for e in (loop.start, loop.stop))
        if loop.step != 1:
            return f"range({start}, {stop}, {loop.step})"
        return f"range({stop})" if start == "0" else f"range({start}, {stop})"

    def yield_values(self, loop: Loop, carried: Sequence[Carried]) -> None:
        """Carried packs take their next values, all at the same time."""
        values = []
        for part in carried:
            places = [self.places[loop.yielded[i]] for i in part.positions]
            name = self.packs[part.inside]
            text = places_text(self.packs, places, True)
            if text != name:
                values.append((name, text, {self.packs[pack] for pack, _ in places}))
        overwritten = any(
            name in read for i, (name, _, _) in enumerate(values)
            for _, _, read in values[i + 1 :]
        )  # fmt: skip
        targets = [name for name, _, _ in values]
        if overwritten:
            targets = [self.names.numbered("next") for _ in values]
        for target, (_, text, _) in zip(targets, values, strict=True):
            self.add(f"{target} = {text}")
        if overwritten:
            for target, (name, _, _) in zip(targets, values, strict=True):
                self.add(f"{name} = {target}")

    # indices

    def terms(self, index: Affine) -> frozenset[tuple[Reg, int]]:
        return frozenset((self.same.get(reg, reg), c) for reg, c in index.terms)

    def count_sums(self, body: Body) -> Counter[Any]:
        """How many statements of a body use an index with these terms."""
        return Counter(
            self.terms(index) for item in body if isinstance(item, Statement)
            for index in _addresses(item)
        )  # fmt: skip

    def index(self, index: Affine, const: int | None = None) -> str:
        """The text of an index; what several statements share gets a name."""
        key = self.terms(index)
        const = index.const if const is None else const
        known = next((sums[key] for sums in self.open_sums if key in sums), None)
        if known is None:
            long = len(key) > 1 or any(c != 1 for _, c in key)
            if not long or self.shared[-1][key] < 2:
                return sum_text(self.indices, index, const)
            known = self.names.numbered("at")
            self.add(f"{known} = {sum_text(self.indices, index, 0)}")
            self.open_sums[-1][key] = known
        if not const:
            return known
        return f"{known} {'-' if const < 0 else '+'} {abs(const)}"

    def number_indices(self, statement: Statement) -> None:
        """Indices are computed one by one; equal ones have one name."""
        for instr in statement.instrs:
            arguments = [sum_text(self.indices, a) for a in instr.args]
            if instr.op == "table":
                arguments.append(f"values={tuple_text(instr.extra)}")
            elif instr.op == "round_down":
                arguments.append(f"multiple={instr.extra}")
            result = instr.results[0]
            name = self.indices[result] = self.names.numbered(INDICES[instr.op])
            self.add(f"{name} = {instr.op}({', '.join(arguments)})")
            for register, original in self.same.items():
                if original is result:
                    self.indices[register] = name

    # statements

    def statement(self, statement: Statement, dying: set[Pack]) -> None:
        first = statement.instrs[0]
        if first.results and first.results[0].type == INDEX:
            self.number_indices(statement)
        elif statement.op == "pin":
            target = self.index(first.args[1])
            name = self.pointers[first.results[0]] = self.names.numbered("p")
            self.add(f"{name} = pin({self.pointers[first.args[0]]}, {target})")
        else:
            call = self.call(statement)
            if statement.result is None:
                self.add(call)
                return
            name = self.result_name(statement, dying)
            self.packs[statement.result] = name
            self.add(f"{name} = {call}")

    def result_name(self, statement: Statement, dying: set[Pack]) -> str:
        """That of an operand which is read no more, or a new one.

        What was loaded keeps a name of its own.
        """
        result = statement.result
        assert result is not None
        for operand in reversed(statement.operands.values()):
            pack = operand[0][0]
            if pack.op in (*READS, "const"):
                continue
            if pack in dying and (pack.type, pack.size) == (result.type, result.size):
                return self.packs[pack]
        return self.names.of_pack(result)

    def call(self, statement: Statement) -> str:
        arguments, literals = self.arguments(statement)
        texts = [*arguments, *(f"{name}={text}" for name, text in literals.items())]
        return f"{statement.op}({', '.join(texts)})"

    def arguments(self, statement: Statement) -> tuple[list[str], dict[str, str]]:
        """Run-time arguments, and literals by name."""
        first, instrs = statement.instrs[0], statement.instrs
        vectors = [
            places_text(self.packs, places, _needs_pack(statement, position))
            for position, places in statement.operands.items()
        ]
        if statement.op == "to_float":
            offsets = [instr.args[0].const for instr in instrs]
            literals = {"element": f'"{first.results[0].type.element}"'}
            return [self.index(first.args[0])], literals | _offsets(offsets)
        if statement.sum is not None:
            return self.accumulation(statement.sum, vectors[0])
        if statement.op == "outer_fma":
            arguments, literals = self.address(statement.splats)
            return [*arguments, *vectors], {"offsets": "(0,)"} | literals
        if 0 in statement.operands:
            return vectors, _lane_literals(first)
        arguments, literals = self.address(instrs)
        return [*arguments, *vectors], literals | self.memory_literals(first)

    def accumulation(
        self, sum: Accumulation, acc: str
    ) -> tuple[list[str], dict[str, str]]:
        x, w = self.pointers[sum.x], self.pointers[sum.w]
        literals = {"rows": sum.rows, "columns": sum.columns}
        if len(sum.x_steps) > 1:
            literals |= {"x_steps": sum.x_steps, "w_steps": sum.w_steps}
        texts = {name: tuple_text(numbers) for name, numbers in literals.items()}
        for name in ("pinned", "w_pinned", "vectors"):
            if getattr(sum, name):
                texts[name] = "True"
        if sum.ahead is not None:
            texts["ahead"] = str(sum.ahead)
        return [x, self.index(sum.i), w, self.index(sum.j), acc], texts

    def address(self, instrs: Sequence[Instr]) -> tuple[list[str], dict[str, str]]:
        """Pointer and index of the first access, and how far the others are off."""
        pointer, index = instrs[0].args[:2]
        offsets = [instr.args[1].const for instr in instrs]
        return [self.pointers[pointer], self.index(index)], _offsets(offsets)

    def memory_literals(self, instr: Instr) -> dict[str, str]:
        literals: dict[str, str] = {}
        if instr.op == "prefetch":
            return literals
        if instr.results:
            type = instr.results[0].type
            if type.lanes > 1:
                literals["lanes"] = str(type.lanes)
            pointer = instr.args[0]
            stored = pointer.element if isinstance(pointer, Buffer) else pointer.hint
            if stored != type.element:
                literals["element"] = f'"{type.element}"'
        if instr.op == "gather":
            literals["stride"], literals["valid"] = map(str, instr.extra)
        elif instr.op == "uniform":
            literals["stride"] = str(instr.extra)
        elif instr.extra is not None:
            literals["valid"] = str(instr.extra)
        return literals


def _needs_pack(statement: Statement, position: int) -> bool:
    """Whether a single vector cannot stand for several equal members."""
    if statement.op == "outer_fma":
        return position == 2
    return statement.op in ("accumulate", "store", "transpose", "sum_lanes")


def _lane_literals(instr: Instr) -> dict[str, str]:
    if instr.op in ("splat", "sum_lanes"):
        return {"lanes": str(instr.results[0].type.lanes)}
    return {"count": str(instr.extra)} if instr.op == "first_lanes" else {}


def _offsets(found: Sequence[int]) -> dict[str, str]:
    """How far each is from the first; nothing to say of a single one."""
    if len(found) == 1:
        return {}
    return {"offsets": tuple_text([offset - found[0] for offset in found])}


def _addresses(statement: Statement) -> list[Affine]:
    """The indices that the text of a statement contains."""
    if statement.sum is not None:
        return [statement.sum.i, statement.sum.j]
    instr = (statement.splats or statement.instrs)[0]
    if instr.results and instr.results[0].type == INDEX:
        return []
    return [argument for argument in instr.args if isinstance(argument, Affine)]

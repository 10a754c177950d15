"""One kernel of a Program → one LLVM function: names, addresses, loops.

Loops test at their end. An address's varying part is computed once in the loop body
that varies it; constant offsets become part of the access.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jitseq.codegen.llvm.instructions import INSTRUCTIONS, count_math
from jitseq.codegen.llvm.types import ELEMENTS, llvm_type
from jitseq.ir.program import (
    Affine,
    Buffer,
    Instr,
    Item,
    Kernel,
    Loop,
    Pointer,
    Reg,
    Type,
)

INLINED_MATH = 6
"""Calls of vector functions in a kernel up to which each is written in line; more
would mostly be code to compile (a tanh behind a 28-row tile: 0.3 s)."""


class Module:
    """What kernels share: declarations, constant tables, vector functions needed."""

    def __init__(self) -> None:
        self.declares: set[str] = set()
        self.tables: dict[tuple[int, ...], str] = {}
        self.math: set[tuple[str, str, int]] = set()

    def table(self, values: tuple[int, ...]) -> str:
        return self.tables.setdefault(values, f"@table{len(self.tables)}")


class KernelRenderer:
    """Emits the function of one kernel."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.lines: list[str] = []
        self.names: dict[Reg | Buffer, str] = {}
        self.scopes: list[dict[Any, str]] = [{}]
        self.fresh = 0
        self.label = "entry"
        self.inlines_math = True

    # names and addresses

    def new(self) -> str:
        self.fresh += 1
        return f"%{self.fresh}"

    def new_label(self) -> str:
        self.fresh += 1
        return f"b{self.fresh}"

    def add(self, text: str) -> None:
        self.lines.append("  " + text)

    def assign(self, text: str) -> str:
        name = self.new()
        self.lines.append(f"  {name} = {text}")
        return name

    def begin(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def remembered(self, key: Any, make: Callable[[], str]) -> str:
        """The name computed for ``key`` in an open scope, or a new one."""
        for scope in self.scopes:
            if key in scope:
                return scope[key]
        name = make()
        self.scopes[-1][key] = name
        return name

    def index(self, value: Affine) -> str:
        """The text of an i64 operand."""
        if not value.terms:
            return str(value.const)
        dynamic = self.remembered(value.terms, lambda: self._sum(value.terms))
        if not value.const:
            return dynamic
        return self.assign(f"add nsw i64 {dynamic}, {value.const}")

    def _sum(self, terms: Sequence[tuple[Reg, int]]) -> str:
        total = ""
        for reg, coefficient in terms:
            part = self.names[reg]
            if coefficient != 1:
                part = self.assign(f"mul nsw i64 {part}, {coefficient}")
            total = self.assign(f"add nsw i64 {total}, {part}") if total else part
        return total

    def address(self, pointer: Pointer, index: Affine) -> str:
        """A pointer to one element; what varies is computed once a scope."""
        element = ELEMENTS[self.element(pointer)]
        base = self.names[pointer]
        if index.terms:
            base = self.remembered(
                (pointer, index.terms),
                lambda: self.assign(
                    f"getelementptr {element}, ptr {self.names[pointer]}, "
                    f"i64 {self.index(Affine(index.terms))}"
                ),
            )
        if not index.const:
            return base
        return self.assign(f"getelementptr {element}, ptr {base}, i64 {index.const}")

    @staticmethod
    def element(pointer: Pointer) -> str:
        return pointer.element if isinstance(pointer, Buffer) else pointer.hint

    # structure

    def render(self, kernel: Kernel) -> str:
        arguments = []
        for i, buffer in enumerate(kernel.buffers):
            self.names[buffer] = f"%p{i}"
            access = "" if buffer.written else "readonly "
            arguments.append(f"ptr noalias {access}%p{i}")
        self.names[kernel.count] = "%count"
        self.names[kernel.first] = "%first"
        self.inlines_math = count_math(kernel.body) <= INLINED_MATH
        signature = ", ".join([*arguments, "i64 %count", "i64 %first"])
        self.body(kernel.body)
        self.add("ret void")
        header = (
            f"define internal void @{kernel.name}({signature}) noinline #0 {{\nentry:"
        )
        return "\n".join([header, *self.lines, "}"])

    def body(self, body: Sequence[Item]) -> None:
        for item in body:
            if isinstance(item, Loop):
                self.loop(item)
            else:
                assert isinstance(item, Instr), "guards belong to grids"
                INSTRUCTIONS[item.op](self, item)

    def loop(self, loop: Loop) -> None:
        """A loop that tests at its end; guarded unless it surely runs."""
        start, stop = self.index(loop.start), self.index(loop.stop)
        before, head, after = self.label, self.new_label(), self.new_label()
        if loop.surely_runs:
            self.add(f"br label %{head}")
        else:
            runs = self.assign(f"icmp slt i64 {start}, {stop}")
            self.add(f"br i1 {runs}, label %{head}, label %{after}")
        self.begin(head)
        position = len(self.lines)
        self.names[loop.var] = self.new()
        for reg in loop.carried:
            self.names[reg] = self.new()
        self.scopes.append({})
        self.body(loop.body)
        self.scopes.pop()
        following = self.assign(f"add nsw i64 {self.names[loop.var]}, {loop.step}")
        again = self.assign(f"icmp slt i64 {following}, {stop}")
        back = self.label
        self.add(f"br i1 {again}, label %{head}, label %{after}")
        phis = [self._phi(loop.var, start, before, following, back)]
        for reg, entering, yielded in zip(
            loop.carried, loop.entering, loop.yielded, strict=True
        ):
            names = (self.names[entering], before, self.names[yielded], back)
            phis.append(self._phi(reg, *names))
        self.lines[position:position] = phis
        self.begin(after)
        self._results(loop, before, back)

    def _phi(self, reg: Reg, first: str, before: str, next: str, back: str) -> str:
        pairs = f"[ {first}, %{before} ], [ {next}, %{back} ]"
        return f"  {self.names[reg]} = phi {llvm_type(reg.type)} {pairs}"

    def _results(self, loop: Loop, before: str, back: str) -> None:
        for result, entering, yielded in zip(
            loop.results, loop.entering, loop.yielded, strict=True
        ):
            if loop.surely_runs:
                self.names[result] = self.names[yielded]
                continue
            pairs = f"[ {self.names[entering]}, %{before} ]"
            pairs += f", [ {self.names[yielded]}, %{back} ]"
            self.names[result] = self.assign(f"phi {llvm_type(result.type)} {pairs}")

    # used by instructions

    def define(self, instr: Instr, text: str) -> None:
        self.names[instr.results[0]] = self.assign(text)

    def operands(self, instr: Instr) -> list[str]:
        return [self.names[arg] for arg in instr.args]

    def call_intrinsic(
        self, name: str, result: Type, arguments: list[tuple[str, str]]
    ) -> str:
        types = ", ".join(type for type, _ in arguments)
        self.module.declares.add(f"declare {llvm_type(result)} @{name}({types})")
        values = ", ".join(f"{type} {value}" for type, value in arguments)
        return f"call {llvm_type(result)} @{name}({values})"

"""Renders the kernels of a Program of grids as Python source for `numba.cuda`.

A Program whose types are scalars enters; leaves the text of a module with a function
for each kernel: what one thread does. Invariant: the text depends on the Program
alone, and names only its arguments, its constants and what `functions` provides, so
that the same text runs on the device and in numba's simulator, which only refuses to
hear how shared memory is aligned. ``float32`` arithmetic meets no other type than
``float32``.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Iterator, Sequence

from jitseq.ir.program import (
    INDEX,
    Affine,
    Buffer,
    Guard,
    Instr,
    Item,
    Kernel,
    Loop,
    Program,
    Reg,
)
from jitseq.ir.program_text import kernel_text

HEADER_LINES = 12
"""Lines of the kernel's text that stand above its function."""

INDENT = "    "
COLUMNS = 88
PLACES = {
    "thread": "cuda.threadIdx.x",
    "block": "cuda.blockIdx.x",
    "row": "cuda.blockIdx.y",
}
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "gt": ">", "le": "<=",
    "ge": ">=", "eq": "==", "both": "&",
}  # fmt: skip
CALLED = (
    "exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "abs", "maximum", "minimum",
)  # fmt: skip
RESERVED = ("cuda", "images", "inf", "nan", "min", "max", "range", *PLACES, *CALLED)


def render(program: Program, aligned: bool = False) -> str:
    """The source of all kernels; `functions.namespace` is what it runs in.

    ``aligned`` puts shared memory where a thread can load 16 bytes at a time.
    """
    tables: dict[tuple[int, ...], str] = {}
    functions = [
        KernelSource(kernel, tables, aligned).text() for kernel in program.kernels
    ]
    constants = [
        f"{name} = array({list(numbers)}, int64)" for numbers, name in tables.items()
    ]
    parts = ["\n".join(constants)] if constants else []
    return "\n\n\n".join([*parts, *functions]) + "\n"


class KernelSource:
    """One kernel as a function; ``tables`` of the module are shared and added to."""

    def __init__(
        self, kernel: Kernel, tables: dict[tuple[int, ...], str], aligned: bool
    ) -> None:
        self.kernel = kernel
        self.tables = tables
        self.aligned = aligned
        self.names: dict[object, str] = {kernel.count: "images"}
        self._taken = set(RESERVED)
        for i, buffer in enumerate(kernel.buffers):
            self.names[buffer] = f"{'out' if buffer.written else 'in'}{i}"
        self._taken.update(self.names.values())
        for buffer in kernel.scratch:
            self.names[buffer] = self._free(buffer.name)
        self._lines: list[str] = []
        self._used_tables: dict[str, str] = {}
        self._counter = 0

    def text(self) -> str:
        kernel = self.kernel
        used = {item.op for item in instructions(kernel.body)}
        self._body(kernel.body, INDENT)
        arguments = ", ".join([*(self.names[b] for b in kernel.buffers), "images"])
        top = [f"{name} = {where}" for name, where in PLACES.items() if name in used]
        top += [f"{self.names[b]} = {self._memory(b)}" for b in kernel.scratch]
        top += [
            f"{local} = cuda.const.array_like({name})"
            for name, local in self._used_tables.items()
        ]
        lines = [*self._header(), "@cuda.jit", f"def {kernel.name}({arguments}):"]
        ops = kernel.name.partition("_")[2] or kernel.name
        lines.append(f'{INDENT}"""One thread of a grid: {ops}."""')
        lines += [INDENT + line for line in top]
        return "\n".join([*lines, *(self._lines or [f"{INDENT}pass"])])

    def _memory(self, buffer: Buffer) -> str:
        """Scratch memory of a block or a thread."""
        more = ", 16" if self.aligned and buffer.space == "shared" else ""
        return f"cuda.{buffer.space}.array({buffer.size}, {buffer.element}{more})"

    def _header(self) -> list[str]:
        text = f"{self.kernel.name}{kernel_text(self.kernel)}".split("\n")
        shown = text[:HEADER_LINES] + ["  …"] * (len(text) > HEADER_LINES)
        cut = [
            line if len(line) < COLUMNS - 2 else line[: COLUMNS - 4] + "…"
            for line in shown
        ]
        return [f"# {line.rstrip()}" for line in cut]

    # names

    def name(self, reg: Reg) -> str:
        if reg not in self.names:
            self._counter += 1
            letter = {"i64": "i", "mask": "m"}.get(reg.type.element, "v")
            self.names[reg] = self._free(f"{letter}{self._counter}")
        return self.names[reg]

    def _free(self, wished: str) -> str:
        name, count = wished, 1
        while name in self._taken or not name.isidentifier() or keyword.iskeyword(name):
            count += 1
            name = f"{wished}_{count}" if wished.isidentifier() else f"i_{count}"
        self._taken.add(name)
        return name

    def affine(self, value: Affine) -> str:
        parts = [
            (self.name(reg), c)
            for reg, c in value.terms
            if reg is not self.kernel.first
        ]
        text = " + ".join(name if c == 1 else f"{c} * {name}" for name, c in parts)
        if not text:
            return str(value.const)
        if value.const:
            sign = "-" if value.const < 0 else "+"
            text = f"{text} {sign} {abs(value.const)}"
        return text

    # items

    def line(self, text: str, indent: str) -> None:
        self._lines.append(indent + text)

    def _body(self, body: Sequence[Item], indent: str) -> None:
        for item in body:
            if isinstance(item, Loop):
                self._loop(item, indent)
            elif isinstance(item, Guard):
                self.line(f"if {self.name(item.mask)}:", indent)
                self._block(item.body, indent + INDENT)
            else:
                self._instruction(item, indent)

    def _block(self, body: Sequence[Item], indent: str) -> None:
        before = len(self._lines)
        self._body(body, indent)
        if len(self._lines) == before:
            self.line("pass", indent)

    def _loop(self, loop: Loop, indent: str) -> None:
        """Carried registers are variables, which hold the results afterwards."""
        for carried, entering, result in zip(
            loop.carried, loop.entering, loop.results, strict=True
        ):
            first = self.name(entering)
            self.names[result] = self.name(carried)
            self.line(f"{self.name(carried)} = {first}", indent)
        self.names[loop.var] = self._free(loop.var.hint or "i")
        bounds = [self.affine(loop.start), self.affine(loop.stop)]
        if bounds[0] == "0" and loop.step == 1:
            bounds = bounds[1:]
        if loop.step != 1:
            bounds.append(str(loop.step))
        self.line(f"for {self.name(loop.var)} in range({', '.join(bounds)}):", indent)
        inner = indent + INDENT
        before = len(self._lines)
        self._body(loop.body, inner)
        self._yield(loop, inner)
        if len(self._lines) == before:
            self.line("pass", inner)

    def _yield(self, loop: Loop, indent: str) -> None:
        """All at once where a value is another variable's old one."""
        pairs = [
            (self.name(carried), self.name(value))
            for carried, value in zip(loop.carried, loop.yielded, strict=True)
        ]
        pairs = [(target, value) for target, value in pairs if target != value]
        targets = [target for target, _ in pairs]
        if set(targets) & {value for _, value in pairs}:
            values = ", ".join(value for _, value in pairs)
            self.line(f"{', '.join(targets)} = {values}", indent)
            return
        for target, value in pairs:
            self.line(f"{target} = {value}", indent)

    def _instruction(self, instr: Instr, indent: str) -> None:
        op = instr.op
        if op == "store":
            pointer, index, value = instr.args
            place = self.place(pointer, index)
            self.line(f"{place} = {self.name(value)}", indent)
        elif op == "barrier":
            self.line("cuda.syncthreads()", indent)
        else:
            (result,) = instr.results
            text = self._expression(instr)
            if op in PLACES or op == "const":
                self.names[result] = text
            else:
                self.line(f"{self.name(result)} = {text}", indent)

    def place(self, pointer: Buffer, index: Affine) -> str:
        """An element; scratch memory is an array, whose index must be unsigned."""
        at = self.affine(index)
        if pointer.space != "global":
            at = f"u64({at})"
        return f"{self.names[pointer]}[{at}]"

    def table(self, numbers: tuple[int, ...]) -> str:
        name = self.tables.setdefault(numbers, f"TABLE_{len(self.tables)}")
        return self._used_tables.setdefault(name, name.lower())

    def _expression(self, instr: Instr) -> str:
        if instr.op in INFIX:
            left, right = (self.name(arg) for arg in instr.args)
            return f"{left} {INFIX[instr.op]} {right}"
        if instr.op in CALLED:
            return f"{instr.op}({', '.join(self.name(arg) for arg in instr.args)})"
        return EXPRESSIONS[instr.op](self, instr)


def instructions(body: Sequence[Item]) -> Iterator[Instr]:
    """All of a body, those of loops and guards too."""
    for item in body:
        if isinstance(item, Instr):
            yield item
        else:
            yield from instructions(item.body)


def number(value: float, element: str) -> str:
    """A constant of its type."""
    if math.isnan(value):
        return f"{element}(nan)"
    if math.isinf(value):
        return f"{element}({'-' if value < 0 else ''}inf)"
    return f"{element}({value!r})"


def _load(source: KernelSource, instr: Instr) -> str:
    pointer, index = instr.args
    return _converted(source, instr, pointer, index)


def _load_where(source: KernelSource, instr: Instr) -> str:
    mask, pointer, index = instr.args
    element = instr.results[0].type.element
    loaded = _converted(source, instr, pointer, index)
    return f"{loaded} if {source.name(mask)} else {number(0.0, element)}"


def _converted(
    source: KernelSource, instr: Instr, pointer: Buffer, index: Affine
) -> str:
    """Labels and masks are integers in memory, numbers in registers."""
    place, type = source.place(pointer, index), instr.results[0].type
    if type == INDEX or pointer.element == type.element:
        return place
    return f"{type.element}({place})"


def _grouped(text: str) -> str:
    return text if text.isidentifier() else f"({text})"


def _quotient(source: KernelSource, instr: Instr) -> str:
    divisor, dividend = instr.extra, source.affine(instr.args[0])
    if divisor & (divisor - 1) == 0:
        return f"{_grouped(dividend)} >> {divisor.bit_length() - 1}"
    return f"quotient({dividend}, {divisor})"


def _remainder(source: KernelSource, instr: Instr) -> str:
    divisor, dividend = instr.extra, source.affine(instr.args[0])
    if divisor & (divisor - 1) == 0:
        return f"{_grouped(dividend)} & {divisor - 1}"
    return f"remainder({dividend}, {divisor})"


def _unordered(source: KernelSource, instr: Instr) -> str:
    found = dict.fromkeys(
        f"({name} != {name})" for name in map(source.name, instr.args)
    )
    return " | ".join(found)


def _select(source: KernelSource, instr: Instr) -> str:
    mask, a, b = map(source.name, instr.args)
    return f"{a} if {mask} else {b}"


def _across(source: KernelSource, instr: Instr) -> str:
    return f"{instr.op}({source.name(instr.args[0])}, {instr.extra})"


def _integers(source: KernelSource, instr: Instr) -> str:
    a, b = map(source.affine, instr.args)
    return f"{instr.op[1:]}({a}, {b})"


def _random(source: KernelSource, instr: Instr) -> str:
    key, index = instr.args
    element = instr.results[0].type.element
    return f"uniform_{element}({source.names[key]}, {source.affine(index)})"


EXPRESSIONS: dict[str, Callable[[KernelSource, Instr], str]] = {
    "thread": lambda source, instr: instr.op,
    "block": lambda source, instr: instr.op,
    "row": lambda source, instr: instr.op,
    "const": lambda source, instr: number(instr.extra, instr.results[0].type.element),
    "neg": lambda source, instr: f"-{source.name(instr.args[0])}",
    "load": _load,
    "load_splat": _load,
    "load_where": _load_where,
    "quotient": _quotient,
    "remainder": _remainder,
    "round_down": lambda source, instr: f"({_quotient(source, instr)}) * {instr.extra}",
    "imin": _integers,
    "imax": _integers,
    "to_float": lambda source, instr: (
        f"{instr.results[0].type.element}({source.affine(instr.args[0])})"
    ),
    "table": lambda source, instr: (
        f"{source.table(instr.extra)}[u64({source.affine(instr.args[0])})]"
    ),
    "below": lambda source, instr: " < ".join(map(source.affine, instr.args)),
    "unordered": _unordered,
    "select": _select,
    "uniform": _random,
    "fma": lambda source, instr: f"cuda.fma({', '.join(map(source.name, instr.args))})",
    "warp_add": _across,
    "warp_maximum": _across,
}

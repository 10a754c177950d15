"""Program → LLVM IR text.

Enters a verified Program; leaves the text of one module with a function for each
kernel, one for each segment, and the exported entries of `driver`. The text is
deterministic. Invariant: the only floating-point freedom given to LLVM is the
reassociation of horizontal sums; NaN, infinities and denormals keep their meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitseq.codegen.llvm.driver import render_driver
from jitseq.codegen.llvm.math import math_functions, symbol
from jitseq.ir.program import (
    ELEMENT_BYTES,
    Affine,
    Buffer,
    Instr,
    Kernel,
    Loop,
    Pointer,
    Program,
    Reg,
    Type,
)
from jitseq.ir.target import Target

ELEMENTS = {"f32": "float", "f64": "double", "i64": "i64", "u8": "i8", "mask": "i1"}
INTEGERS = {"f32": "i32", "f64": "i64"}
COMPARISONS = {"lt": "olt", "gt": "ogt", "le": "ole", "ge": "oge", "unordered": "uno"}
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
VECTOR_MATH = ("exp", "expm1", "log", "log1p", "tanh", "erf")


def llvm_type(type: Type) -> str:
    element = ELEMENTS[type.element]
    return element if type.lanes == 1 else f"<{type.lanes} x {element}>"


def intrinsic_suffix(type: Type) -> str:
    return type.element if type.lanes == 1 else f"v{type.lanes}{type.element}"


def number(value: float, element: str) -> str:
    """A float literal that LLVM reads back exactly (its bits as a double)."""
    import struct

    if element == "f32":
        value = struct.unpack("f", struct.pack("f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def splat_text(text: str, type: Type) -> str:
    """A constant of ``type`` with ``text`` in every lane."""
    if type.lanes == 1:
        return text
    return "splat (" + f"{ELEMENTS[type.element]} {text})"


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

    def remembered(self, key: Any, make: Any) -> str:
        """The name computed for ``key`` in an open scope, or a new one."""
        for scope in self.scopes:
            if key in scope:
                return scope[key]
        name: str = make()
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
        signature = ", ".join([*arguments, "i64 %count"])
        self.body(kernel.body)
        self.add("ret void")
        header = f"define internal void @{kernel.name}({signature}) noinline #0 {{\nentry:"
        return "\n".join([header, *self.lines, "}"])

    def body(self, body: Sequence[Instr | Loop]) -> None:
        for item in body:
            if isinstance(item, Loop):
                self.loop(item)
            else:
                self.instruction(item)

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

    # instructions

    def instruction(self, instr: Instr) -> None:
        op = instr.op
        if op in COMPARISONS:
            self._compare(instr)
        elif op in ARITHMETIC:
            a, b = (self.names[arg] for arg in instr.args)  # type: ignore[index]
            type = llvm_type(instr.results[0].type)
            self.define(instr, f"{ARITHMETIC[op]} {type} {a}, {b}")
        elif op in VECTOR_MATH:
            self._call_math(instr)
        else:
            getattr(self, f"_{op}")(instr)

    def define(self, instr: Instr, text: str) -> None:
        self.names[instr.results[0]] = self.assign(text)

    def operands(self, instr: Instr) -> list[str]:
        return [self.names[arg] for arg in instr.args]  # type: ignore[index]

    def call_intrinsic(self, name: str, result: Type, arguments: list[tuple[str, str]]) -> str:
        types = ", ".join(type for type, _ in arguments)
        self.module.declares.add(f"declare {llvm_type(result)} @{name}({types})")
        values = ", ".join(f"{type} {value}" for type, value in arguments)
        return f"call {llvm_type(result)} @{name}({values})"

    def _compare(self, instr: Instr) -> None:
        a, b = self.operands(instr)
        type = llvm_type(instr.args[0].type)  # type: ignore[attr-defined]
        self.define(instr, f"fcmp {COMPARISONS[instr.op]} {type} {a}, {b}")

    def _call_math(self, instr: Instr) -> None:
        type = instr.results[0].type
        element = ELEMENTS[type.element]
        self.module.math.add((instr.op, element, type.lanes))
        (x,) = self.operands(instr)
        name = symbol(instr.op, element, type.lanes)
        self.define(instr, f"call {llvm_type(type)} {name}({llvm_type(type)} {x})")

    def _const(self, instr: Instr) -> None:
        type = instr.results[0].type
        text = splat_text(number(instr.extra, type.element), type)  # type: ignore[arg-type]
        self.names[instr.results[0]] = text

    def _load(self, instr: Instr) -> None:
        pointer, index = instr.args
        type = instr.results[0].type
        address = self.address(pointer, index)  # type: ignore[arg-type]
        size = ELEMENT_BYTES[type.element]
        if instr.extra is None:
            self.define(instr, f"load {llvm_type(type)}, ptr {address}, align {size}")
            return
        self.define(instr, self._masked("load", type, address, int(instr.extra)))  # type: ignore[call-overload]

    def _masked(
        self, what: str, type: Type, address: str, valid: int, value: str = ""
    ) -> str:
        vector, mask = llvm_type(type), llvm_type(Type("mask", type.lanes))
        bits = ", ".join(
            f"i1 {'true' if lane < valid else 'false'}" for lane in range(type.lanes)
        )
        name = f"llvm.masked.{what}.{intrinsic_suffix(type)}.p0"
        align = ELEMENT_BYTES[type.element]
        if what == "load":
            self.module.declares.add(f"declare {vector} @{name}(ptr, i32, {mask}, {vector})")
            return (
                f"call {vector} @{name}(ptr {address}, i32 {align}, {mask} <{bits}>, "
                f"{vector} zeroinitializer)"
            )
        self.module.declares.add(f"declare void @{name}({vector}, ptr, i32, {mask})")
        return (
            f"call void @{name}({vector} {value}, ptr {address}, i32 {align}, "
            f"{mask} <{bits}>)"
        )

    def _store(self, instr: Instr) -> None:
        pointer, index, value = instr.args
        assert isinstance(value, Reg)
        address = self.address(pointer, index)  # type: ignore[arg-type]
        name = self.names[value]
        if instr.extra is not None:
            self.add(self._masked("store", value.type, address, int(instr.extra), name))  # type: ignore[call-overload]
            return
        size = ELEMENT_BYTES[value.type.element]
        self.add(f"store {llvm_type(value.type)} {name}, ptr {address}, align {size}")

    def _load_splat(self, instr: Instr) -> None:
        pointer, index = instr.args
        type = instr.results[0].type
        element, size = ELEMENTS[type.element], ELEMENT_BYTES[type.element]
        address = self.address(pointer, index)  # type: ignore[arg-type]
        scalar = self.assign(f"load {element}, ptr {address}, align {size}")
        self.names[instr.results[0]] = self.broadcast(scalar, type)

    def broadcast(self, scalar: str, type: Type) -> str:
        if type.lanes == 1:
            return scalar
        vector, element = llvm_type(type), ELEMENTS[type.element]
        first = self.assign(f"insertelement {vector} poison, {element} {scalar}, i64 0")
        zeros = f"<{type.lanes} x i32> zeroinitializer"
        return self.assign(f"shufflevector {vector} {first}, {vector} poison, {zeros}")

    def _splat(self, instr: Instr) -> None:
        (scalar,) = self.operands(instr)
        self.names[instr.results[0]] = self.broadcast(scalar, instr.results[0].type)

    def _gather(self, instr: Instr) -> None:
        pointer, index = instr.args
        assert isinstance(index, Affine)
        type = instr.results[0].type
        vector, element = llvm_type(type), ELEMENTS[type.element]
        stride, valid = instr.extra  # type: ignore[misc]
        name = "zeroinitializer"
        for lane in range(valid):
            at = self.address(pointer, index + lane * stride)  # type: ignore[arg-type]
            item = self.assign(f"load {element}, ptr {at}")
            name = self.assign(
                f"insertelement {vector} {name}, {element} {item}, i64 {lane}"
            )
        self.names[instr.results[0]] = name

    def _prefetch(self, instr: Instr) -> None:
        pointer, index = instr.args
        address = self.address(pointer, index)  # type: ignore[arg-type]
        name = "llvm.prefetch.p0"
        self.module.declares.add(f"declare void @{name}(ptr, i32, i32, i32)")
        self.add(f"call void @{name}(ptr {address}, i32 0, i32 3, i32 1)")

    def _pin(self, instr: Instr) -> None:
        pointer, index = instr.args
        address = self.address(pointer, index)  # type: ignore[arg-type]
        self.define(instr, f'call ptr asm "", "=r,0"(ptr {address})')

    def _table(self, instr: Instr) -> None:
        values: tuple[int, ...] = instr.extra  # type: ignore[assignment]
        index = self.index(instr.args[0])  # type: ignore[arg-type]
        name = self.module.table(values)
        address = self.assign(f"getelementptr i64, ptr {name}, i64 {index}")
        self.define(instr, f"load i64, ptr {address}")

    def _to_float(self, instr: Instr) -> None:
        index = self.index(instr.args[0])  # type: ignore[arg-type]
        self.define(instr, f"sitofp i64 {index} to {llvm_type(instr.results[0].type)}")

    def _imin(self, instr: Instr) -> None:
        a, b = (self.index(arg) for arg in instr.args)  # type: ignore[arg-type]
        less = self.assign(f"icmp slt i64 {a}, {b}")
        self.define(instr, f"select i1 {less}, i64 {a}, i64 {b}")

    def _round_down(self, instr: Instr) -> None:
        value = self.index(instr.args[0])  # type: ignore[arg-type]
        rest = self.assign(f"urem i64 {value}, {instr.extra}")
        self.define(instr, f"sub nsw i64 {value}, {rest}")

    def _fma(self, instr: Instr) -> None:
        type = instr.results[0].type
        arguments = [(llvm_type(type), name) for name in self.operands(instr)]
        name = f"llvm.fma.{intrinsic_suffix(type)}"
        self.define(instr, self.call_intrinsic(name, type, arguments))

    def _neg(self, instr: Instr) -> None:
        (x,) = self.operands(instr)
        self.define(instr, f"fneg {llvm_type(instr.results[0].type)} {x}")

    def _unary_intrinsic(self, instr: Instr, name: str) -> None:
        type = instr.results[0].type
        arguments = [(llvm_type(type), name) for name in self.operands(instr)]
        full = f"llvm.{name}.{intrinsic_suffix(type)}"
        self.define(instr, self.call_intrinsic(full, type, arguments))

    def _sqrt(self, instr: Instr) -> None:
        self._unary_intrinsic(instr, "sqrt")

    def _abs(self, instr: Instr) -> None:
        self._unary_intrinsic(instr, "fabs")

    def _select(self, instr: Instr) -> None:
        mask, a, b = self.operands(instr)
        type = instr.results[0].type
        bits = llvm_type(Type("mask", type.lanes))
        vector = llvm_type(type)
        self.define(instr, f"select {bits} {mask}, {vector} {a}, {vector} {b}")

    def _maximum(self, instr: Instr) -> None:
        self._extremum(instr, "ogt")

    def _minimum(self, instr: Instr) -> None:
        self._extremum(instr, "olt")

    def _extremum(self, instr: Instr, comparison: str) -> None:
        """``a`` where it wins or is NaN, else ``b`` (which may be NaN)."""
        a, b = self.operands(instr)
        type = instr.results[0].type
        vector, bits = llvm_type(type), llvm_type(Type("mask", type.lanes))
        wins = self.assign(f"fcmp {comparison} {vector} {a}, {b}")
        winner = self.assign(f"select {bits} {wins}, {vector} {a}, {vector} {b}")
        nan = self.assign(f"fcmp uno {vector} {a}, {a}")
        self.define(instr, f"select {bits} {nan}, {vector} {a}, {vector} {winner}")

    def _first_lanes(self, instr: Instr) -> None:
        value, fill = self.operands(instr)
        vector = llvm_type(instr.results[0].type)
        lanes = instr.results[0].type.lanes
        order = ", ".join(
            f"i32 {lane if lane < int(instr.extra) else lanes + lane}"  # type: ignore[call-overload]
            for lane in range(lanes)
        )
        mask = f"<{lanes} x i32> <{order}>"
        self.define(instr, f"shufflevector {vector} {value}, {vector} {fill}, {mask}")

    def _reduce_add(self, instr: Instr) -> None:
        self._reduce(instr, "fadd", f"{ELEMENTS[instr.results[0].type.element]} -0.0")

    def _reduce_maximum(self, instr: Instr) -> None:
        self._reduce(instr, "fmaximum", "")

    def _reduce(self, instr: Instr, what: str, start: str) -> None:
        (x,) = self.operands(instr)
        source, result = instr.args[0].type, instr.results[0].type  # type: ignore[attr-defined]
        if source.lanes == 1:
            self.names[instr.results[0]] = x
            return
        name = f"llvm.vector.reduce.{what}.{intrinsic_suffix(source)}"
        vector, element = llvm_type(source), llvm_type(result)
        types = f"{element}, {vector}" if start else vector
        self.module.declares.add(f"declare {element} @{name}({types})")
        values = f"{start}, {vector} {x}" if start else f"{vector} {x}"
        flags = "reassoc " if start else ""
        self.define(instr, f"call {flags}{element} @{name}({values})")

    def _transpose(self, instr: Instr) -> None:
        """log2(L) rounds; each exchanges blocks between rows ``half`` apart."""
        rows = self.operands(instr)
        type = instr.results[0].type
        vector, lanes = llvm_type(type), type.lanes
        half = 1
        while half < lanes:
            swapped = list(rows)
            for i in range(lanes):
                if i & half:
                    continue
                low = [lane if not lane & half else lanes + lane - half for lane in range(lanes)]
                high = [lane + half if not lane & half else lanes + lane for lane in range(lanes)]
                for target, order in ((i, low), (i + half, high)):
                    mask = ", ".join(f"i32 {position}" for position in order)
                    swapped[target] = self.assign(
                        f"shufflevector {vector} {rows[i]}, {vector} {rows[i + half]}, "
                        f"<{lanes} x i32> <{mask}>"
                    )
            rows = swapped
            half *= 2
        self.names.update(zip(instr.results, rows, strict=True))


def render(program: Program, target: Target, profile: bool = False) -> str:
    """The LLVM module of a program, as text."""
    module = Module()
    kernels = [KernelRenderer(module).render(kernel) for kernel in program.kernels]
    driver = render_driver(program, profile)
    math = math_functions(sorted(module.math))
    declares = sorted(module.declares | math.declares | driver.declares)
    tables = [
        f"{name} = internal constant [{len(values)} x i64] "
        f"[{', '.join(f'i64 {value}' for value in values)}]"
        for values, name in module.tables.items()
    ]
    width = target.vector_bytes * 8
    attributes = (
        f'attributes #0 = {{ nounwind "target-cpu"="{target.cpu}" '
        f'"target-features"="{target.features}" "prefer-vector-width"="{width}" }}'
    )
    parts = [*tables, *kernels, math.definitions, driver.text, *declares, attributes]
    return "\n\n".join(part for part in parts if part) + "\n"

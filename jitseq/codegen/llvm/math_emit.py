"""A small writer of LLVM IR for straight-line functions of one vector argument.

Enters: an element type, a lane count and calls such as ``body.fma(a, b, c)``.
Leaves: LLVM IR text. Operands are SSA names (``"%v3"``) or Python numbers, which
become splat constants. Invariant: no branches, no fast-math flags, and no intrinsic
but fma, fabs and copysign, so the text means the same on every target.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

Operand = str | float
Mask = str
Bits = str


@dataclass(frozen=True)
class Format:
    """An IEEE 754 binary format: LLVM name, suffix, total width, fraction width."""

    element: str
    suffix: str
    width: int
    fraction: int

    @property
    def bias(self) -> int:
        """What is added to the exponent in the encoding: 127 or 1023."""
        return int(2 ** (self.width - self.fraction - 2)) - 1

    def encode(self, number: float) -> int:
        """The bits of ``number`` in this format."""
        code, size = ("<f", 4) if self.width == 32 else ("<d", 8)
        return int.from_bytes(struct.pack(code, number)[:size], "little")


FORMATS = {
    "float": Format("float", "f32", 32, 23),
    "double": Format("double", "f64", 64, 52),
}


def type_suffix(fmt: Format, lanes: int) -> str:
    """``f32`` or ``v16f32``, as LLVM mangles types in intrinsic names."""
    return fmt.suffix if lanes == 1 else f"v{lanes}{fmt.suffix}"


def float_literal(number: float) -> str:
    """LLVM's exact spelling of a float or double constant."""
    return "0x" + struct.pack(">d", number).hex().upper()


@dataclass
class Body:
    """The instructions of one function under construction, and what they declare."""

    fmt: Format
    lanes: int
    lines: list[str] = field(default_factory=list)
    declares: set[str] = field(default_factory=set)
    _count: int = 0

    def __post_init__(self) -> None:
        self.type = self._vector(self.fmt.element)
        self.int_type = self._vector(f"i{self.fmt.width}")
        self.mask_type = self._vector("i1")

    def note(self, text: str) -> None:
        """A comment line in the emitted text."""
        self.lines.append(f"  ; {text}")

    def add(self, a: Operand, b: Operand) -> str:
        return self._emit(f"fadd {self.type} {self._value(a)}, {self._value(b)}")

    def sub(self, a: Operand, b: Operand) -> str:
        return self._emit(f"fsub {self.type} {self._value(a)}, {self._value(b)}")

    def mul(self, a: Operand, b: Operand) -> str:
        return self._emit(f"fmul {self.type} {self._value(a)}, {self._value(b)}")

    def div(self, a: Operand, b: Operand) -> str:
        return self._emit(f"fdiv {self.type} {self._value(a)}, {self._value(b)}")

    def neg(self, a: Operand) -> str:
        return self._emit(f"fneg {self.type} {self._value(a)}")

    def fma(self, a: Operand, b: Operand, c: Operand) -> str:
        """``a * b + c``, rounded once."""
        return self._call("fma", a, b, c)

    def abs(self, a: Operand) -> str:
        return self._call("fabs", a)

    def copysign(self, magnitude: Operand, sign: Operand) -> str:
        return self._call("copysign", magnitude, sign)

    def horner(self, coefficients: Sequence[float], x: Operand) -> Operand:
        """``sum(c[k] * x**k)`` by Horner's rule, one fma per degree."""
        result: Operand = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, coefficient)
        return result

    def less(self, a: Operand, b: Operand) -> Mask:
        """Where ``a < b``; false for NaN."""
        return self._compare("olt", a, b)

    def less_equal(self, a: Operand, b: Operand) -> Mask:
        """Where ``a <= b``; false for NaN."""
        return self._compare("ole", a, b)

    def equal(self, a: Operand, b: Operand) -> Mask:
        """Where ``a == b``; false for NaN."""
        return self._compare("oeq", a, b)

    def select(self, mask: Mask, a: Operand, b: Operand) -> str:
        left, right = (f"{self.type} {self._value(x)}" for x in (a, b))
        return self._emit(f"select {self.mask_type} {mask}, {left}, {right}")

    def at_most(self, x: Operand, limit: float) -> str:
        """``min(x, limit)``, NaN stays NaN; one ``minps`` on x86."""
        return self.select(self.less(limit, x), limit, x)

    def at_least(self, x: Operand, limit: float) -> str:
        """``max(x, limit)``, NaN stays NaN; one ``maxps`` on x86."""
        return self.select(self.less(x, limit), limit, x)

    def bits(self, x: Operand) -> Bits:
        return self._emit(f"bitcast {self.type} {self._value(x)} to {self.int_type}")

    def from_bits(self, bits: Bits) -> str:
        return self._emit(f"bitcast {self.int_type} {bits} to {self.type}")

    def int_add(self, a: Bits, b: Bits | int) -> Bits:
        return self._integer("add", a, b)

    def int_and(self, a: Bits, b: int) -> Bits:
        return self._integer("and", a, b)

    def int_or(self, a: Bits, b: int) -> Bits:
        return self._integer("or", a, b)

    def shift_left(self, a: Bits, count: int) -> Bits:
        return self._integer("shl", a, count)

    def shift_right(self, a: Bits, count: int) -> Bits:
        """Logical shift: zeros enter from the left."""
        return self._integer("lshr", a, count)

    def int_select(self, mask: Mask, a: int, b: int) -> Bits:
        left, right = (f"{self.int_type} {self._int(number)}" for number in (a, b))
        return self._emit(f"select {self.mask_type} {mask}, {left}, {right}")

    def _emit(self, text: str) -> str:
        name = f"%v{self._count}"
        self._count += 1
        self.lines.append(f"  {name} = {text}")
        return name

    def _vector(self, element: str) -> str:
        return element if self.lanes == 1 else f"<{self.lanes} x {element}>"

    def _splat(self, element: str, literal: str) -> str:
        return literal if self.lanes == 1 else f"splat ({element} {literal})"

    def _value(self, x: Operand) -> str:
        if isinstance(x, str):
            return x
        return self._splat(self.fmt.element, float_literal(x))

    def _int(self, number: int) -> str:
        return self._splat(f"i{self.fmt.width}", str(number))

    def _integer(self, opcode: str, a: Bits, b: Bits | int) -> Bits:
        b = b if isinstance(b, str) else self._int(b)
        return self._emit(f"{opcode} {self.int_type} {a}, {b}")

    def _compare(self, predicate: str, a: Operand, b: Operand) -> Mask:
        a, b = self._value(a), self._value(b)
        return self._emit(f"fcmp {predicate} {self.type} {a}, {b}")

    def _call(self, name: str, *operands: Operand) -> str:
        callee = f"@llvm.{name}.{type_suffix(self.fmt, self.lanes)}"
        types = ", ".join([self.type] * len(operands))
        self.declares.add(f"declare {self.type} {callee}({types})")
        values = ", ".join(f"{self.type} {self._value(x)}" for x in operands)
        return self._emit(f"call {self.type} {callee}({values})")

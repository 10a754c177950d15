"""Builds the body of one kernel: registers, loops, and vector expressions.

`KernelBuilder` emits instructions; `VectorScalars` is the namespace in which an op's
pointwise expression (`jitseq.ir.scalar`) becomes instructions on vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jitseq.ir.program import (
    INDEX,
    Affine,
    Buffer,
    Instr,
    Item,
    Kernel,
    Loop,
    Pointer,
    Reg,
    Type,
    affine,
)

Index = Affine | int


class KernelBuilder:
    """Appends instructions to the innermost open body."""

    def __init__(self) -> None:
        self.count = Reg(INDEX, "images")
        self.first = Reg(INDEX, "first")
        self.buffers: list[Buffer] = []
        self._bodies: list[list[Item]] = [[]]

    def buffer(self, name: str, element: str, written: bool = False) -> Buffer:
        self.buffers.append(Buffer(name, element, written))
        return self.buffers[-1]

    def finish(self, name: str) -> Kernel:
        (body,) = self._bodies
        return Kernel(name, tuple(self.buffers), self.count, self.first, tuple(body))

    def emit(self, op: str, type: Type, *args: object, extra: object = None) -> Reg:
        result = Reg(type)
        self._bodies[-1].append(Instr(op, (result,), args, extra))
        return result

    # memory

    def load(
        self, pointer: Pointer, index: Index, type: Type, valid: int | None = None
    ) -> Reg:
        if valid is not None and valid >= type.lanes:
            valid = None
        return self.emit("load", type, pointer, affine(index), extra=valid)

    def load_splat(self, pointer: Pointer, index: Index, type: Type) -> Reg:
        return self.emit("load_splat", type, pointer, affine(index))

    def gather(
        self,
        pointer: Pointer,
        index: Index,
        type: Type,
        stride: int,
        valid: int | None = None,
    ) -> Reg:
        """Lanes ``stride`` elements apart: 1 is a load, 0 a splat."""
        if type.lanes == 1 or stride == 1:
            return self.load(pointer, index, type, valid)
        if stride == 0:
            return self.load_splat(pointer, index, type)
        lanes = type.lanes if valid is None else valid
        return self.emit("gather", type, pointer, affine(index), extra=(stride, lanes))

    def uniform(self, key: Pointer, index: Index, type: Type, stride: int) -> Reg:
        """Numbers in [0, 1) of ``index`` and, in each lane, ``stride`` more.

        `jitseq.ir.random` defines them.
        """
        return self.emit("uniform", type, key, affine(index), extra=stride)

    def store(
        self, pointer: Pointer, index: Index, value: Reg, valid: int | None = None
    ) -> None:
        if valid is not None and valid >= value.type.lanes:
            valid = None
        args = (pointer, affine(index), value)
        self._bodies[-1].append(Instr("store", (), args, valid))

    def pin(self, pointer: Pointer, index: Index) -> Reg:
        """A pointer whose origin the optimiser cannot see (see FMA tiles)."""
        element = pointer.element if isinstance(pointer, Buffer) else pointer.hint
        result = Reg(Type("ptr"), element)
        self._bodies[-1].append(Instr("pin", (result,), (pointer, affine(index)), None))
        return result

    def prefetch(self, pointer: Pointer, index: Index) -> None:
        """Ask for a cache line that will be read soon."""
        args = (pointer, affine(index))
        self._bodies[-1].append(Instr("prefetch", (), args, None))

    # arithmetic

    def const(self, value: float, type: Type) -> Reg:
        return self.emit("const", type, extra=float(value))

    def fma(self, a: Reg, b: Reg, c: Reg) -> Reg:
        return self.emit("fma", c.type, a, b, c)

    def binary(self, op: str, a: Reg, b: Reg) -> Reg:
        return self.emit(op, a.type, a, b)

    def reduce(self, op: str, a: Reg) -> Reg:
        """``add`` or ``maximum`` over the lanes, as a scalar."""
        return self.emit(f"reduce_{op}", Type(a.type.element), a)

    def splat(self, a: Reg, type: Type) -> Reg:
        return a if a.type == type else self.emit("splat", type, a)

    def first_lanes(self, value: Reg, fill: Reg, valid: int) -> Reg:
        """``value`` in the first ``valid`` lanes, ``fill`` in the others."""
        return self.emit("first_lanes", value.type, value, fill, extra=valid)

    def transpose(self, rows: Sequence[Reg]) -> tuple[Reg, ...]:
        results = tuple(Reg(rows[0].type) for _ in range(rows[0].type.lanes))
        self._bodies[-1].append(Instr("transpose", results, tuple(rows), None))
        return results

    def sum_lanes(self, rows: Sequence[Reg]) -> Reg:
        """The sum of the lanes of each row; at most as many rows as lanes."""
        return self.emit("sum_lanes", rows[0].type, *rows)

    # indices

    def table(self, values: Sequence[int], index: Index) -> Affine:
        """``values[index]``; an affine expression where the values allow one."""
        step = values[1] - values[0] if len(values) > 1 else 0
        if all(v == values[0] + step * i for i, v in enumerate(values)):
            return affine(index) * step + values[0]
        reg = self.emit("table", INDEX, affine(index), extra=tuple(values))
        return affine(reg)

    def to_float(self, index: Affine, type: Type) -> Reg:
        """An index as a number in all lanes."""
        scalar = self.emit("to_float", Type(type.element), index)
        return self.splat(scalar, type)

    def minimum_index(self, a: Index, b: Index) -> Affine:
        a, b = affine(a), affine(b)
        if not a.terms and not b.terms:
            return Affine((), min(a.const, b.const))
        return affine(self.emit("imin", INDEX, a, b))

    def round_down(self, value: Index, multiple: int) -> Affine:
        """The largest multiple that is at most ``value``."""
        value = affine(value)
        if multiple == 1:
            return value
        if not value.terms:
            return Affine((), value.const // multiple * multiple)
        return affine(self.emit("round_down", INDEX, value, extra=multiple))

    # control

    def fold(
        self,
        name: str,
        start: Index,
        stop: Index,
        step: int,
        carried: Sequence[Reg],
        body: Callable[[Affine, tuple[Reg, ...]], Sequence[Reg]],
    ) -> tuple[Reg, ...]:
        """A loop that carries registers; a single iteration is written in line."""
        start, stop = affine(start), affine(stop)
        if not start.terms and not stop.terms:
            trips = -(-(stop.const - start.const) // step)
            if trips <= 0:
                return tuple(carried)
            if trips == 1:
                return tuple(body(start, tuple(carried)))
        loop = Loop(Reg(INDEX, name), start, stop, step)
        loop.entering = tuple(carried)
        loop.carried = tuple(Reg(reg.type, reg.hint) for reg in carried)
        loop.results = tuple(Reg(reg.type, reg.hint) for reg in carried)
        self._bodies.append(loop.body)
        loop.yielded = tuple(body(affine(loop.var), loop.carried))
        self._bodies.pop()
        self._bodies[-1].append(loop)
        return loop.results

    def loop(
        self,
        name: str,
        start: Index,
        stop: Index,
        step: int,
        body: Callable[[Affine], None],
    ) -> None:
        """A loop that carries nothing."""

        def without_registers(index: Affine, _: tuple[Reg, ...]) -> tuple[Reg, ...]:
            body(index)
            return ()

        self.fold(name, start, stop, step, (), without_registers)

    def nest(
        self,
        names: Sequence[str],
        stops: Sequence[Index],
        body: Callable[..., None],
    ) -> None:
        """Loops inside each other, each from 0; ``body`` takes all indices."""
        if not names:
            body()
            return
        self.loop(
            names[0], 0, stops[0], 1,
            lambda i: self.nest(names[1:], stops[1:], partial(body, i)),
        )  # fmt: skip


class Vector:
    """A register with arithmetic operators, for pointwise expressions."""

    __slots__ = ("reg", "scalars")

    def __init__(self, scalars: VectorScalars, reg: Reg) -> None:
        self.scalars = scalars
        self.reg = reg

    def __add__(self, other: Any) -> Vector:
        return self.scalars.call("add", self, other)

    def __sub__(self, other: Any) -> Vector:
        return self.scalars.call("sub", self, other)

    def __mul__(self, other: Any) -> Vector:
        return self.scalars.call("mul", self, other)

    def __truediv__(self, other: Any) -> Vector:
        return self.scalars.call("div", self, other)

    def __radd__(self, other: Any) -> Vector:
        return self.scalars.call("add", other, self)

    def __rsub__(self, other: Any) -> Vector:
        return self.scalars.call("sub", other, self)

    def __rmul__(self, other: Any) -> Vector:
        return self.scalars.call("mul", other, self)

    def __rtruediv__(self, other: Any) -> Vector:
        return self.scalars.call("div", other, self)

    def __neg__(self) -> Vector:
        return self.scalars.call("neg", self)


class VectorScalars:
    """The namespace ``m`` of pointwise expressions over kernel registers."""

    def __init__(self, builder: KernelBuilder, type: Type) -> None:
        self.builder = builder
        self.type = type

    def vector(self, value: Any) -> Vector:
        if isinstance(value, Vector):
            return value
        return Vector(self, self.builder.const(value, self.type))

    def call(self, op: str, *operands: Any) -> Vector:
        regs = [self.vector(operand).reg for operand in operands]
        return Vector(self, self.builder.emit(op, self.type, *regs))

    def _compare(self, op: str, a: Any, b: Any) -> Reg:
        mask = Type("mask", self.type.lanes)
        regs = (self.vector(a).reg, self.vector(b).reg)
        return self.builder.emit(op, mask, *regs)

    def lt(self, a: Any, b: Any) -> Reg:
        return self._compare("lt", a, b)

    def gt(self, a: Any, b: Any) -> Reg:
        return self._compare("gt", a, b)

    def le(self, a: Any, b: Any) -> Reg:
        return self._compare("le", a, b)

    def ge(self, a: Any, b: Any) -> Reg:
        return self._compare("ge", a, b)

    def isnan(self, a: Any) -> Reg:
        return self._compare("unordered", a, a)

    def where(self, mask: Reg, a: Any, b: Any) -> Vector:
        regs = (self.vector(a).reg, self.vector(b).reg)
        return Vector(self, self.builder.emit("select", self.type, mask, *regs))

    def __getattr__(self, op: str) -> Callable[..., Vector]:
        if op not in UNARY_AND_BINARY:
            raise AttributeError(op)
        return lambda *operands: self.call(op, *operands)


UNARY_AND_BINARY = frozenset(
    ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "abs", "maximum", "minimum")
)

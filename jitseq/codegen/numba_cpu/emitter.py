"""LLVM instructions on scalars, vectors and packs, through llvmlite's builder.

`Operand`s enter, LLVM values leave. Invariant: what is emitted for one member is what
`jitseq.codegen.llvm` writes for one register, so both give the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from llvmlite import ir

from jitseq.codegen.llvm.types import UNSIGNED, intrinsic_suffix
from jitseq.codegen.numba_cpu.types import LLVM_ELEMENTS, Kind, llvm_type
from jitseq.ir.program import Type

INDEX = ir.IntType(64)
WORD = ir.IntType(32)


class Literal(ir.Constant):  # type: ignore[misc]
    """A constant that is written as ``text``; llvmlite would list every lane."""

    def __init__(self, type: Any, text: str, members: Sequence[Any] = ()) -> None:
        self.type = type
        self.constant = members
        self._text = text

    def _get_reference(self) -> str:
        return self._text


@lru_cache(256)
def _mask(order: tuple[int, ...]) -> Literal:
    """The lanes that a shuffle takes."""
    members = [ir.Constant(WORD, lane) for lane in order]
    text = f"<{', '.join(map(str, members))}>" if any(order) else "zeroinitializer"
    return Literal(ir.VectorType(WORD, len(order)), text, members)


class Operand(NamedTuple):
    """A value of the function that is being written, and what it is."""

    value: Any
    kind: Kind


class Emitter:
    """Appends to the block of ``builder``."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    # packs

    def members(self, operand: Operand, count: int) -> list[Any]:
        """Each member; a single value is every member of a pack of ``count``."""
        value, have = operand.value, operand.kind.count
        if have == 1:
            return [value] * count
        known: list[Any] | None = getattr(value, "members", None)
        if known is not None:
            return list(known)
        return [self.builder.extract_value(value, i) for i in range(have)]

    def packed(self, members: Sequence[Any]) -> Any:
        """One value of all members; a single one is itself."""
        if len(members) == 1:
            return members[0]
        pack = Literal(ir.ArrayType(members[0].type, len(members)), "poison")
        for i, member in enumerate(members):
            pack = self.builder.insert_value(pack, member, i)
        pack.members = list(members)  # who has this very value need not take it apart
        return pack

    # one member

    def constant(self, type: Type, value: float | int) -> Any:
        """The number in all lanes."""
        scalar = ir.Constant(LLVM_ELEMENTS[type.element], value)
        if type.lanes == 1:
            return scalar
        return Literal(llvm_type(type), f"splat ({scalar})")

    def broadcast(self, scalar: Any, type: Type) -> Any:
        """A scalar in all lanes."""
        if type.lanes == 1:
            return scalar
        vector = Literal(llvm_type(type), "poison")
        first = self.builder.insert_element(vector, scalar, ir.Constant(WORD, 0))
        return self.shuffled(first, vector, [0] * type.lanes)

    def shuffled(self, a: Any, b: Any, order: Sequence[int]) -> Any:
        """Lane i is lane ``order[i]`` of ``a`` followed by ``b``."""
        return self.builder.shuffle_vector(a, b, _mask(tuple(order)))

    def call(
        self,
        name: str,
        result: Any,
        arguments: Sequence[Any],
        flags: tuple[str, ...] = (),
    ) -> Any:
        """Call a function that is declared as its arguments are."""
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            type = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(module, type, name)
        return self.builder.call(function, arguments, fastmath=flags)

    def intrinsic(self, name: str, type: Type, *arguments: Any) -> Any:
        """An LLVM intrinsic whose name ends with the type it works on."""
        full = f"llvm.{name}.{intrinsic_suffix(type)}"
        return self.call(full, llvm_type(type), arguments)

    def converted(self, value: Any, source: Type, result: Type) -> Any:
        """Integers of memory as floats of registers, or the other way round.

        Floats are truncated towards zero; they have to be in the integers' range.
        """
        if source.element == result.element:
            return value
        into = llvm_type(result)
        if source.element not in ("f32", "f64"):
            unsigned = source.element in UNSIGNED
            cast = self.builder.uitofp if unsigned else self.builder.sitofp
        else:
            unsigned = result.element in UNSIGNED
            cast = self.builder.fptoui if unsigned else self.builder.fptosi
        return cast(value, into)

    # memory

    def address(self, pointer: Operand, index: Any, offset: int = 0) -> Any:
        """Where element ``index + offset`` lies."""
        element = LLVM_ELEMENTS[pointer.kind.type.element]
        at = pointer.value
        if index is not None:
            at = self.builder.gep(at, [index], source_etype=element)
        if offset:
            places = [ir.Constant(INDEX, offset)]
            at = self.builder.gep(at, places, source_etype=element)
        return at

    def table(self, values: Sequence[int]) -> Any:
        """The address of constants; equal tables have equal names."""
        module = self.builder.module
        text = ",".join(map(str, values))
        name = f"js.table.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if name not in module.globals:
            type = ir.ArrayType(INDEX, len(values))
            table = ir.GlobalVariable(module, type, name)
            table.linkage, table.global_constant = "internal", True
            table.initializer = ir.Constant(type, [*values])
        return module.globals[name]

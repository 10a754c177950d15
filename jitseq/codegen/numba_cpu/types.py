"""What numba knows of a kernel's values: vectors, packs of them, pointers, functions.

A `Kind` (the Program's own type, and how many members) enters, a numba type leaves,
and the other way round. Invariant: the two say the same. A scalar is numba's own
float32, float64, int64 or boolean; a vector is one LLVM vector, and a pack an array of
its members, which LLVM takes apart into registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.extending import register_model

from jitseq.ir.program import Type

SCALARS = {
    "f32": types.float32, "f64": types.float64, "i64": types.int64,
    "mask": types.boolean,
}  # fmt: skip
LLVM_ELEMENTS = {
    "f32": ir.FloatType(), "f64": ir.DoubleType(), "mask": ir.IntType(1),
    "i64": ir.IntType(64), "i32": ir.IntType(32), "u32": ir.IntType(32),
    "u8": ir.IntType(8),
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """``count`` members of one type; an element behind a pointer where ``pointer``."""

    type: Type
    count: int = 1
    pointer: bool = False


class KernelType(types.Type):  # type: ignore[misc]
    """A numba type that a `Kind` describes completely."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        form = "pointer" if kind.pointer else f"pack{kind.count}"
        super().__init__(name=f"jitseq.{form}({kind.type})")


class VectorType(KernelType):
    """One vector."""


class PackType(KernelType):
    """Several scalars or vectors of one type."""


class PointerType(KernelType):
    """The address of elements in memory."""


@register_model(VectorType)
@register_model(PackType)
@register_model(PointerType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, type: KernelType) -> None:
        super().__init__(manager, type, llvm_kind(type.kind))


def llvm_type(type: Type) -> Any:
    """The LLVM type of one scalar or vector."""
    element = LLVM_ELEMENTS[type.element]
    return element if type.lanes == 1 else ir.VectorType(element, type.lanes)


def llvm_kind(kind: Kind) -> Any:
    """The LLVM type of a value of ``kind``."""
    if kind.pointer:
        return LLVM_ELEMENTS[kind.type.element].as_pointer()  # numba asks for a pointee
    member = llvm_type(kind.type)
    return member if kind.count == 1 else ir.ArrayType(member, kind.count)


@cache
def numba_type(kind: Kind) -> Any:
    """The numba type of values of ``kind``; each kind has one."""
    if kind.pointer:
        return PointerType(kind)
    if kind.count > 1:
        return PackType(kind)
    return VectorType(kind) if kind.type.lanes > 1 else SCALARS[kind.type.element]


def kind_of(type: Any) -> Kind:
    """The kind that a numba type stands for.

    Raises:
        TypeError: kernels have no such values.
    """
    if isinstance(type, KernelType):
        return type.kind
    type = types.unliteral(type)
    for element, scalar in SCALARS.items():
        if type == scalar:
            return Kind(Type(element))
    raise TypeError(f"a kernel has no values of type {type}")

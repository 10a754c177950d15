"""Names of types and constants in LLVM IR."""

from __future__ import annotations

import struct

from jitseq.ir.program import Type
from jitseq.ir.target import Target

ELEMENTS = {
    "f32": "float", "f64": "double", "mask": "i1",
    "i64": "i64", "i32": "i32", "u32": "i32", "u8": "i8",
}  # fmt: skip
UNSIGNED = ("u32", "u8")
INTEGERS = ("i64", "i32", *UNSIGNED)


def llvm_type(type: Type) -> str:
    element = ELEMENTS[type.element]
    return element if type.lanes == 1 else f"<{type.lanes} x {element}>"


def intrinsic_suffix(type: Type) -> str:
    integer = type.element in INTEGERS
    element = ELEMENTS[type.element] if integer else type.element
    return element if type.lanes == 1 else f"v{type.lanes}{element}"


def number(value: float, element: str) -> str:
    """A literal that LLVM reads back exactly: an integer, or the bits of a double."""
    if element in INTEGERS:
        return str(int(value))
    if element == "f32":
        value = struct.unpack("f", struct.pack("f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def splat_text(text: str, type: Type) -> str:
    """A constant of ``type`` with ``text`` in every lane."""
    if type.lanes == 1:
        return text
    return "splat (" + f"{ELEMENTS[type.element]} {text})"


def function_attributes(target: Target) -> str:
    """The definition of ``#0``, which every function of a module carries.

    Without a preferred width LLVM halves the vectors of several processors.
    """
    width = target.vector_bytes * 8
    return (
        f'attributes #0 = {{ nounwind "target-cpu"="{target.cpu}" '
        f'"target-features"="{target.features}" "prefer-vector-width"="{width}" }}'
    )

"""One function for each Program instruction: its LLVM IR text.

`INSTRUCTIONS` maps op names to functions that append lines to a `KernelRenderer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jitseq.codegen.llvm.math import symbol
from jitseq.codegen.llvm.random import render_uniform
from jitseq.codegen.llvm.shuffles import broadcast, render_sum_lanes, render_transpose
from jitseq.codegen.llvm.types import (
    ELEMENTS,
    INTEGERS,
    UNSIGNED,
    intrinsic_suffix,
    llvm_type,
    number,
    splat_text,
)
from jitseq.ir.program import ELEMENT_BYTES, Affine, Instr, Item, Loop, Reg, Type

if TYPE_CHECKING:
    from jitseq.codegen.llvm.kernel import KernelRenderer

COMPARISONS = {
    "lt": "olt", "gt": "ogt", "le": "ole", "ge": "oge", "eq": "oeq",
    "unordered": "uno",
}  # fmt: skip
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
VECTOR_MATH = ("exp", "expm1", "log", "log1p", "tanh", "erf")


def count_math(body: Sequence[Item]) -> int:
    """How many vector functions a body evaluates, loops counted once."""
    total = 0
    for item in body:
        if isinstance(item, Loop):
            total += count_math(item.body)
        elif isinstance(item, Instr):
            total += item.op in VECTOR_MATH
    return total


def render_arithmetic(r: KernelRenderer, instr: Instr) -> None:
    a, b = r.operands(instr)
    type = llvm_type(instr.results[0].type)
    r.define(instr, f"{ARITHMETIC[instr.op]} {type} {a}, {b}")


def render_comparison(r: KernelRenderer, instr: Instr) -> None:
    a, b = r.operands(instr)
    type = llvm_type(instr.args[0].type)
    r.define(instr, f"fcmp {COMPARISONS[instr.op]} {type} {a}, {b}")


def render_math(r: KernelRenderer, instr: Instr) -> None:
    type = instr.results[0].type
    element = ELEMENTS[type.element]
    r.module.math.add((instr.op, element, type.lanes))
    (x,) = r.operands(instr)
    name = symbol(instr.op, element, type.lanes)
    inlined = "" if r.inlines_math else " noinline"
    r.define(instr, f"call {llvm_type(type)} {name}({llvm_type(type)} {x}){inlined}")


def render_const(r: KernelRenderer, instr: Instr) -> None:
    type = instr.results[0].type
    text = splat_text(number(instr.extra, type.element), type)
    r.names[instr.results[0]] = text


def render_load(r: KernelRenderer, instr: Instr) -> None:
    pointer, index = instr.args
    type = instr.results[0].type
    address = r.address(pointer, index)
    stored = Type(r.element(pointer), type.lanes)
    if instr.extra is None:
        size = ELEMENT_BYTES[stored.element]
        loaded = r.assign(f"load {llvm_type(stored)}, ptr {address}, align {size}")
    else:
        loaded = r.assign(masked(r, "load", stored, address, int(instr.extra)))
    r.names[instr.results[0]] = converted(r, loaded, stored, type)


def converted(r: KernelRenderer, name: str, source: Type, result: Type) -> str:
    """Integers of memory as floats of registers, or the other way round.

    Floats are truncated towards zero; they have to be in the integers' range.
    """
    if source.element == result.element:
        return name
    whole, real = (source, result) if source.element in INTEGERS else (result, source)
    assert whole.element in INTEGERS and real.element in ("f32", "f64")
    sign = "u" if whole.element in UNSIGNED else "s"
    cast = f"{sign}itofp" if whole is source else f"fpto{sign}i"
    return r.assign(f"{cast} {llvm_type(source)} {name} to {llvm_type(result)}")


def masked(
    r: KernelRenderer, what: str, type: Type, address: str, valid: int, value: str = ""
) -> str:
    vector, mask = llvm_type(type), llvm_type(Type("mask", type.lanes))
    bits = ", ".join(
        f"i1 {'true' if lane < valid else 'false'}" for lane in range(type.lanes)
    )
    name = f"llvm.masked.{what}.{intrinsic_suffix(type)}.p0"
    align = ELEMENT_BYTES[type.element]
    if what == "load":
        r.module.declares.add(f"declare {vector} @{name}(ptr, i32, {mask}, {vector})")
        return (
            f"call {vector} @{name}(ptr {address}, i32 {align}, {mask} <{bits}>, "
            f"{vector} zeroinitializer)"
        )
    r.module.declares.add(f"declare void @{name}({vector}, ptr, i32, {mask})")
    return (
        f"call void @{name}({vector} {value}, ptr {address}, i32 {align}, "
        f"{mask} <{bits}>)"
    )


def render_store(r: KernelRenderer, instr: Instr) -> None:
    pointer, index, value = instr.args
    assert isinstance(value, Reg)
    address = r.address(pointer, index)
    stored = Type(r.element(pointer), value.type.lanes)
    name = converted(r, r.names[value], value.type, stored)
    if instr.extra is not None:
        r.add(masked(r, "store", stored, address, int(instr.extra), name))
        return
    size = ELEMENT_BYTES[stored.element]
    r.add(f"store {llvm_type(stored)} {name}, ptr {address}, align {size}")


def render_load_splat(r: KernelRenderer, instr: Instr) -> None:
    pointer, index = instr.args
    type = instr.results[0].type
    stored = Type(r.element(pointer))
    size = ELEMENT_BYTES[stored.element]
    address = r.address(pointer, index)
    scalar = r.assign(f"load {llvm_type(stored)}, ptr {address}, align {size}")
    scalar = converted(r, scalar, stored, Type(type.element))
    r.names[instr.results[0]] = broadcast(r, scalar, type)


def render_splat(r: KernelRenderer, instr: Instr) -> None:
    (scalar,) = r.operands(instr)
    r.names[instr.results[0]] = broadcast(r, scalar, instr.results[0].type)


def render_gather(r: KernelRenderer, instr: Instr) -> None:
    pointer, index = instr.args
    assert isinstance(index, Affine)
    type = instr.results[0].type
    stored = Type(r.element(pointer), type.lanes)
    vector, element = llvm_type(stored), ELEMENTS[stored.element]
    stride, valid = instr.extra
    name = "zeroinitializer"
    for lane in range(valid):
        at = r.address(pointer, index + lane * stride)
        item = r.assign(f"load {element}, ptr {at}")
        name = r.assign(f"insertelement {vector} {name}, {element} {item}, i64 {lane}")
    r.names[instr.results[0]] = converted(r, name, stored, type)


def render_prefetch(r: KernelRenderer, instr: Instr) -> None:
    pointer, index = instr.args
    address = r.address(pointer, index)
    name = "llvm.prefetch.p0"
    r.module.declares.add(f"declare void @{name}(ptr, i32, i32, i32)")
    r.add(f"call void @{name}(ptr {address}, i32 0, i32 3, i32 1)")


def render_pin(r: KernelRenderer, instr: Instr) -> None:
    pointer, index = instr.args
    address = r.address(pointer, index)
    r.define(instr, f'call ptr asm "", "=r,0"(ptr {address})')


def render_table(r: KernelRenderer, instr: Instr) -> None:
    values: tuple[int, ...] = instr.extra
    index = r.index(instr.args[0])
    name = r.module.table(values)
    address = r.assign(f"getelementptr i64, ptr {name}, i64 {index}")
    r.define(instr, f"load i64, ptr {address}")


def render_to_float(r: KernelRenderer, instr: Instr) -> None:
    index = r.index(instr.args[0])
    r.define(instr, f"sitofp i64 {index} to {llvm_type(instr.results[0].type)}")


def render_imin(r: KernelRenderer, instr: Instr) -> None:
    a, b = (r.index(arg) for arg in instr.args)
    less = r.assign(f"icmp slt i64 {a}, {b}")
    r.define(instr, f"select i1 {less}, i64 {a}, i64 {b}")


def render_round_down(r: KernelRenderer, instr: Instr) -> None:
    value = r.index(instr.args[0])
    rest = r.assign(f"urem i64 {value}, {instr.extra}")
    r.define(instr, f"sub nsw i64 {value}, {rest}")


def render_fma(r: KernelRenderer, instr: Instr) -> None:
    type = instr.results[0].type
    arguments = [(llvm_type(type), name) for name in r.operands(instr)]
    # fused where the target can, a product and a sum elsewhere
    name = f"llvm.fmuladd.{intrinsic_suffix(type)}"
    r.define(instr, r.call_intrinsic(name, type, arguments))


def render_neg(r: KernelRenderer, instr: Instr) -> None:
    (x,) = r.operands(instr)
    r.define(instr, f"fneg {llvm_type(instr.results[0].type)} {x}")


def unary_intrinsic(r: KernelRenderer, instr: Instr, name: str) -> None:
    type = instr.results[0].type
    arguments = [(llvm_type(type), name) for name in r.operands(instr)]
    full = f"llvm.{name}.{intrinsic_suffix(type)}"
    r.define(instr, r.call_intrinsic(full, type, arguments))


def render_sqrt(r: KernelRenderer, instr: Instr) -> None:
    unary_intrinsic(r, instr, "sqrt")


def render_abs(r: KernelRenderer, instr: Instr) -> None:
    unary_intrinsic(r, instr, "fabs")


def render_select(r: KernelRenderer, instr: Instr) -> None:
    mask, a, b = r.operands(instr)
    type = instr.results[0].type
    bits = llvm_type(Type("mask", type.lanes))
    vector = llvm_type(type)
    r.define(instr, f"select {bits} {mask}, {vector} {a}, {vector} {b}")


def render_maximum(r: KernelRenderer, instr: Instr) -> None:
    extremum(r, instr, "ogt")


def render_minimum(r: KernelRenderer, instr: Instr) -> None:
    extremum(r, instr, "olt")


def extremum(r: KernelRenderer, instr: Instr, comparison: str) -> None:
    """``a`` where it wins or is NaN, else ``b`` (which may be NaN)."""
    a, b = r.operands(instr)
    type = instr.results[0].type
    vector, bits = llvm_type(type), llvm_type(Type("mask", type.lanes))
    wins = r.assign(f"fcmp {comparison} {vector} {a}, {b}")
    winner = r.assign(f"select {bits} {wins}, {vector} {a}, {vector} {b}")
    nan = r.assign(f"fcmp uno {vector} {a}, {a}")
    r.define(instr, f"select {bits} {nan}, {vector} {a}, {vector} {winner}")


def render_first_lanes(r: KernelRenderer, instr: Instr) -> None:
    value, fill = r.operands(instr)
    vector = llvm_type(instr.results[0].type)
    lanes = instr.results[0].type.lanes
    order = ", ".join(
        f"i32 {lane if lane < int(instr.extra) else lanes + lane}"
        for lane in range(lanes)
    )
    mask = f"<{lanes} x i32> <{order}>"
    r.define(instr, f"shufflevector {vector} {value}, {vector} {fill}, {mask}")


def render_reduce_add(r: KernelRenderer, instr: Instr) -> None:
    reduce(r, instr, "fadd", f"{ELEMENTS[instr.results[0].type.element]} -0.0")


def render_reduce_maximum(r: KernelRenderer, instr: Instr) -> None:
    reduce(r, instr, "fmaximum", "")


def reduce(r: KernelRenderer, instr: Instr, what: str, start: str) -> None:
    (x,) = r.operands(instr)
    source, result = instr.args[0].type, instr.results[0].type
    if source.lanes == 1:
        r.names[instr.results[0]] = x
        return
    name = f"llvm.vector.reduce.{what}.{intrinsic_suffix(source)}"
    vector, element = llvm_type(source), llvm_type(result)
    types = f"{element}, {vector}" if start else vector
    r.module.declares.add(f"declare {element} @{name}({types})")
    values = f"{start}, {vector} {x}" if start else f"{vector} {x}"
    flags = "reassoc " if start else ""
    r.define(instr, f"call {flags}{element} @{name}({values})")


INSTRUCTIONS: dict[str, Callable[[KernelRenderer, Instr], None]] = {
    **dict.fromkeys(COMPARISONS, render_comparison),
    **dict.fromkeys(ARITHMETIC, render_arithmetic),
    **dict.fromkeys(VECTOR_MATH, render_math),
    "const": render_const,
    "load": render_load,
    "store": render_store,
    "load_splat": render_load_splat,
    "splat": render_splat,
    "gather": render_gather,
    "uniform": render_uniform,
    "prefetch": render_prefetch,
    "pin": render_pin,
    "table": render_table,
    "to_float": render_to_float,
    "imin": render_imin,
    "round_down": render_round_down,
    "fma": render_fma,
    "neg": render_neg,
    "sqrt": render_sqrt,
    "abs": render_abs,
    "select": render_select,
    "maximum": render_maximum,
    "minimum": render_minimum,
    "first_lanes": render_first_lanes,
    "reduce_add": render_reduce_add,
    "reduce_maximum": render_reduce_maximum,
    "transpose": render_transpose,
    "sum_lanes": render_sum_lanes,
}

"""Instructions that move lanes between registers, as rounds of two-operand shuffles.

In round ``half`` = 1, 2, 4, … the lanes whose number has the bit ``half`` meet those
that have not: after log2(L) rounds every row has met every lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitseq.codegen.llvm.types import ELEMENTS, llvm_type
from jitseq.ir.program import Instr, Type

if TYPE_CHECKING:
    from jitseq.codegen.llvm.kernel import KernelRenderer


def broadcast(r: KernelRenderer, scalar: str, type: Type) -> str:
    if type.lanes == 1:
        return scalar
    vector, element = llvm_type(type), ELEMENTS[type.element]
    first = r.assign(f"insertelement {vector} poison, {element} {scalar}, i64 0")
    zeros = f"<{type.lanes} x i32> zeroinitializer"
    return r.assign(f"shufflevector {vector} {first}, {vector} poison, {zeros}")


def render_transpose(r: KernelRenderer, instr: Instr) -> None:
    """Each round exchanges blocks between rows ``half`` apart."""
    rows = r.operands(instr)
    type = instr.results[0].type
    half = 1
    while half < type.lanes:
        swapped = list(rows)
        for i in range(type.lanes):
            if not i & half:
                pair = rows[i], rows[i + half]
                swapped[i], swapped[i + half] = _exchanged(r, type, pair, half)
        rows = swapped
        half *= 2
    r.names.update(zip(instr.results, rows, strict=True))


def render_sum_lanes(r: KernelRenderer, instr: Instr) -> None:
    """Each round adds pairs of rows: 30 shuffles for 16 rows of 16 lanes."""
    rows = r.operands(instr)
    type = instr.results[0].type
    rows += ["zeroinitializer"] * (type.lanes - len(rows))
    half = 1
    while half < type.lanes:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [_pair_sum(r, type, pair, half) for pair in pairs]
        half *= 2
    r.names[instr.results[0]] = rows[0]


def _pair_sum(r: KernelRenderer, type: Type, pair: tuple[str, str], half: int) -> str:
    if pair == ("zeroinitializer", "zeroinitializer"):
        return "zeroinitializer"
    low, high = _exchanged(r, type, pair, half)
    return r.assign(f"fadd {llvm_type(type)} {low}, {high}")


def _exchanged(
    r: KernelRenderer, type: Type, pair: tuple[str, str], half: int
) -> tuple[str, str]:
    """The blocks of ``half`` lanes with even numbers of both rows, and the odd ones."""
    lanes = range(type.lanes)
    even = [k if not k & half else type.lanes + k - half for k in lanes]
    odd = [k + half if not k & half else type.lanes + k for k in lanes]
    vector = llvm_type(type)
    first, second = pair
    found = []
    for order in (even, odd):
        mask = ", ".join(f"i32 {position}" for position in order)
        found.append(
            r.assign(
                f"shufflevector {vector} {first}, {vector} {second}, "
                f"<{type.lanes} x i32> <{mask}>"
            )
        )
    return found[0], found[1]

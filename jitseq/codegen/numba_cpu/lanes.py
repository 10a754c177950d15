"""Kernel functions that move lanes and members: their kinds and their LLVM form.

Rounds of two-operand shuffles as in `jitseq.codegen.llvm.shuffles`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jitseq.codegen.llvm.types import intrinsic_suffix
from jitseq.codegen.numba_cpu.emitter import Emitter, Literal, Operand
from jitseq.codegen.numba_cpu.types import Kind, llvm_type
from jitseq.ir.program import Type

Literals = Mapping[str, Any]


def _splat_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(Type(kinds[0].type.element, literals["lanes"]), kinds[0].count)


def _splat(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    (given,) = operands
    type = _splat_kind(literals, [given.kind]).type
    members = e.members(given, given.kind.count)
    return e.packed([e.broadcast(member, type) for member in members])


def _same(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(kinds[0].type, max(kind.count for kind in kinds))


def _first_lanes(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    kind = _same(literals, [operand.kind for operand in operands])
    lanes, kept = kind.type.lanes, literals["count"]
    order = [lane if lane < kept else lanes + lane for lane in range(lanes)]
    value, fill = (e.members(operand, kind.count) for operand in operands)
    return e.packed([e.shuffled(a, b, order) for a, b in zip(value, fill, strict=True)])


def _scalar(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(Type(kinds[0].type.element), kinds[0].count)


def _reduction(
    name: str, start: float | None
) -> Callable[[Emitter, Literals, Sequence[Operand]], Any]:
    def emit(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
        (given,) = operands
        members = e.members(given, given.kind.count)
        if given.kind.type.lanes == 1:
            return e.packed(members)
        return e.packed([_reduced(e, name, start, given.kind, x) for x in members])

    return emit


def _reduced(e: Emitter, name: str, start: float | None, kind: Kind, x: Any) -> Any:
    scalar = Type(kind.type.element)
    full = f"llvm.vector.reduce.{name}.{intrinsic_suffix(kind.type)}"
    given = [x] if start is None else [e.constant(scalar, start), x]
    flags = () if start is None else ("reassoc",)
    return e.call(full, llvm_type(scalar), given, flags)


def _transpose(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    """Each round exchanges blocks between rows ``half`` apart."""
    (given,) = operands
    rows, lanes = e.members(given, given.kind.count), given.kind.type.lanes
    half = 1
    while half < lanes:
        swapped = list(rows)
        for i in range(lanes):
            if not i & half:
                pair = rows[i], rows[i + half]
                swapped[i], swapped[i + half] = _exchanged(e, lanes, pair, half)
        rows = swapped
        half *= 2
    return e.packed(rows)


def _sum_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(kinds[0].type)


def _sum_lanes(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    """Each round adds pairs of rows; None is a row of zeros."""
    (given,) = operands
    type = given.kind.type
    rows = e.members(given, given.kind.count)
    rows += [None] * (type.lanes - len(rows))
    half = 1
    while half < type.lanes:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [_pair_sum(e, type, pair, half) for pair in pairs]
        half *= 2
    return rows[0]


def _pair_sum(e: Emitter, type: Type, pair: tuple[Any, Any], half: int) -> Any:
    if pair == (None, None):
        return None
    zero = Literal(llvm_type(type), "zeroinitializer")
    first, second = (zero if row is None else row for row in pair)
    low, high = _exchanged(e, type.lanes, (first, second), half)
    return e.builder.fadd(low, high)


def _exchanged(
    e: Emitter, lanes: int, pair: tuple[Any, Any], half: int
) -> tuple[Any, Any]:
    """The blocks of ``half`` lanes with even numbers of both rows, and the odd ones."""
    even = [k if not k & half else lanes + k - half for k in range(lanes)]
    odd = [k + half if not k & half else lanes + k for k in range(lanes)]
    return e.shuffled(*pair, even), e.shuffled(*pair, odd)


def _order(name: str, literals: Literals, count: int) -> list[int]:
    if name == "take":
        return list(literals["order"])
    if name == "each":
        return [i for i in range(count) for _ in range(literals["times"])]
    return list(range(count)) * int(literals["times"])


def _rearrangement(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``take``, ``each`` and ``tile``: the members of a pack in another order."""

    def result(literals: Literals, kinds: Sequence[Kind]) -> Kind:
        return Kind(kinds[0].type, len(_order(name, literals, kinds[0].count)))

    def emit(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
        count = operands[0].kind.count
        members = e.members(operands[0], count)
        return e.packed([members[i] for i in _order(name, literals, count)])

    return result, emit


def _pack_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(kinds[0].type, sum(kind.count for kind in kinds))


def _pack(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    found = [e.members(operand, operand.kind.count) for operand in operands]
    return e.packed([member for members in found for member in members])


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "splat": (_splat_kind, _splat),
    "first_lanes": (_same, _first_lanes),
    "reduce_add": (_scalar, _reduction("fadd", -0.0)),
    "reduce_maximum": (_scalar, _reduction("fmaximum", None)),
    "transpose": (_same, _transpose),
    "sum_lanes": (_sum_kind, _sum_lanes),
    "take": _rearrangement("take"),
    "each": _rearrangement("each"),
    "tile": _rearrangement("tile"),
    "pack": (_pack_kind, _pack),
}

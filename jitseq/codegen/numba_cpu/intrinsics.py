"""The functions that generated kernels call, as numba compiles them.

`FUNCTIONS` has a `Function` for each name of `vectors`, with the same arguments:
positional ones are values, keywords are literals. ``result`` gives the kind of what
a call leaves (None for nothing), ``emit`` its LLVM value. Invariant: both are pure
functions of literals and operands, and the meaning is that of `jitseq.ir.program`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from jitseq.codegen.llvm.math import symbol
from jitseq.codegen.llvm.types import ELEMENTS
from jitseq.codegen.numba_cpu import lanes, memory
from jitseq.codegen.numba_cpu.emitter import INDEX, Emitter, Operand
from jitseq.codegen.numba_cpu.types import Kind, llvm_type
from jitseq.ir.program import Type

Literals = Mapping[str, Any]
COMPARISONS = {"lt": "<", "gt": ">", "le": "<=", "ge": ">=", "eq": "=="}
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
VECTOR_MATH = ("exp", "expm1", "log", "log1p", "tanh", "erf")


class Function(NamedTuple):
    """How one function is typed and written."""

    result: Callable[[Literals, Sequence[Kind]], Kind | None]
    emit: Callable[[Emitter, Literals, Sequence[Operand]], Any]


Member = Callable[..., Any]
"""(emitter, type of the first operand, a member of each operand) -> a member."""


def elementwise(emit_member: Member, element: str | None = None) -> Function:
    """Members apart; single operands meet each member of packs."""

    def result(literals: Literals, kinds: Sequence[Kind]) -> Kind:
        count = max(kind.count for kind in kinds)
        type = kinds[-1].type
        return Kind(Type(element or type.element, type.lanes), count)

    def emit(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
        count = max(operand.kind.count for operand in operands)
        members = [e.members(operand, count) for operand in operands]
        type = operands[-1].kind.type
        return e.packed(
            [emit_member(e, type, *values) for values in zip(*members, strict=True)]
        )

    return Function(result, emit)


def _arithmetic(name: str) -> Function:
    return elementwise(lambda e, type, a, b: getattr(e.builder, name)(a, b))


def _comparison(operator: str) -> Function:
    return elementwise(
        lambda e, type, a, b: e.builder.fcmp_ordered(operator, a, b), "mask"
    )


def _math(name: str) -> Function:
    def member(e: Emitter, type: Type, x: Any) -> Any:
        function = symbol(name, ELEMENTS[type.element], type.lanes).removeprefix("@")
        return e.call(function, llvm_type(type), [x])

    return elementwise(member)


def _extremum(operator: str) -> Function:
    """``a`` where it wins or is NaN, else ``b`` (which may be NaN)."""

    def member(e: Emitter, type: Type, a: Any, b: Any) -> Any:
        wins = e.builder.fcmp_ordered(operator, a, b)
        winner = e.builder.select(wins, a, b)
        nan = e.builder.fcmp_unordered("uno", a, a)
        return e.builder.select(nan, a, winner)

    return elementwise(member)


def _smaller(operator: str) -> Function:
    def emit(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
        a, b = (operand.value for operand in operands)
        return e.builder.select(e.builder.icmp_signed(operator, a, b), a, b)

    return Function(lambda literals, kinds: Kind(Type("i64")), emit)


def _affine(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    """``const + Σ coefficient · index``."""
    total = None
    for factor, operand in zip(literals["coefficients"], operands, strict=True):
        part = operand.value
        if factor != 1:
            part = e.builder.mul(part, ir.Constant(INDEX, factor), flags=("nsw",))
        nsw = ("nsw",)
        total = part if total is None else e.builder.add(total, part, flags=nsw)
    const = ir.Constant(INDEX, literals["const"])
    if total is None or not literals["const"]:
        return const if total is None else total
    return e.builder.add(total, const, flags=("nsw",))


def _round_down(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    value = operands[0].value
    rest = e.builder.urem(value, ir.Constant(INDEX, literals["multiple"]))
    return e.builder.sub(value, rest, flags=("nsw",))


def _table(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    table = e.table(literals["values"])
    at = e.builder.gep(table, [operands[0].value], source_etype=INDEX)
    return e.builder.load(at, typ=INDEX)


def _const_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    value = literals["value"]
    count = len(value) if isinstance(value, tuple) else 1
    return Kind(Type(literals["element"], literals.get("lanes", 1)), count)


def _const(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    value = literals["value"]
    values = value if isinstance(value, tuple) else (value,)
    type = _const_kind(literals, ()).type
    return e.packed([e.constant(type, number) for number in values])


def _to_float_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(Type(literals["element"]), len(literals.get("offsets", (0,))))


def _to_float(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    type = llvm_type(Type(literals["element"]))
    index = operands[0].value
    indices = [
        e.builder.add(index, ir.Constant(INDEX, offset), flags=("nsw",))
        for offset in literals.get("offsets", (0,))
    ]
    return e.packed([e.builder.sitofp(at, type) for at in indices])


def _integer(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return Kind(Type("i64"))


FUNCTIONS: dict[str, Function] = {
    **{name: _arithmetic(instruction) for name, instruction in ARITHMETIC.items()},
    **{name: _comparison(operator) for name, operator in COMPARISONS.items()},
    **{name: _math(name) for name in VECTOR_MATH},
    "unordered": elementwise(
        lambda e, type, a, b: e.builder.fcmp_unordered("uno", a, b), "mask"
    ),
    # fused where the target can, a product and a sum elsewhere
    "fma": elementwise(lambda e, type, *abc: e.intrinsic("fmuladd", type, *abc)),
    "neg": elementwise(lambda e, type, x: e.builder.fneg(x)),
    "sqrt": elementwise(lambda e, type, x: e.intrinsic("sqrt", type, x)),
    "abs": elementwise(lambda e, type, x: e.intrinsic("fabs", type, x)),
    "select": elementwise(lambda e, type, mask, a, b: e.builder.select(mask, a, b)),
    "maximum": _extremum(">"),
    "minimum": _extremum("<"),
    "const": Function(_const_kind, _const),
    "to_float": Function(_to_float_kind, _to_float),
    "imin": _smaller("<"),
    "imax": _smaller(">"),
    "affine": Function(_integer, _affine),
    "round_down": Function(_integer, _round_down),
    "table": Function(_integer, _table),
    **{name: Function(*pair) for name, pair in memory.FUNCTIONS.items()},
    **{name: Function(*pair) for name, pair in lanes.FUNCTIONS.items()},
}

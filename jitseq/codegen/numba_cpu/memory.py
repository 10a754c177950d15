"""Kernel functions that read and write memory: their kinds and their LLVM form.

``offsets`` are elements between the members of a pack; without them there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llvmlite import ir

from jitseq.codegen.llvm.types import intrinsic_suffix
from jitseq.codegen.numba_cpu.emitter import INDEX, WORD, Emitter, Literal, Operand
from jitseq.codegen.numba_cpu.types import Kind, llvm_type
from jitseq.ir.program import ELEMENT_BYTES, Type
from jitseq.ir.random import MIX, RANDOM_BITS

Literals = Mapping[str, Any]


def _offsets(literals: Literals) -> tuple[int, ...]:
    offsets: tuple[int, ...] = literals.get("offsets", (0,))
    return offsets


def _read(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    element = literals.get("element") or kinds[0].type.element
    return Kind(Type(element, literals.get("lanes", 1)), len(_offsets(literals)))


def _nothing(literals: Literals, kinds: Sequence[Kind]) -> None:
    return None


def _load(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    pointer, index = operands
    type = _read(literals, [pointer.kind]).type
    stored = Type(pointer.kind.type.element, type.lanes)
    size, valid = ELEMENT_BYTES[stored.element], literals.get("valid")
    found = []
    for offset in _offsets(literals):
        at = e.address(pointer, index.value, offset)
        if valid is None:
            value = e.builder.load(at, align=size, typ=llvm_type(stored))
        else:
            value = _masked_load(e, stored, at, valid)
        found.append(e.converted(value, stored, type))
    return e.packed(found)


def _store(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> None:
    pointer, index, given = operands
    stored = Type(pointer.kind.type.element, given.kind.type.lanes)
    size, valid = ELEMENT_BYTES[stored.element], literals.get("valid")
    offsets = _offsets(literals)
    members = e.members(given, len(offsets))
    for offset, member in zip(offsets, members, strict=True):
        at = e.address(pointer, index.value, offset)
        value = e.converted(member, given.kind.type, stored)
        if valid is None:
            at = e.builder.bitcast(at, value.type.as_pointer())
            e.builder.store(value, at, align=size)
        else:
            _masked_store(e, stored, at, valid, value)


def _mask(type: Type, valid: int) -> Any:
    bits = [ir.Constant(ir.IntType(1), lane < valid) for lane in range(type.lanes)]
    return ir.Constant(ir.VectorType(ir.IntType(1), type.lanes), bits)


def _masked_load(e: Emitter, type: Type, at: Any, valid: int) -> Any:
    size = ir.Constant(WORD, ELEMENT_BYTES[type.element])
    nothing = Literal(llvm_type(type), "zeroinitializer")
    name = f"llvm.masked.load.{intrinsic_suffix(type)}.p0"
    return e.call(name, llvm_type(type), [at, size, _mask(type, valid), nothing])


def _masked_store(e: Emitter, type: Type, at: Any, valid: int, value: Any) -> None:
    size = ir.Constant(WORD, ELEMENT_BYTES[type.element])
    name = f"llvm.masked.store.{intrinsic_suffix(type)}.p0"
    e.call(name, ir.VoidType(), [value, at, size, _mask(type, valid)])


def _load_splat(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    type = _read(literals, [operands[0].kind]).type
    return e.packed(
        [_one_splat(e, operands, offset, type) for offset in _offsets(literals)]
    )


def _one_splat(e: Emitter, operands: Sequence[Operand], offset: int, type: Type) -> Any:
    pointer, index = operands[:2]
    stored = Type(pointer.kind.type.element)
    at = e.address(pointer, index.value, offset)
    size = ELEMENT_BYTES[stored.element]
    scalar = e.builder.load(at, align=size, typ=llvm_type(stored))
    return e.broadcast(e.converted(scalar, stored, Type(type.element)), type)


def _outer_fma_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return kinds[3]


def _outer_fma(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    """``acc[r·V + v] += element r in all lanes · w[v]``, an element at a time.

    Each element is loaded where it is used, so that few registers hold them.
    """
    pointer, index, weights, acc = operands
    type, columns = acc.kind.type, weights.kind.count
    w = e.members(weights, columns)
    sums = e.members(acc, acc.kind.count)
    for row, offset in enumerate(_offsets(literals)):
        x = _one_splat(e, (pointer, index), offset, type)
        for column in range(columns):
            at = row * columns + column
            sums[at] = e.intrinsic("fmuladd", type, x, w[column], sums[at])
    return e.packed(sums)


def _accumulate_kind(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return kinds[4]


def _accumulate(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    """Steps of a register tile: factors of x, in all lanes or vectors, times w's.

    Everything is loaded where it is used first, so that few registers hold it.
    """
    x, i, w, j, acc = operands
    sums = e.members(acc, acc.kind.count)
    x_steps, w_steps = (literals.get(name, (0,)) for name in ("x_steps", "w_steps"))
    for x_step, w_step in zip(x_steps, w_steps, strict=True):
        start, weights = e.address(x, i.value, x_step), e.address(w, j.value, w_step)
        if literals.get("w_pinned"):
            weights = _opaque(e, weights)
        if literals.get("ahead") is not None:
            distance = w_step + literals["ahead"]
            columns = dict.fromkeys(literals["columns"])
            far = {"offsets": [distance + column for column in columns]}
            _prefetch(e, far, (w, j))
        if literals.get("pinned"):
            start = _opaque(e, start)
        places = Operand(start, x.kind), Operand(weights, w.kind)
        _one_step(e, literals, places, acc.kind.type, sums)
    return e.packed(sums)


def _one_step(
    e: Emitter,
    literals: Literals,
    places: tuple[Operand, Operand],
    type: Type,
    sums: list[Any],
) -> None:
    """Adds products of what lies behind both places; changes ``sums``."""
    x, w = places
    rows, columns = literals["rows"], tuple(literals["columns"])
    width = len(sums) // len(rows)
    known: dict[int, Any] = {}
    if len(columns) < len(sums):  # common to all rows
        known = {column: _vector(e, type, w, column) for column in columns}
        columns *= len(rows)
    for row, offset in enumerate(rows):
        if literals.get("vectors"):
            factor = _vector(e, type, x, offset)
        else:
            factor = _one_splat(e, (x, Operand(None, x.kind)), offset, type)
        for at in range(row * width, (row + 1) * width):
            column = columns[at]
            if column not in known:
                known[column] = _vector(e, type, w, column)
            sums[at] = e.intrinsic("fmuladd", type, factor, known[column], sums[at])


def _vector(e: Emitter, type: Type, pointer: Operand, offset: int) -> Any:
    at = e.address(pointer, None, offset)
    return e.builder.load(at, align=ELEMENT_BYTES[type.element], typ=llvm_type(type))


def _gather(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    pointer, index = operands
    type = _read(literals, [pointer.kind]).type
    stored = Type(pointer.kind.type.element, type.lanes)
    element = llvm_type(Type(stored.element))
    stride, valid = literals["stride"], literals["valid"]
    found = []
    for offset in _offsets(literals):
        value = Literal(llvm_type(stored), "zeroinitializer")
        for lane in range(valid):
            at = e.address(pointer, index.value, offset + lane * stride)
            item = e.builder.load(at, typ=element)
            if stored.lanes == 1:
                value = item
            else:
                value = e.builder.insert_element(value, item, ir.Constant(WORD, lane))
        found.append(e.converted(value, stored, type))
    return e.packed(found)


def _prefetch(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> None:
    pointer, index = operands
    hints = [ir.Constant(WORD, hint) for hint in (0, 3, 1)]
    for offset in _offsets(literals):
        at = e.address(pointer, index.value, offset)
        e.call("llvm.prefetch.p0", ir.VoidType(), [at, *hints])


def _pin(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    pointer, index = operands
    return _opaque(e, e.address(pointer, index.value))


def _opaque(e: Emitter, at: Any) -> Any:
    """The same address, of which LLVM knows nothing."""
    type = ir.FunctionType(at.type, [at.type])
    return e.builder.asm(type, "", "=r,0", [at], False)


def _uniform(e: Emitter, literals: Literals, operands: Sequence[Operand]) -> Any:
    """The hash of `jitseq.ir.random`, for all lanes at once."""
    key, index = operands
    type = Type(literals["element"], literals.get("lanes", 1))
    words = Type("u32", type.lanes)
    parts = []
    for i in range(2):
        part = e.builder.load(e.address(key, None, i), typ=WORD)
        parts.append(e.broadcast(part, words))
    found = []
    for offset in _offsets(literals):
        at = e.builder.add(index.value, ir.Constant(INDEX, offset))
        base = e.broadcast(e.builder.trunc(at, WORD), words)
        found.append(_hashed(e, base, parts, literals["stride"], type))
    return e.packed(found)


def _hashed(e: Emitter, base: Any, key: Sequence[Any], stride: int, type: Type) -> Any:
    words = Type("u32", type.lanes)
    steps: Any = [ir.Constant(WORD, lane * stride) for lane in range(type.lanes)]
    lanes = ir.Constant(llvm_type(words), steps) if type.lanes > 1 else steps[0]
    b = e.builder
    h = _mixed(e, b.add(b.add(base, lanes), key[0]), words)
    h = _mixed(e, b.xor(h, key[1]), words)
    h = b.lshr(h, e.constant(words, 32 - RANDOM_BITS))
    real = b.uitofp(h, llvm_type(type))
    return b.fmul(real, e.constant(type, 2.0**-RANDOM_BITS))


def _mixed(e: Emitter, h: Any, words: Type) -> Any:
    b = e.builder
    for shift, factor in MIX:
        h = b.xor(h, b.lshr(h, e.constant(words, shift)))
        if factor is not None:
            h = b.mul(h, e.constant(words, factor))
    return h


def _pointer(literals: Literals, kinds: Sequence[Kind]) -> Kind:
    return kinds[0]


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "load": (_read, _load),
    "load_splat": (_read, _load_splat),
    "gather": (_read, _gather),
    "uniform": (_read, _uniform),
    "outer_fma": (_outer_fma_kind, _outer_fma),
    "accumulate": (_accumulate_kind, _accumulate),
    "store": (_nothing, _store),
    "prefetch": (_nothing, _prefetch),
    "pin": (_pointer, _pin),
}

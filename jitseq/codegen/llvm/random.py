"""The hash of `jitseq.ir.random` on vectors: a random number for each lane's index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitseq.codegen.llvm.shuffles import broadcast
from jitseq.codegen.llvm.types import llvm_type, number, splat_text
from jitseq.ir.program import Affine, Instr, Type
from jitseq.ir.random import MIX, RANDOM_BITS

if TYPE_CHECKING:
    from jitseq.codegen.llvm.kernel import KernelRenderer


def render_uniform(r: KernelRenderer, instr: Instr) -> None:
    """The hash of `jitseq.ir.random`, for all lanes at once."""
    key, index = instr.args
    type = instr.results[0].type
    words = Type("u32", type.lanes)
    vector = llvm_type(words)
    parts = []
    for i in range(2):
        address = r.address(key, Affine((), i))
        parts.append(broadcast(r, r.assign(f"load i32, ptr {address}"), words))
    base = r.assign(f"trunc i64 {r.index(index)} to i32")
    steps = ", ".join(f"i32 {lane * instr.extra}" for lane in range(type.lanes))
    lanes = f"<{steps}>" if type.lanes > 1 else "0"
    h = r.assign(f"add {vector} {broadcast(r, base, words)}, {lanes}")
    h = r.assign(f"add {vector} {h}, {parts[0]}")
    h = _mixed(r, h, words)
    h = _mixed(r, r.assign(f"xor {vector} {h}, {parts[1]}"), words)
    shift = splat_text(str(32 - RANDOM_BITS), words)
    h = r.assign(f"lshr {vector} {h}, {shift}")
    real = llvm_type(type)
    name = r.assign(f"uitofp {vector} {h} to {real}")
    scale = splat_text(number(2.0**-RANDOM_BITS, type.element), type)
    r.define(instr, f"fmul {real} {name}, {scale}")


def _mixed(r: KernelRenderer, h: str, words: Type) -> str:
    vector = llvm_type(words)
    for shift, factor in MIX:
        high = r.assign(f"lshr {vector} {h}, {splat_text(str(shift), words)}")
        h = r.assign(f"xor {vector} {h}, {high}")
        if factor is not None:
            h = r.assign(f"mul {vector} {h}, {splat_text(str(factor), words)}")
    return h

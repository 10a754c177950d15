"""Two loops that show what one core can do: independent FMAs, and streaming reads."""

from __future__ import annotations

from jitseq.codegen.llvm.types import function_attributes
from jitseq.ir.target import Target

CHAINS = 12


def peak_text(target: Target) -> str:
    """LLVM IR of ``jitseq_fma(p, _, n)`` and ``jitseq_read(p, _, n)``.

    The first does 12 independent vector FMAs a round, the second reads 4 vectors.
    """
    lanes = target.lanes("f32")
    vector = f"<{lanes} x float>"
    return "\n".join(
        [
            _loop("jitseq_fma", vector, CHAINS, _fma_step(vector, lanes)),
            _loop("jitseq_read", vector, 4, _read_step(vector, lanes)),
            f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
            function_attributes(target),
        ]
    )


def _loop(name: str, vector: str, count: int, step: list[str]) -> str:
    phis = [
        f"  %s{k} = phi {vector} [ %first, %entry ], [ %t{k}, %loop ]"
        for k in range(count)
    ]
    total = ["  %u0 = fadd " + vector + " %t0, %first"]
    total += [f"  %u{k} = fadd {vector} %u{k - 1}, %t{k}" for k in range(1, count)]
    return "\n".join(
        [
            f"define void @{name}(ptr %p, ptr %unused, i64 %n) #0 {{",
            "entry:",
            f"  %first = load {vector}, ptr %p, align 4",
            "  br label %loop",
            "loop:",
            "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]",
            *phis,
            *step,
            "  %next = add i64 %i, 1",
            "  %more = icmp slt i64 %next, %n",
            "  br i1 %more, label %loop, label %done",
            "done:",
            *total,
            f"  store {vector} %u{count - 1}, ptr %p, align 4",
            "  ret void",
            "}",
        ]
    )


def _fma_step(vector: str, lanes: int) -> list[str]:
    call = f"call {vector} @llvm.fma.v{lanes}f32"
    return [
        f"  %t{k} = {call}({vector} %s{k}, {vector} %first, {vector} %first)"
        for k in range(CHAINS)
    ]


def _read_step(vector: str, lanes: int) -> list[str]:
    lines = [f"  %base = mul i64 %i, {4 * lanes}"]
    for k in range(4):
        lines += [
            f"  %o{k} = add i64 %base, {k * lanes}",
            f"  %a{k} = getelementptr float, ptr %p, i64 %o{k}",
            f"  %v{k} = load {vector}, ptr %a{k}, align 4",
            f"  %t{k} = fadd {vector} %s{k}, %v{k}",
        ]
    return lines

"""Generated code as text, and measured times of kernels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from jitseq.codegen.llvm.compiler import Library, assembly, compile_object, optimise
from jitseq.codegen.llvm.render import render
from jitseq.errors import UnsupportedError
from jitseq.ir.program_text import program_text
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.pipeline import schedule
from jitseq.runtime.bound import Bound
from jitseq.runtime.compile_lock import COMPILING
from jitseq.runtime.executable import RUN, executable
from jitseq.runtime.report import Profile, kernel_times

FORMS = ("program", "llvm", "optimised", "assembly")


def source(
    fused: FusedGraph, target: Target, disabled: frozenset[str], form: str
) -> str:
    """The program as loop nests, LLVM IR (before or after its passes), or assembly."""
    if form not in FORMS:
        raise UnsupportedError(
            f"source form {form!r}", hint=f"one of {', '.join(FORMS)}"
        )
    program = schedule(fused, target, disabled).planned.program
    if form == "program":
        return program_text(program)
    header = "".join(f"; {line}\n" for line in str(fused.graph).split("\n"))
    text = render(program, target)
    if form == "llvm":
        return header + text
    with COMPILING:
        if form == "optimised":
            return header + str(optimise(text, target))
        return assembly(text, target)


def profile(
    bound: Bound,
    inputs: Sequence[np.ndarray],
    target: Target,
    disabled: frozenset[str],
    repeats: int | None,
) -> Profile:
    """Run a build with cycle counters around each kernel."""
    code = executable(bound.fused, target, disabled, profile=True).code
    if repeats is None:
        started = time.perf_counter()
        bound.run_profiled(inputs, code, 1)
        repeats = max(3, int(0.2 / max(time.perf_counter() - started, 1e-7)))
        repeats = min(repeats, 2000)
    cycles = bound.run_profiled(inputs, code, repeats)
    seconds = cycles / repeats / cycles_per_second()
    images = bound.batch(inputs)
    times = kernel_times(code.manifest.kernels, seconds.tolist(), images)
    return Profile(times, *machine_peaks(target))


@cache
def cycles_per_second() -> float:
    """The rate of the counter that kernels are timed with."""
    text = """define i64 @jitseq_cycles() {
  %t = call i64 @llvm.readcyclecounter()
  ret i64 %t
}
declare i64 @llvm.readcyclecounter()
"""
    import ctypes

    from jitseq.codegen.llvm.host import host_target

    with COMPILING:
        library = Library(compile_object(text, host_target()), ("jitseq_cycles",))
    read = ctypes.CFUNCTYPE(ctypes.c_int64)(library.address("jitseq_cycles"))
    first, started = read(), time.perf_counter()
    while time.perf_counter() - started < 0.02:
        pass
    return float(read() - first) / (time.perf_counter() - started)


@cache
def machine_peaks(target: Target) -> tuple[float, float]:
    """GFLOP/s of independent FMAs, GB/s of reading 16 MB, on one core."""
    from jitseq.runtime.peaks import peak_text

    with COMPILING:
        library = Library(
            compile_object(peak_text(target), target), ("jitseq_fma", "jitseq_read")
        )
    block = np.zeros(16 << 20, np.uint8)
    best_fma = best_read = 0.0
    fma, read = RUN(library.address("jitseq_fma")), RUN(library.address("jitseq_read"))
    lanes = target.lanes("f32")
    for _ in range(7):
        started = time.perf_counter()
        fma(block.ctypes.data, None, 200_000)
        spent = time.perf_counter() - started
        best_fma = max(best_fma, 200_000 * 12 * 2 * lanes / spent / 1e9)
        started = time.perf_counter()
        read(block.ctypes.data, None, block.size // (4 * target.vector_bytes))
        spent = time.perf_counter() - started
        best_read = max(best_read, block.size / spent / 1e9)
    return best_fma, best_read

"""Generated code as text, and measured times of kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from jitseq.codegen.llvm.compiler import Library, assembly, compile_object, optimise
from jitseq.codegen.llvm.peaks import CHAINS, peak_text
from jitseq.errors import UnsupportedError
from jitseq.ir.program_text import program_text
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.pipeline import schedule
from jitseq.runtime.bound import Bound
from jitseq.runtime.compile_lock import COMPILING
from jitseq.runtime.executable import RUN, executable, module_text
from jitseq.runtime.report import Peaks, Profile, kernel_times

if TYPE_CHECKING:
    from jitseq.display.memory_plan import MemoryPlan

CACHE_READ = 16 << 20
"""Bytes that stay in the last-level cache of most machines."""

MEMORY_READ = 160 << 20
"""Bytes that do not."""

FORMS = ("program", "numba", "llvm", "optimised", "assembly")


def source(
    fused: FusedGraph,
    target: Target,
    disabled: frozenset[str],
    form: str | None = None,
    backend: str = "cpu",
) -> str:
    """The program as loop nests, Python, LLVM IR (before or after its passes), or
    assembly; when ``form`` is None, as what the backend writes."""
    if backend == "cuda":
        from jitseq.runtime.cuda.inspect import source as source_of_grids

        return source_of_grids(fused, disabled, form)
    form = form or {"numba": "numba"}.get(backend, "llvm")
    if form not in FORMS:
        raise UnsupportedError(
            f"source form {form!r}", hint=f"one of {', '.join(FORMS)}"
        )
    program = schedule(fused, target, disabled).planned.program
    if form == "program":
        return program_text(program)
    if form == "numba":
        from jitseq.codegen.numba_cpu.render import render

        return render(program)
    header = "".join(f"; {line}\n" for line in str(fused.graph).split("\n"))
    text = module_text(program, target, backend)
    if form == "llvm":
        return header + text
    with COMPILING:
        if form == "optimised":
            return header + str(optimise(text, target))
        return assembly(text, target)


def memory_plan(
    fused: FusedGraph, target: Target, disabled: frozenset[str], backend: str
) -> MemoryPlan:
    """Every buffer's place and life, as the schedule of the program has them.

    Raises `UnsupportedError` for a backend that plans the memory of a device.
    """
    from jitseq.display.memory_plan import memory_plan

    if backend == "cuda":
        raise UnsupportedError(
            "the memory plan of a program for backend 'cuda'",
            hint='look at the plan of backend="cpu", or at explain().arena_bytes',
        )
    return memory_plan(schedule(fused, target, disabled))


def profile(
    bound: Bound,
    arrays: Sequence[np.ndarray],
    images: int,
    target: Target,
    disabled: frozenset[str],
    backend: str,
    repeats: int | None,
) -> Profile:
    """Run a build with cycle counters around each kernel.

    ``arrays`` are inputs, outputs and variables; the last two are written.
    """
    code = executable(bound.fused, target, disabled, True, backend).code
    places = [array.ctypes.data for array in arrays]
    if repeats is None:
        started = time.perf_counter()
        bound.run_profiled(places, images, code, 1)
        repeats = max(3, int(0.2 / max(time.perf_counter() - started, 1e-7)))
        repeats = min(repeats, 2000)
    cycles = bound.run_profiled(places, images, code, repeats)
    seconds = cycles / repeats / cycles_per_second()
    times = kernel_times(code.manifest.kernels, seconds.tolist(), images)
    return Profile(times, machine_peaks(target))


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
def machine_peaks(target: Target) -> Peaks:
    """What one core reaches, measured once a process (about 0.1 s)."""
    with COMPILING:
        library = Library(
            compile_object(peak_text(target), target), ("jitseq_fma", "jitseq_read")
        )
    fma, read = RUN(library.address("jitseq_fma")), RUN(library.address("jitseq_read"))
    rounds, flops = 200_000, CHAINS * 2 * target.lanes("f32")
    few = np.zeros(target.vector_bytes, np.uint8)
    gflops = _fastest(lambda: fma(few.ctypes.data, None, rounds), rounds * flops)
    rates = []
    for size in (CACHE_READ, MEMORY_READ):
        block = np.ones(size, np.uint8)  # zeros would share one page of memory
        count = size // (4 * target.vector_bytes)
        rates.append(_fastest(partial(read, block.ctypes.data, None, count), size))
    return Peaks(gflops, *rates)


def _fastest(work: Callable[[], object], amount: int) -> float:
    """``amount`` over the least time of seven, in 10⁹ a second."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return amount / min(times) / 1e9

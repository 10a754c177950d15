"""Programs run by their generated Python source, beside the interpreter.

A Program and its context enter; the arrays are written by the source, and every one of
them, intermediate memory included, must hold what the interpreter makes of a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jitseq.codegen.numba_cpu.calls import load_source
from jitseq.codegen.numba_cpu.packs import pack_kernel
from jitseq.codegen.numba_cpu.render import kernel_source, render
from jitseq.codegen.numba_cpu.statements import LoopStatement, Statement
from jitseq.codegen.reference import Pointer, run_kernel
from jitseq.codegen.reference import run as interpret
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Kernel, Program, Reg, Type
from jitseq.ir.target import Target

HEADER = """from math import inf, nan

from jitseq.codegen.numba_cpu.vectors import *
"""
F32X4 = Type("f32", 4)
SIZE = 64
TARGETS = {
    "AVX-512": Target("x86-64-v4", "", 64, 32),
    "two lanes": Target("narrow", "", 8, 16),
}


def run_checked(program: Program, context: Sequence[np.ndarray], images: int) -> None:
    """In place of the interpreter's `run`."""
    expected = [array.copy() for array in context]
    interpret(program, expected, images)
    source = render(program)
    assert max(map(len, source.splitlines())) <= 100
    load_source(source)["run"](context, images)
    for found, reference in zip(context, expected, strict=True):
        np.testing.assert_array_equal(found, reference)


def run_kernel_checked(
    kernel: Kernel, arrays: Sequence[np.ndarray], count: int = 1
) -> list[np.ndarray]:
    """The arrays behind a kernel's buffers, after both ways to run it."""
    found, expected = ([array.copy() for array in arrays] for _ in range(2))
    run_kernel(kernel, [Pointer(array, 0) for array in expected], count)
    function = load_source(HEADER + kernel_source(kernel))[kernel.name]
    function(*(Pointer(array, 0) for array in found), count, 0)
    for array, reference in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, reference)
    return found


def numbers(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def ops_of(kernel: Kernel) -> Counter[str]:
    """How many statements there are of each op, loops' bodies included."""
    found: Counter[str] = Counter()
    open_bodies = [pack_kernel(kernel).body]
    while open_bodies:
        for item in open_bodies.pop():
            if isinstance(item, LoopStatement):
                open_bodies.append(item.body)
            else:
                assert isinstance(item, Statement)
                found[item.op] += 1
    return found


def depthwise(
    b: KernelBuilder, inputs: list[Reg], taps: Sequence[Reg] = ()
) -> list[Reg]:
    """Three outputs of three taps, in the order of the five inputs."""
    taps = taps or [b.const(0.5 + tap, F32X4) for tap in range(3)]
    sums = [b.const(0.0, F32X4)] * 3
    for at, value in enumerate(inputs):
        for tap in range(3):
            if 0 <= at - tap < 3:
                sums[at - tap] = b.fma(value, taps[tap], sums[at - tap])
    return sums

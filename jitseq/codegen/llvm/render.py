"""Program → LLVM IR text.

Enters a verified Program; leaves the text of one module with a function for each
kernel, one for each segment, and the exported entries of `driver`. The text is
deterministic. Invariant: the only floating-point freedom given to LLVM is the
reassociation of horizontal sums; NaN, infinities and denormals keep their meaning.
"""

from __future__ import annotations

from jitseq.codegen.llvm.driver import render_driver
from jitseq.codegen.llvm.kernel import KernelRenderer, Module
from jitseq.codegen.llvm.math import math_functions
from jitseq.codegen.llvm.types import function_attributes
from jitseq.ir.program import Program
from jitseq.ir.target import Target


def render(program: Program, target: Target, profile: bool = False) -> str:
    """The LLVM module of a program, as text."""
    module = Module()
    kernels = [KernelRenderer(module).render(kernel) for kernel in program.kernels]
    driver = render_driver(program, profile)
    math = math_functions(module.math, "#0")
    declares = sorted(module.declares | math.declares | driver.declares)
    tables = [
        f"{name} = internal constant [{len(values)} x i64] "
        f"[{', '.join(f'i64 {value}' for value in values)}]"
        for values, name in module.tables.items()
    ]
    attributes = function_attributes(target)
    parts = [*tables, *kernels, math.definitions, driver.text, *declares, attributes]
    return "\n\n".join(part for part in parts if part) + "\n"

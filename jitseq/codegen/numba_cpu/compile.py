"""Program → Python source → numba → LLVM text, beside the driver of the LLVM backend.

Enters a Program; leaves the text of one module with the same entries as that of
`jitseq.codegen.llvm.render`: object code, threads, profiles and the cache are common
to both. Invariant: numba is used as a front end for single kernels only, without fast
mathematics, so results have the bits of the LLVM backend's.
"""

from __future__ import annotations

import re
import sys
import tempfile
from functools import lru_cache
from typing import TYPE_CHECKING

from jitseq.codegen.llvm.compiler import optimise
from jitseq.codegen.llvm.driver import render_driver
from jitseq.codegen.llvm.math import math_functions
from jitseq.codegen.llvm.types import function_attributes
from jitseq.codegen.numba_cpu.render import kernel_source
from jitseq.config import logs
from jitseq.errors import JitseqError
from jitseq.ir.program import Kernel, Program
from jitseq.ir.target import Target

if TYPE_CHECKING:
    from jitseq.codegen.numba_cpu.frontend import KernelText

PASSES = (
    "always_inliner",
    "sroa",
    "instruction_combine",
    "sroa",
    "jump_threading",
    "loop_rotate",
    "simplify_cfg",
    "instruction_combine",
    "global_dead_code_eliminate",
)
"""What numba's text needs before it resembles that of the LLVM backend: variables
become registers (counters of loops at the second time, when nothing holds their
addresses any more), packs fall apart, loops test once, at their end."""

KERNELS = 64
"""Translated kernels that the process remembers: models share layers."""


class CodegenError(JitseqError, RuntimeError):
    """A kernel could not be compiled: a fault of jitseq's or numba's."""


def llvm_text(program: Program, target: Target, profile: bool = False) -> str:
    """The LLVM module of a program, after `PASSES`.

    Raises:
        CodegenError: numba refused a kernel; its source is in the file that is named.
    """
    return str(optimise(render(program, target, profile), target, PASSES))


def render(program: Program, target: Target, profile: bool = False) -> str:
    """The LLVM module as numba leaves it: every variable is in memory."""
    kernels = [_translated(kernel) for kernel in program.kernels]
    adapters = [_adapter(kernel) for kernel in program.kernels]
    driver = render_driver(program, profile)
    math = math_functions({one for kernel in kernels for one in kernel.math}, "#0")
    lines = {line for kernel in kernels for line in kernel.globals}
    lines |= math.declares | driver.declares
    parts = [
        *(kernel.definition for kernel in kernels),
        *adapters,
        math.definitions,
        driver.text,
        *{_symbol(line): line for line in sorted(lines)}.values(),
        function_attributes(target),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _description(error: Exception) -> str:
    notes: list[str] = getattr(error, "__notes__", [])
    return "; ".join([f"{type(error).__name__}: {error}", *notes])


def _symbol(line: str) -> str:
    """What a declaration or a constant declares."""
    found = re.search(r'@"?([^"(= ]+)', line)
    assert found is not None, line
    return found[1]


def _adapter(kernel: Kernel) -> str:
    """The function that the driver calls: numba's has two more pointers in front."""
    parameters, arguments = [], []
    for i, buffer in enumerate(kernel.buffers):
        access = "" if buffer.written else "readonly "
        parameters.append(f"ptr noalias {access}%p{i}")
        arguments.append(f"ptr %p{i}")
    numbers = ["i64 %count", "i64 %first"]
    taken = ", ".join(["ptr %nothing", "ptr %nothing", *arguments, *numbers])
    return f"""define internal void @{kernel.name}({", ".join([*parameters, *numbers])})
    noinline #0 {{
  %nothing = alloca ptr
  %status = call i32 @"{kernel.name}.numba"({taken})
  ret void
}}"""


def _translated(kernel: Kernel) -> KernelText:
    source = kernel_source(kernel)
    elements = tuple(buffer.element for buffer in kernel.buffers)
    return _text_of(source, kernel.name, elements)


@lru_cache(KERNELS)
def _text_of(source: str, name: str, elements: tuple[str, ...]) -> KernelText:
    from jitseq.codegen.numba_cpu.frontend import kernel_text

    if logs("codegen"):
        print(source, file=sys.stderr)
    try:
        return kernel_text(source, name, elements)
    except Exception as error:  # numba's errors have no common base
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"jitseq-{name}-", suffix=".py", delete=False, encoding="utf-8"
        ) as file:
            file.write(source)
        raise CodegenError(
            f"numba does not compile kernel {name}",
            facts={"source": file.name, "error": _description(error)},
            hint='use backend="cpu", and report the source',
        ) from error

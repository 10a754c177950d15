"""One fused kernel in every form, for docs/backends.md.

Nothing enters; `GENERATED` maps names of blocks to functions, as in `doc_texts`.
"""

from __future__ import annotations

from functools import cache

from jitseq import nn
from jitseq.codegen.llvm.host import LEVELS
from jitseq.codegen.llvm.render import render
from jitseq.codegen.numba_cpu.render import kernel_source
from jitseq.codegen.numba_cuda.render import render as render_cuda
from jitseq.ir.program import Kernel
from jitseq.ir.program_text import kernel_text
from jitseq.ir.target import GridTarget
from jitseq.ir.trace import Traced, trace
from jitseq.ir.types import TensorType
from jitseq.passes.grid.schedule import GridSchedule
from jitseq.passes.grid.schedule import schedule as grid_schedule
from jitseq.passes.pipeline import Scheduled, optimise, schedule

TARGET = LEVELS["x86-64-v4"]
GRID = GridTarget()
SHAPE = (64, 8, 16, 16)


def fenced(lines: list[str], language: str = "text") -> str:
    text = "\n".join(line.rstrip() for line in lines)
    return f"```{language}\n{text}\n```\n"


def cut(line: str) -> str:
    return line if len(line) <= 88 else line[:85] + " …"


@cache
def traced() -> Traced:
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    ).eval()
    return trace(model, [TensorType("float32", SHAPE)])


@cache
def on_cpu() -> Scheduled:
    return schedule(optimise(traced().graph), TARGET)


@cache
def on_grid() -> GridSchedule:
    return grid_schedule(optimise(traced().graph), GRID)


def fused_kernel() -> Kernel:
    """The convolution; the kernel before it copies the caller's image."""
    kernels = on_cpu().planned.program.kernels
    return next(kernel for kernel in kernels if "conv2d" in kernel.name)


def graph() -> str:
    fused = on_cpu().fused
    return fenced([*str(traced().graph).splitlines(), "", *str(fused).splitlines()])


def program() -> str:
    """The loops, the start of the reduction, and one pooled output."""
    kernel = fused_kernel()
    lines = kernel_text(kernel).splitlines()
    first = next(i for i, line in enumerate(lines) if "carry" in line)
    end = next(i for i, line in enumerate(lines) if i > first and "yield" in line)
    stored = next(i for i, line in enumerate(lines) if i > end and "] = %" in line)
    shown = [f"kernel {kernel.name}{lines[0]}", "  …", *lines[first - 4 : first + 8]]
    shown += ["          …", *lines[end : stored + 1], "        …"]
    return fenced(list(map(cut, shown)))


def llvm() -> str:
    """The reduction's head and its first multiply-adds."""
    text = render(on_cpu().planned.program, TARGET)
    lines = text[text.index(f"@{fused_kernel().name}") :].splitlines()
    phi = next(i for i, line in enumerate(lines) if "phi <16 x float>" in line)
    used = next(i for i, line in enumerate(lines) if i > phi and "fmuladd" in line)
    shown = [
        "  …",
        *lines[phi - 2 : phi + 2],
        "  …",
        *lines[used - 6 : used + 1],
        "  …",
    ]
    return fenced(
        [line if len(line) < 89 else line[:85] + " …" for line in shown], "llvm"
    )


def numba() -> str:
    """The whole kernel without the Program above it."""
    lines = kernel_source(fused_kernel()).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("@"))
    return fenced(lines[start:], "text")


def cuda() -> str:
    text = render_cuda(on_grid().planned.program)
    lines = text.splitlines()
    start = next(
        i
        for i, line in enumerate(lines)
        if line.startswith("def ") and "conv2d" in line
    )
    rest = lines[start + 1 :]
    end = next((i for i, line in enumerate(rest) if line and line[0] != " "), len(rest))
    return fenced([*lines[start - 1 : start + 1], *rest[:end]], "text")


def launch() -> str:
    kernels = on_grid().planned.program.segments[0].calls
    return fenced([str(call.launch) for call in kernels])


GENERATED = {
    "one_graph": graph,
    "one_program": program,
    "one_llvm": llvm,
    "one_numba": numba,
    "one_cuda": cuda,
    "one_launch": launch,
}

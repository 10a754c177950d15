"""Program → Python source that a person can read, that runs, and that numba compiles.

A verified Program for CPUs enters; leaves the text of a module with a function for each
kernel and `run`, which calls them block by block. `vectors.py` says what the functions
in it mean: positional arguments are run-time values, keywords literals. The text is
deterministic, its lines have 100 columns at most. Invariant: run as it is, it does what
`codegen/reference.py` does with the Program.
"""

from __future__ import annotations

import textwrap

from jitseq.codegen.numba_cpu.kernel import KernelText
from jitseq.codegen.numba_cpu.names import WIDTH, wrapped
from jitseq.codegen.numba_cpu.vectors import FUNCTIONS
from jitseq.ir.program import Argument, Kernel, Program, Segment
from jitseq.ir.program_text import kernel_text

PROGRAM_LINES = 40
"""Of the Program text that stands above a kernel."""

HEADER = '''"""{title}

Functions of vectors and of packs, tuples of vectors, compute the kernels; positional
arguments are run-time values, keywords are literals. This text runs as it is.
"""

from math import inf, nan

from jitseq.codegen.numba_cpu.calls import blocks, place, scratch, zero
from jitseq.codegen.numba_cpu.vectors import (
{names}
)'''


def render(program: Program, title: str = "") -> str:
    """The module of a whole program; ``title`` is the first line of its docstring."""
    names = textwrap.fill(
        ", ".join(["kernel", *FUNCTIONS]) + ",", 80, initial_indent="    ",
        subsequent_indent="    ",
    )  # fmt: skip
    header = HEADER.format(title=title or "A program of jitseq.", names=names)
    kernels = [kernel_source(kernel) for kernel in program.kernels]
    return "\n\n\n".join([header, *kernels, _run(program)]) + "\n"


def kernel_source(kernel: Kernel) -> str:
    """One function, under the Program text that it came from.

    Its arguments are the buffers, the number of images and the number of the first.
    """
    lines = f"kernel {kernel.name}{kernel_text(kernel)}".splitlines()
    if len(lines) > PROGRAM_LINES:
        left = len(lines) - PROGRAM_LINES
        lines = [*lines[:PROGRAM_LINES], f"  ... {left} more lines"]
    comment = [_cut(f"# {line}") for line in lines]
    return "\n".join([*comment, "@kernel", *KernelText(kernel).lines])


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 4] + " ..."


def _run(program: Program) -> str:
    lines = [
        "def run(context, images):",
        '    """All segments for a batch; ``context`` are contiguous arrays: inputs,',
        '    outputs, variables, packed parameters, memory between segments."""',
    ]
    if program.sums_bytes:
        lines.append(f"    sums = context[{program.sums_slot}]")
    for number, segment in enumerate(program.segments):
        lines += _segment(program, number, segment)
    return "\n".join(lines)


def _segment(program: Program, number: int, segment: Segment) -> list[str]:
    runs = f"{segment.block} images a block" if segment.batched else "once"
    lines = [f"    # segment {number}, {runs}"]
    for sums in segment.sums:
        lines.append(f"    zero(sums, {sums.offset}, {sums.bytes})")
    total = "images" if segment.batched else "1"
    lines.append(f"    for first, count in blocks({total}, {segment.block}):")
    lines.append(f"        arena = scratch({program.arena_bytes})")
    for call in segment.calls:
        kernel = program.kernels[call.kernel]
        places = [
            _place(argument, buffer.element)
            for argument, buffer in zip(call.arguments, kernel.buffers, strict=True)
        ]
        count = "count" if call.count is None else str(call.count)
        lines += wrapped(
            f"        {kernel.name}({', '.join([*places, count, 'first'])})"
        )
    return lines


def _place(argument: Argument, element: str) -> str:
    memory = argument.space
    if memory == "context":
        memory = f"context[{argument.slot}]"
    offset = str(argument.offset)
    if argument.stride:
        moved = f"{argument.stride} * first"
        offset = f"{offset} + {moved}" if argument.offset else moved
    return f'place({memory}, "{element}", {offset})'

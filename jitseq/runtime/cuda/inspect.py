"""Source of grids as text, and measured times of their kernels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jitseq.codegen.numba_cuda.compile import ptx
from jitseq.codegen.numba_cuda.render import render
from jitseq.codegen.numba_cuda.shim import selected_grid_target, simulated
from jitseq.errors import UnsupportedError
from jitseq.ir.program_text import program_text
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.grid.schedule import schedule
from jitseq.runtime.cuda.bound import DeviceBound
from jitseq.runtime.cuda.device import Place, current_device
from jitseq.runtime.report import Profile, kernel_times

FORMS = ("program", "cuda", "ptx")
PROFILED_SECONDS = 0.2


def source(fused: FusedGraph, disabled: frozenset[str], form: str | None) -> str:
    """The program as loop nests, as Python for `numba.cuda` (default), or as PTX."""
    form = form or "cuda"
    if form not in FORMS:
        raise UnsupportedError(
            f'source form {form!r} of backend "cuda"', hint=f"one of {', '.join(FORMS)}"
        )
    program = schedule(fused, selected_grid_target(), disabled).planned.program
    if form == "program":
        return program_text(program)
    if form == "cuda":
        return render(program)
    if simulated():
        raise UnsupportedError("the simulator runs Python: there is no PTX")
    return "\n".join(ptx(program, current_device().capability))


def profile(
    bound: DeviceBound, inputs: Sequence[Any], images: int, repeats: int | None
) -> Profile:
    """Run the kernels one by one; variables are copied before."""
    device = bound.device
    work = bound.prepare(inputs, images, None, "numpy")
    first = len(bound.input_types) + len(bound.output_types)
    copies = []
    for index in range(first, first + len(bound.changed)):
        source = work.places[index]
        memory = device.allocate(source.size)
        device.run([device.copy(memory.address, source.address, source.size)])
        copies.append(memory)
        work.places[index] = memory.place
    device.run(work.before)
    spent = [
        _seconds(bound, step, repeats) for step in _steps(bound, work.places, images)
    ]
    kernels = [replace(kernel, block=images) for kernel in bound.code.manifest.kernels]
    return Profile(kernel_times(kernels, spent, images), device.peaks(), device.name)


def _steps(bound: DeviceBound, places: Sequence[Place], images: int) -> list[Any]:
    """The launch of each call of the program; None where it takes no part."""
    frame = bound.frame(images)
    launches = iter(frame.launches(places))
    taking_part = set(map(id, frame.calls))
    return [
        next(launches) if id(call) in taking_part else None
        for call in bound.code.manifest.calls
    ]


def _seconds(bound: DeviceBound, step: Any, repeats: int | None) -> float:
    """The mean over ``repeats`` launches in a row."""
    if step is None:
        return 0.0
    once = _timed(bound, [step])
    count = repeats or max(1, min(200, int(PROFILED_SECONDS / 20 / max(once, 1e-7))))
    return _timed(bound, [step] * count) / count


def _timed(bound: DeviceBound, steps: Sequence[Any]) -> float:
    bound.device.synchronize()
    started = time.perf_counter()
    bound.device.run(steps)
    bound.device.synchronize()
    return time.perf_counter() - started

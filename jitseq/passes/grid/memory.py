"""Memory of a program of grids: every buffer's place, and the finished Program.

Kernels enter in the order in which they run. Values with a batch share one allocation,
whose offsets are multiplied by the number of images; values without one share another.
Invariant: two values overlap only where no kernel needs both, and a batch of any size
needs no other program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from jitseq.ir.graph import Value
from jitseq.ir.layout import element_count
from jitseq.ir.program import (
    ELEMENT_BYTES,
    Argument,
    Call,
    Kernel,
    Program,
    Segment,
)
from jitseq.ir.program_text import kernel_text
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.grid.lowered import GridKernel
from jitseq.passes.lower.operands import ELEMENTS, Source
from jitseq.passes.memory import ALIGNMENT, Life, Planned, assign_offsets

Owner = Callable[[Value], Value]


def plan_memory(
    fused: FusedGraph,
    kernels: Sequence[GridKernel],
    results: Sequence[Value],
    owner: Owner,
    reuse: bool = True,
) -> Planned:
    """Place all buffers, name and deduplicate kernels, write the calls.

    Context slots: the graph's inputs, ``results``, variables, packs of static values,
    memory for each image (``Program.batch_bytes``), memory without a batch
    (``fixed_bytes``). ``owner`` tells whose memory a value shows.
    """
    variables = tuple(dict.fromkeys(map(owner, fused.changed.values())))
    direct = (*fused.graph.inputs, *results, *variables)
    read = (source for kernel in kernels for source in kernel.sources)
    packs = tuple(dict.fromkeys(source for source in read if source.pack is not None))
    slots: dict[object, int] = {v: slot for slot, v in enumerate((*direct, *packs))}
    lives = _lives(kernels, slots, owner)
    batched = {value: life for value, life in lives.items() if value.type.has_batch}
    fixed = {value: life for value, life in lives.items() if not value.type.has_batch}
    images_bytes, places = _placed("images", len(slots), batched, reuse)
    fixed_bytes, others = _placed("context", len(slots) + 1, fixed, reuse)
    calls, functions = _calls(kernels, {**places, **others}, slots, owner)
    program = Program(
        kernels=functions,
        segments=(Segment(calls, block=1),) if calls else (),
        context_slots=len(slots) + 2,
        arena_bytes=0,
        batch_bytes=(images_bytes,),
        fixed_slot=len(slots) + 1,
        fixed_bytes=fixed_bytes,
    )
    return Planned(program, variables, packs, tuple(call.kernel for call in calls))


def _lives(
    kernels: Sequence[GridKernel], slots: Mapping[object, int], owner: Owner
) -> dict[Value, Life]:
    """From the first to the last kernel that uses each value without a slot."""
    lives: dict[Value, Life] = {}
    for i, kernel in enumerate(kernels):
        for source in kernel.sources:
            value = owner(source.value)
            if source.pack is not None or value in slots:
                continue
            size = element_count(value.type) * ELEMENT_BYTES[ELEMENTS[value.type.dtype]]
            first = lives[value].first if value in lives else i
            lives[value] = Life(-(-size // ALIGNMENT) * ALIGNMENT, first, i)
    return lives


def _placed(
    space: str, slot: int, lives: Mapping[Value, Life], reuse: bool
) -> tuple[int, dict[Value, Argument]]:
    offsets, total = assign_offsets(list(lives.values()), reuse)
    places = zip(lives, offsets, strict=True)
    return total, {value: Argument(space, slot, at, 0) for value, at in places}


def _calls(
    kernels: Sequence[GridKernel],
    places: Mapping[Value, Argument],
    slots: Mapping[object, int],
    owner: Owner,
) -> tuple[tuple[Call, ...], tuple[Kernel, ...]]:
    """A call for each kernel, and the kernels, each once."""
    unique: dict[str, int] = {}
    functions: list[Kernel] = []

    def argument(source: Source) -> Argument:
        value = owner(source.value)
        if source.pack is not None:
            return Argument("context", slots[source], 0, 0)
        if value in slots:
            return Argument("context", slots[value], 0, 0)
        return places[value]

    calls = []
    for lowered in kernels:
        text = kernel_text(lowered.kernel)
        if text not in unique:
            unique[text] = len(functions)
            name = f"k{len(functions)}_{lowered.kernel.name}"
            functions.append(replace(lowered.kernel, name=name))
        arguments = tuple(map(argument, lowered.sources))
        calls.append(
            Call(
                unique[text],
                arguments,
                lowered.count,
                lowered.launch,
                lowered.least,
                lowered.most,
            )
        )
    return tuple(calls), tuple(functions)

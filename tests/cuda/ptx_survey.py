"""Compiles grids to PTX and prints what is in them, as JSON: run as a script.

Needs numba-cuda with its compiler, but neither a driver nor a device. A process of its
own because a process that has imported numba's simulator has no compiler. Arguments:
"ops", or "zoo" or "steps" with names of the zoo; then compute capabilities such as 8.0.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from op_cases import CASES, types_of
from small_zoo import small_model, small_sample

from jitseq import nn, optim
from jitseq.codegen.numba_cuda.compile import ENTRY, ptx
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.program import Kernel, Program
from jitseq.ir.program_text import kernel_text
from jitseq.ir.target import GridTarget
from jitseq.ir.trace import trace
from jitseq.ir.types import type_of
from jitseq.passes.grid.schedule import schedule
from jitseq.passes.pipeline import optimise
from jitseq.passes.step import feed_counts
from jitseq.runtime.step_program import Planner
from jitseq.runtime.training_checks import composed, trace_loss, trained


def graphs(what: str, names: list[str]) -> Iterator[Graph]:
    if what == "ops":
        yield from graphs_of_ops()
    for name in names:
        model = small_model(name)
        if what == "zoo":
            sample = small_sample(name, 2)
            yield feed_counts(trace(model, [type_of(sample)]).graph)[0]
        else:
            yield step_of(model.train(), small_sample(name, 2))


def graphs_of_ops() -> Iterator[Graph]:
    for case in CASES:
        op, example = case.values
        inputs = tuple(Value(type, f"x{i}") for i, type in enumerate(types_of(example)))
        output = Value(op.infer(*(v.type for v in inputs), **example.attrs), "out")
        node = Node(op.name, inputs, dict(example.attrs), (output,))
        yield Graph(inputs, (), (node,), (output,))


def step_of(model: nn.Module, x: np.ndarray) -> Graph:
    """A training step with dropout's keys, Adam, and a loss of labels, or of images
    where the model makes them."""
    optimizer = optim.Adam(model.parameters())
    made = model.eval()(x)
    model.train()
    loss: nn.Module = nn.MSELoss()
    inputs = [x, np.zeros_like(made)]
    if made.ndim == 2:
        loss, inputs[1] = nn.CrossEntropyLoss(), np.zeros(len(x), np.int64)
    traced = trace_loss(composed(model, loss), inputs, True)
    planner = Planner(traced, optimizer, trained(model, loss, optimizer))
    return planner.plan(False, True, {}, None).graph


def survey(
    program: Program, capability: tuple[int, int], known: set[str]
) -> Iterator[dict[str, object]]:
    """Facts of each kernel whose text was not met before."""
    fresh = [k for k in program.kernels if kernel_text(k) not in known]
    known.update(map(kernel_text, fresh))
    if not fresh:
        return
    kernels = set(fresh)
    chosen = [i for i, k in enumerate(program.kernels) if k in kernels]
    (segment,) = program.segments
    places = {index: at for at, index in enumerate(chosen)}
    calls = tuple(
        replace(call, kernel=places[call.kernel])
        for call in segment.calls
        if call.kernel in places
    )
    part = replace(
        program, kernels=tuple(fresh), segments=(replace(segment, calls=calls),)
    )
    for kernel, text in zip(fresh, ptx(part, capability), strict=True):
        yield facts(kernel, text)


def facts(kernel: Kernel, text: str) -> dict[str, object]:
    matched = ENTRY.search(text)
    return {
        "name": kernel.name,
        "entry": matched is not None,
        "arguments": text.split(")", 1)[0].count(".param .u64"),
        "buffers": len(kernel.buffers),
        "doubles": len(re.findall(r"\.f64", text)),
        "local": len(re.findall(r"\.local", text)),
        "calls": len(re.findall(r"^\s*call", text, re.M)),
        "divisions": len(re.findall(r"(?:div|rem)\.[su]64", text)),
    }


def main(what: str, *arguments: str) -> None:
    names = [a for a in arguments if not a[0].isdigit()]
    found = []
    for text in [a for a in arguments if a[0].isdigit()]:
        major, minor = map(int, text.split("."))
        known: set[str] = set()
        for graph in graphs(what, names):
            program = schedule(optimise(graph), GridTarget()).planned.program
            if program.kernels:
                found += survey(program, (major, minor), known)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Graphs on arrays, by grids of threads in the interpreter.

The sibling of `native_graph.interpreted`: a graph, an array for each input and each
param enter; the outputs leave in order.
"""

from __future__ import annotations

import numpy as np
from native_graph import (
    NONE,
    Arrays,
    Params,
    empty,
    in_order,
    unwritten,
    variables_of,
)

from jitseq.codegen.reference_grid import run
from jitseq.ir.graph import Graph
from jitseq.ir.target import GridTarget
from jitseq.passes.grid.schedule import GridSchedule, schedule
from jitseq.passes.pipeline import optimise
from jitseq.runtime.packing import evaluate_static, pack_all

SMALL = GridTarget(
    warp=4, threads=8, items=3, tile=(8, 4), thread_tile=(2, 2), depth=4, splits=3
)
"""Ragged everywhere: few elements already fill several blocks and parts."""

LARGE = GridTarget()


def gridded(
    graph: Graph,
    arrays: Arrays,
    params: Params,
    target: GridTarget,
    disabled: frozenset[str] = NONE,
) -> list[np.ndarray]:
    """By the interpreter of grids, which refuses races and what lies outside.

    Outputs and memory start as NaN.
    """
    planned = schedule(optimise(graph, disabled), target, disabled)
    return run_schedule(graph, planned, arrays, params)


def run_schedule(
    graph: Graph, scheduled: GridSchedule, arrays: Arrays, params: Params
) -> list[np.ndarray]:
    """The outputs of a schedule of the graph."""
    fused, planned = scheduled.fused, scheduled.planned
    program = planned.program
    by_name = {param.name: array for param, array in params.items()}
    known = evaluate_static(fused.graph, by_name, fused.static)
    packs = pack_all([(known[s.value], vars(s.pack)) for s in planned.packs])
    sizes = {len(a) for a, v in zip(arrays, graph.inputs) if v.type.has_batch}
    (images,) = sizes or {1}
    outputs = [empty(value.type, images) for value in scheduled.results]
    assert list(planned.variables) == variables_of(fused)
    places = [params[param].copy() for param in planned.variables]
    (image_bytes,) = program.batch_bytes
    scratch = [unwritten(image_bytes * images), unwritten(program.fixed_bytes)]
    context = [*map(np.copy, arrays), *outputs, *places, *packs, *scratch]
    assert len(context) == program.context_slots
    run(program, context, images)
    return in_order(graph, fused, outputs, places)

"""Graphs on arrays: by compiled code, by the interpreter, and by the ops' references.

A graph, an array for each input and each param enter; the outputs leave in order, as
arrays. What updates change leaves as the update's output. Nothing is taken from the
runtime's call paths but `Bound`, so that a graph may have inputs that no user's
function may have, and static and changing params side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.codegen.reference import run as interpret_program
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.interpret import Environment, evaluate
from jitseq.ir.op import get_op
from jitseq.ir.target import Target
from jitseq.ir.types import TensorType
from jitseq.ir.variable import EPOCH, Variable
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.pipeline import optimise, schedule
from jitseq.runtime.bound import Bound
from jitseq.runtime.executable import executable
from jitseq.runtime.packing import evaluate_static, pack_all

Arrays = Sequence[np.ndarray]
Params = Mapping[Value, np.ndarray]
NONE: frozenset[str] = frozenset()


class Nodes:
    """Appends nodes of inferred types."""

    def __init__(self, nodes: Sequence[Node] = ()) -> None:
        self.nodes = list(nodes)

    def __call__(self, op: str, *inputs: Value, **attrs: object) -> Value:
        """The first output of a new node."""
        types = get_op(op).infer(*(value.type for value in inputs), **attrs)
        types = types if isinstance(types, tuple) else (types,)
        outputs = tuple(map(Value, types))
        self.nodes.append(Node(op, inputs, attrs, outputs, "", len(self.nodes)))
        return outputs[0]


def by_references(graph: Graph, arrays: Arrays, params: Params) -> list[np.ndarray]:
    """What the graph means."""
    known: Environment = dict(zip(graph.inputs, arrays, strict=True)) | dict(params)
    with np.errstate(all="ignore"):
        evaluate(graph.nodes, known, graph.outputs)
    return [np.asarray(known[value]) for value in graph.outputs]


def compiled(
    graph: Graph,
    arrays: Arrays,
    params: Params,
    disabled: frozenset[str] = NONE,
    threads: int = 1,
    target: Target | None = None,
    calls: int = 1,
) -> list[np.ndarray]:
    """By native code; the last of several calls, each on the params as given."""
    fused = optimise(graph, disabled)
    code = executable(fused, target or selected_target(), disabled).code
    variables = {p.name: Variable(params[p]) for p in fused.graph.params}
    changed = {p.name for p in fused.changed.values()}
    static = {name: v for name, v in variables.items() if name not in changed}
    results = results_of(fused)
    types = [value.type for value in results]
    bound = Bound(fused, code, static, types, int(EPOCH[0]))
    inputs = [np.ascontiguousarray(array) for array in arrays]
    images = bound.batch(inputs)
    for _ in range(calls):
        places = [Variable(params[param]).numpy() for param in variables_of(fused)]
        outputs = bound.new_outputs(images)
        memory = [*inputs, *outputs, *places]
        bound.run([array.ctypes.data for array in memory], memory, images, threads)
    return in_order(graph, fused, outputs, places)


def interpreted(
    graph: Graph,
    arrays: Arrays,
    params: Params,
    machine: Target,
    disabled: frozenset[str] = NONE,
) -> list[np.ndarray]:
    """By the interpreter, which refuses what lies outside of a buffer.

    Outputs and memory of the whole batch start as NaN, like the arena.
    """
    fused = optimise(graph, disabled)
    planned = schedule(fused, machine, disabled).planned
    program = planned.program
    by_name = {param.name: array for param, array in params.items()}
    known = evaluate_static(fused.graph, by_name, fused.static)
    packs = pack_all([(known[s.value], vars(s.pack)) for s in planned.packs])
    sizes = {len(a) for a, v in zip(arrays, graph.inputs) if v.type.has_batch}
    (images,) = sizes or {1}
    outputs = [empty(value.type, images) for value in results_of(fused)]
    places = [params[param].copy() for param in variables_of(fused)]
    scratch = [unwritten(size * images + 64) for size in program.batch_bytes]
    fixed = np.zeros(program.fixed_bytes + 64, np.uint8)
    sums = unwritten(program.sums_bytes + 64)
    context = [*map(np.copy, arrays), *outputs, *places, *packs, *scratch, fixed, sums]
    assert len(context) == program.context_slots
    interpret_program(program, context, images)
    return in_order(graph, fused, outputs, places)


def unwritten(size: int) -> np.ndarray:
    return np.full(size, 0xFF, np.uint8)


def empty(type: TensorType, images: int) -> np.ndarray:
    shape = (images,) * type.has_batch + type.inner_shape
    fill = np.nan if type.dtype.startswith("float") else 0
    return np.full(shape, fill, type.dtype)


def variables_of(fused: FusedGraph) -> list[Value]:
    return list(dict.fromkeys(fused.changed.values()))


def results_of(fused: FusedGraph) -> list[Value]:
    return [value for value in fused.graph.outputs if value not in fused.changed]


def in_order(
    graph: Graph, fused: FusedGraph, results: Arrays, variables: Arrays
) -> list[np.ndarray]:
    """Results and variables as the outputs of the graph."""
    found = dict(zip(variables_of(fused), variables, strict=True))
    left = iter(results)
    outputs = [
        found[fused.changed[value]] if value in fused.changed else next(left)
        for value in fused.graph.outputs
    ]
    assert len(outputs) == len(graph.outputs)
    return outputs

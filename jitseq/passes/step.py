"""The graph of a training step: forward, loss, backward, and what changes in place.

A traced loss and a `Change` for each trained parameter enter; a graph whose first
output is the loss leaves. Invariant: each parameter, state array and buffer is changed
by one update, its last reader; nothing else is an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.ops.update import ASSIGN
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.autodiff import differentiate
from jitseq.passes.simplify import drop_dead, simplify

NORM_EPSILON = 1e-6
"""PyTorch's addition to the norm by which gradients are divided."""


@dataclass(frozen=True)
class Change:
    """``op(target, gradient of param, *states, numbers, **flags)``.

    The target is the parameter itself, or what gathers its gradients.
    """

    param: Value
    target: Value
    op: str
    states: tuple[Value, ...]
    numbers: Value | None
    flags: Mapping[str, bool]


def step_graph(
    graph: Graph,
    changes: Sequence[Change],
    assigned: Sequence[tuple[Value, Value]],
    waiting: Mapping[Value, Value],
    share: Value | None,
    clip_norm: float | None,
) -> Graph:
    """Append backward pass and updates to a loss.

    Args:
        graph: its first output is the loss.
        changes: what happens to the parameters.
        assigned: params of buffers, and the values among the outputs that they get.
        waiting: sums of gradients of earlier calls, by param; they become zero again.
        share: the factor [1] of this call's gradients where others wait.
        clip_norm: the largest norm of all gradients together.
    """
    graph = simplify(drop_dead(graph.replace(graph.nodes)))
    wrt = [change.param for change in changes]
    new_values = dict(zip((param for param, _ in assigned), graph.outputs[1:]))
    joint = differentiate(graph, wrt, of=graph.outputs[:1], seed=1.0)
    tail = _Tail(joint.graph)
    gradients = dict(zip(wrt, joint.gradients, strict=True))
    if share is not None:
        factor = tail.emit("reshape", share, shape=())
        gradients = {p: tail.emit("mul", g, factor) for p, g in gradients.items()}
    gradients = {
        p: tail.emit("add", g, waiting[p]) if p in waiting else g
        for p, g in gradients.items()
    }
    if clip_norm is not None:
        gradients = tail.clipped(gradients, clip_norm)
    for change in changes:
        numbers = () if change.numbers is None else (change.numbers,)
        inputs = (change.target, gradients[change.param], *change.states, *numbers)
        tail.change(change.op, inputs, **change.flags)
    for total in waiting.values():
        tail.change(ASSIGN, (total, tail.zeros(total.type)))
    for param, value in new_values.items():
        tail.change(ASSIGN, (param, value))
    fed = [share, *(change.numbers for change in changes)]
    extra = tuple(dict.fromkeys(value for value in fed if value is not None))
    states = (value for change in changes for value in change.states)
    targets = (change.target for change in changes)
    params = dict.fromkeys(
        (*graph.params, *targets, *states, *waiting.values(), *new_values)
    )
    return Graph(
        (*joint.graph.inputs, *extra),
        tuple(params),
        tuple(tail.nodes),
        (joint.graph.outputs[0], *tail.outputs),
    )


def with_updates(graph: Graph, assigned: Sequence[Value]) -> Graph:
    """Let params take the values of the last outputs, after everything has read them.

    Args:
        graph: its outputs are results, then as many new values as ``assigned`` has.
        assigned: params of the types of these values; the graph may not know them.
    """
    count = len(graph.outputs) - len(assigned)
    tail = _Tail(graph)
    results = [
        tail.emit("copy", value) if value in assigned else value
        for value in graph.outputs[:count]
    ]
    for param, value in zip(assigned, graph.outputs[count:], strict=True):
        tail.change(ASSIGN, (param, value))
    params = tuple(dict.fromkeys((*graph.params, *assigned)))
    outputs = (*results, *tail.outputs)
    return replace(graph, params=params, nodes=tuple(tail.nodes), outputs=outputs)


class _Tail:
    """Appends nodes to those of a joint graph."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = list(graph.nodes)
        self.outputs: list[Value] = []

    def emit(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        return self._add(op, inputs, attrs).output

    def change(self, op: str, inputs: tuple[Value, ...], **flags: bool) -> None:
        self.outputs += self._add(op, inputs, flags).outputs

    def _add(self, op: str, inputs: tuple[Value, ...], attrs: dict[str, Any]) -> Node:
        inferred = get_op(op).infer(*(value.type for value in inputs), **attrs)
        types = inferred if isinstance(inferred, tuple) else (inferred,)
        outputs = tuple(map(Value, types))
        self.nodes.append(Node(op, inputs, attrs, outputs, "", len(self.nodes)))
        return self.nodes[-1]

    def zeros(self, type: TensorType) -> Value:
        zero = self.emit("constant", value=0.0, dtype=type.dtype)
        return self.emit("broadcast", zero, shape=type.shape) if type.shape else zero

    def clipped(
        self, gradients: Mapping[Value, Value], max_norm: float
    ) -> dict[Value, Value]:
        """Gradients times ``min(1, max_norm / (norm + 1e-6))``."""
        squares = []
        for gradient in gradients.values():
            square = self.emit("mul", gradient, gradient)
            axes = tuple(range(square.type.ndim))
            if axes:
                square = self.emit("sum", square, dims=axes, keepdim=False)
            squares.append(square)
        total = reduce(lambda a, b: self.emit("add", a, b), squares)
        dtype = total.type.dtype

        def constant(value: float) -> Value:
            return self.emit("constant", value=value, dtype=dtype)

        norm = self.emit("add", self.emit("sqrt", total), constant(NORM_EPSILON))
        share = self.emit("div", constant(max_norm), norm)
        share = self.emit("minimum", share, constant(1.0))
        return {p: self.emit("mul", g, share) for p, g in gradients.items()}


@dataclass(frozen=True)
class Count:
    """An input of shape [] that holds ``factor`` times the batch size."""

    value: Value
    factor: int


def feed_counts(graph: Graph) -> tuple[Graph, tuple[Count, ...]]:
    """Numbers of elements become inputs, or constants where the batch size is known."""
    counts: dict[tuple[int, str], Count] = {}
    replaced: dict[Value, Value] = {}
    nodes = []
    for node in graph.nodes:
        if node.op != "element_count":
            given = (replaced.get(value, value) for value in node.inputs)
            nodes.append(node.with_inputs(given))
            continue
        factor = _factor(node)
        if not node.inputs[0].type.has_batch:
            attrs = {"value": float(factor), "dtype": node.output.type.dtype}
            nodes.append(replace(node, op="constant", inputs=(), attrs=attrs))
            continue
        key = (factor, node.output.type.dtype)
        if key not in counts:
            counts[key] = Count(
                replace(node.output, name=f"count{len(counts)}"), factor
            )
        replaced[node.output] = counts[key].value
    found = tuple(counts.values())
    graph = graph.replace(nodes, lambda value: replaced.get(value, value))
    inputs = (*graph.inputs, *(count.value for count in found))
    return replace(graph, inputs=inputs), found


def _factor(node: Node) -> int:
    """Elements counted for each image."""
    shape, axis = node.inputs[0].type.shape, node.attrs["axis"]
    factor = 1
    for i, extent in enumerate(shape):
        if extent is not BATCH and (axis is None or i != axis % len(shape)):
            factor *= extent
    return factor

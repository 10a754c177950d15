"""Where a model is observed: the outputs of its layers, and their gradients.

A traced target enters; a graph of forward and backward leaves, with a `Point` for each
value at which two backends are compared. Invariants: points stand in the order in
which they are computed, each value once, and whatever is computed between points
belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.trace import Traced
from jitseq.ir.types import FLOAT_DTYPES
from jitseq.passes.autodiff import differentiate
from jitseq.passes.simplify import drop_dead, simplify

OUTPUT = "output"


@dataclass(frozen=True)
class Point:
    """A value that is observed.

    ``path`` is the layer that computes it with ``ops``, empty for operations of the
    target itself; ``quantity`` is `OUTPUT` or says of what it is the gradient.
    ``sources`` are the values that are read to compute it: points before it, inputs,
    params and cotangents.
    """

    value: Value
    path: str
    ops: tuple[str, ...]
    quantity: str
    backward: bool
    sources: tuple[Value, ...]


@dataclass(frozen=True)
class Observed:
    """``graph`` has the inputs of the trace and ``cotangents``; its outputs are points.

    ``results`` and ``gradients`` are what a caller would get: the float results, and
    the gradients of float inputs and of trained parameters, by what they are called.
    """

    graph: Graph
    points: tuple[Point, ...]
    cotangents: tuple[Value, ...]
    results: tuple[Value, ...]
    gradients: Mapping[str, Value]


def observe(traced: Traced, trained: Mapping[str, str], gradients: bool) -> Observed:
    """The points of a trace.

    Args:
        trained: names for the user of the params whose gradients are wanted.
        gradients: whether there are points in the backward pass.

    Raises:
        UnsupportedError: an op on the way of a gradient has none.
    """
    graph = traced.graph
    results = tuple(v for v in traced.results if is_float(v))
    named = _layer_values(graph) | _new_values(traced)
    outputs = tuple(dict.fromkeys((*graph.outputs, *named)))
    graph = drop_dead(graph.replace(graph.nodes, outputs=outputs))
    if not gradients:
        points = _points(graph, named, set())
        outputs = tuple(point.value for point in points)
        return Observed(_returning(graph, outputs), points, (), results, {})
    wanted = _wanted(traced, trained)
    read = {v for n in _returning(graph, results).nodes for v in n.outputs}
    layers = {v: f"the output of {_shown(graph, v)}" for v in named if v in read}
    wrt = dict.fromkeys((*wanted, *layers))
    joint = differentiate(graph, tuple(wrt), of=results)
    given = {*joint.graph.inputs, *joint.graph.params}
    called = layers | wanted
    found: dict[Value, str] = {}
    for value, gradient in zip(joint.wrt, joint.gradients, strict=True):
        if gradient not in given and gradient not in named:
            found.setdefault(gradient, f"gradient of {called[value]}")
    backward = set(joint.graph.nodes[joint.forward :])
    points = _points(joint.graph, named | found, backward)
    by_value = dict(zip(joint.wrt, joint.gradients, strict=True))
    return Observed(
        _returning(joint.graph, [point.value for point in points]),
        points,
        joint.cotangents,
        results,
        {f"gradient of {name}": by_value[value] for value, name in wanted.items()},
    )


def plain_graph(traced: Traced, trained: Mapping[str, str], gradients: bool) -> Graph:
    """What a caller's own program computes: results, or gradients alone.

    Gradients are those of `Observed.gradients`, in order; the graph's last inputs are
    the cotangents.
    """
    outputs = tuple(v for v in traced.results if is_float(v))
    graph = simplify(_returning(traced.graph, outputs))
    if not gradients:
        return graph
    joint = differentiate(graph, tuple(_wanted(traced, trained)))
    return drop_dead(replace(joint.graph, outputs=joint.gradients))


def is_float(value: Value) -> bool:
    return value.type.dtype in FLOAT_DTYPES


def _wanted(traced: Traced, trained: Mapping[str, str]) -> dict[Value, str]:
    """The inputs and params whose gradients a caller gets, and what they are called."""
    own = traced.graph.inputs[: len(traced.graph.inputs) - len(traced.feeds)]
    found = {value: f"input {value.name}" for value in own if is_float(value)}
    params = (p for p in traced.graph.params if p.name in trained)
    return found | {param: trained[param.name] for param in params}


def _layer_values(graph: Graph) -> dict[Value, str]:
    """Float outputs of layers without parts, and of operations outside of those."""
    paths = {node.path for node in graph.nodes} | set(graph.layer_outputs)
    parents = {parent for path in paths for parent in _parents(path)}
    if "" not in graph.layer_outputs:
        parents.add("")  # a function, and no layer
    leaves = {v for p, v in graph.layer_outputs.items() if p not in parents}
    readers = graph.consumers()
    results = set(graph.outputs)

    def leaves_its_layer(node: Node, value: Value) -> bool:
        others = any(r.path != node.path for r in readers.get(value, ()))
        return node.path in parents or others or value in leaves or value in results

    return {
        value: OUTPUT
        for node in graph.nodes
        for value in node.outputs
        if is_float(value) and node.inputs and leaves_its_layer(node, value)
    }


def _parents(path: str) -> Iterable[str]:
    """The paths of all layers around one, and the target itself."""
    parts = path.split(".") if path else []
    return (".".join(parts[:count]) for count in range(len(parts)))


def _new_values(traced: Traced) -> dict[Value, str]:
    """What the call assigns to buffers."""
    names = {id(variable): name for name, variable in traced.variables.items()}
    produced = {value for node in traced.graph.nodes for value in node.outputs}
    return {
        value: f"new value of {names.get(id(variable), 'a buffer')}"
        for variable, value in traced.updates
        if is_float(value) and value in produced
    }


def _shown(graph: Graph, value: Value) -> str:
    node = graph.producers()[value]
    return node.path or node.op


def _points(
    graph: Graph, named: Mapping[Value, str], backward: set[Node]
) -> tuple[Point, ...]:
    """The named values, each with the nodes between it and the points before."""
    producers = graph.producers()
    points = []
    for node in graph.nodes:
        for value in node.outputs:
            if value not in named:
                continue
            nodes, sources = _between(value, producers, named)
            if node in backward:
                nodes = [each for each in nodes if each in backward]
            paths = dict.fromkeys(each.path for each in nodes)
            points.append(
                Point(
                    value,
                    ", ".join(path for path in paths if path),
                    tuple(each.op for each in nodes if each.inputs),
                    named[value],
                    node in backward,
                    tuple(sources),
                )
            )
    return tuple(points)


def _between(
    value: Value, producers: Mapping[Value, Node], named: Mapping[Value, str]
) -> tuple[list[Node], list[Value]]:
    """The nodes that compute a value from points before it, and what they read."""
    nodes: dict[Node, None] = {producers[value]: None}
    sources: dict[Value, None] = {}
    waiting = [*producers[value].inputs]
    while waiting:
        read = waiting.pop()
        node = producers.get(read)
        if node is None or read in named:
            sources[read] = None
        elif node not in nodes:
            nodes[node] = None
            waiting += node.inputs
    return sorted(nodes, key=lambda node: node.place), list(sources)


def _returning(graph: Graph, outputs: Sequence[Value]) -> Graph:
    return drop_dead(graph.replace(graph.nodes, outputs=tuple(outputs)))

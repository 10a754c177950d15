"""Simplification: fewer nodes, same values.

One sweep forward rewrites each node (identities, cancelling reshapes, monotone ops
moved behind max-pooling, common subexpressions), then dead nodes are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jitseq.errors import NeedsStaticBatch
from jitseq.ir.compute import Pointwise
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.text import attr_text


def simplify(graph: Graph) -> Graph:
    """Sweep until nothing changes: moving one op can expose another."""
    while True:
        swept = drop_dead(_sweep(graph))
        if len(swept.nodes) == len(graph.nodes) and _ops(swept) == _ops(graph):
            return swept
        graph = swept


def _ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def drop_dead(graph: Graph) -> Graph:
    """Only nodes on which an output depends."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        kept.append(node)
        needed.update(node.inputs)
    return graph.replace(reversed(kept))


class _Sweep:
    def __init__(self, graph: Graph) -> None:
        self.outputs = set(graph.outputs)
        self.readers = graph.consumers()
        self.replaced: dict[Value, Value] = {}
        self.made: dict[Value, Node] = {}
        self.nodes: list[Node] = []
        self.seen: dict[object, Value] = {}

    def now(self, value: Value) -> Value:
        return self.replaced.get(value, value)

    def add(self, node: Node) -> None:
        """Keep ``node`` unless an equal one came before."""
        if len(node.outputs) > 1:
            self.nodes.append(node)
            return
        key = (
            node.op,
            node.inputs,
            tuple(sorted((k, attr_text(v)) for k, v in node.attrs.items())),
        )
        if key in self.seen:
            self.replaced[node.output] = self.seen[key]
            return
        self.seen[key] = node.output
        self.nodes.append(node)
        self.made[node.output] = node

    def only_reader(self, value: Value) -> bool:
        return len(self.readers.get(value, ())) == 1 and value not in self.outputs


def _sweep(graph: Graph) -> Graph:
    sweep = _Sweep(graph)
    for node in graph.nodes:
        node = node.with_inputs(map(sweep.now, node.inputs))
        if not any(rule(sweep, node) for rule in RULES):
            sweep.add(node)
    return graph.replace(sweep.nodes, sweep.now)


def _identity(sweep: _Sweep, node: Node) -> bool:
    """Reshapes, permutations and pads that change nothing."""
    if node.op not in ("reshape", "permute", "pad", "broadcast", "slice"):
        return False
    (x,) = node.inputs
    if node.output.type != x.type:
        return False
    if node.op == "permute" and tuple(node.attrs["dims"]) != tuple(range(x.type.ndim)):
        return False
    sweep.replaced[node.output] = x
    return True


def _reshape_of_reshape(sweep: _Sweep, node: Node) -> bool:
    """Only the last shape counts."""
    if node.op != "reshape":
        return False
    producer = sweep.made.get(node.inputs[0])
    if producer is None or producer.op != "reshape":
        return False
    (source,) = producer.inputs
    if source.type == node.output.type:
        sweep.replaced[node.output] = source
    else:
        sweep.add(node.with_inputs([source]))
    return True


def _reshape_behind_pointwise(sweep: _Sweep, node: Node) -> bool:
    """f(reshape(x)) = reshape(f(x)) for unary pointwise f: reshapes then cancel."""
    if len(node.inputs) != 1 or not isinstance(get_op(node.op).compute, Pointwise):
        return False
    producer = sweep.made.get(node.inputs[0])
    if (
        producer is None
        or producer.op != "reshape"
        or not sweep.only_reader(node.inputs[0])
    ):
        return False
    (source,) = producer.inputs
    if source.type.ndim <= node.output.type.ndim:
        return False
    moved = replace(node, inputs=(source,), outputs=(Value(source.type),))
    sweep.add(moved)
    made = sweep.now(moved.output)
    sweep.add(replace(producer, inputs=(made,), outputs=node.outputs))
    return True


def _monotone_behind_max_pool(sweep: _Sweep, node: Node) -> bool:
    """max_pool(f(x)) = f(max_pool(x)) for non-decreasing f: fewer evaluations."""
    if node.op not in ("max_pool2d", "adaptive_max_pool2d"):
        return False
    producer = sweep.made.get(node.inputs[0])
    if producer is None or len(producer.inputs) != 1:
        return False
    monotone = get_op(producer.op).monotone
    if monotone is None or not monotone(producer.attrs):
        return False
    if not sweep.only_reader(node.inputs[0]):
        return False
    outputs = (Value(node.output.type),)
    pooled = replace(node, inputs=producer.inputs, outputs=outputs)
    sweep.add(pooled)
    made = sweep.now(pooled.output)
    sweep.add(replace(producer, inputs=(made,), outputs=node.outputs))
    return True


BROADCASTS = ("broadcast", "broadcast_like")


def _broadcast_behind_pointwise(sweep: _Sweep, node: Node) -> bool:
    """f(broadcast(x)) = broadcast(f(x)), and f(broadcast(x), y) = f(x, y).

    The second only where y makes the shape of the result.
    """
    if not isinstance(get_op(node.op).compute, Pointwise):
        return False
    spread = [sweep.made.get(value) for value in node.inputs]
    if not any(made is not None and made.op in BROADCASTS for made in spread):
        return False
    inputs = tuple(
        made.inputs[0] if made is not None and made.op in BROADCASTS else value
        for made, value in zip(spread, node.inputs)
    )
    try:
        type = get_op(node.op).infer(*(v.type for v in inputs), **node.attrs)
    except NeedsStaticBatch:
        return False
    if type == node.output.type:
        sweep.add(node.with_inputs(inputs))
        return True
    if len(node.inputs) > 1 or spread[0] is None:
        return False
    moved = replace(node, inputs=inputs, outputs=(Value(type),))
    sweep.add(moved)
    made = sweep.now(moved.output)
    others = spread[0].inputs[1:]
    sweep.add(replace(spread[0], inputs=(made, *others), outputs=node.outputs))
    return True


RULES: tuple[Callable[[_Sweep, Node], bool], ...] = (
    _identity,
    _reshape_of_reshape,
    _reshape_behind_pointwise,
    _broadcast_behind_pointwise,
    _monotone_behind_max_pool,
)

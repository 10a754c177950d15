"""Cheap pointwise values are computed again for each reader instead of being stored.

``x - mean`` of a batch-norm is read by a sum in the forward pass and by one in the
backward pass: stored, it would cross the phases between them; computed again from x,
which is stored anyway, it costs one operation in registers. A node qualifies when it
is pointwise without transcendental functions, has one operand of its own type, which
other nodes read too, and all its readers are pointwise or sums.
"""

from __future__ import annotations

from dataclasses import replace

from jitseq.ir.compute import Pointwise
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.scalar import uses_functions


def rematerialise(graph: Graph) -> Graph:
    """Every reader of such a node but the first gets a copy of it."""
    readers = graph.consumers()
    producers = graph.producers()
    copied: dict[tuple[Node, Value], Value] = {}
    nodes: list[Node] = []
    outputs = set(graph.outputs)
    for node in graph.nodes:
        inputs = []
        for value in node.inputs:
            producer = producers.get(value)
            if producer is None or not _qualifies(producer, readers, outputs):
                inputs.append(value)
                continue
            if readers[value][0] is not node and (node, value) not in copied:
                copy = replace(producer, outputs=(Value(value.type),))
                nodes.append(copy)
                copied[(node, value)] = copy.output
            inputs.append(copied.get((node, value), value))
        nodes.append(node.with_inputs(inputs))
    return graph.replace(nodes)


def _qualifies(
    node: Node, readers: dict[Value, list[Node]], outputs: set[Value]
) -> bool:
    compute = get_op(node.op).compute
    if not isinstance(compute, Pointwise) or not node.output.type.has_batch:
        return False
    value = node.output
    if len(readers.get(value, ())) < 2 or value in outputs:
        return False
    full = {x for x in node.inputs if x.type == value.type}
    shared = len(full) == 1 and len(readers[next(iter(full))]) > 1
    if not shared or uses_functions(compute.expr, len(node.inputs), node.attrs):
        return False
    return all(_computes(reader) for reader in readers[value])


def _computes(reader: Node) -> bool:
    record = get_op(reader.op).compute
    return isinstance(record, Pointwise) or reader.op == "channel_sum"

"""Runs a Graph with the ops' NumPy references: the definition of what it computes.

Values and their arrays enter in an environment, which `evaluate` extends node by node.
Invariant: an array is dropped after its last reader unless it is asked for, so memory
is that of the live values; inputs are never written to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jitseq.errors import JitseqError
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op

Environment = dict[Value, np.ndarray]


def interpret(
    graph: Graph, inputs: Sequence[np.ndarray], params: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The graph's outputs.

    Args:
        graph: every op has a reference.
        inputs: one array for each of the graph's inputs, of its dtype and shape; a
            symbolic batch may have any extent.
        params: arrays by the names of the graph's params.

    Raises:
        JitseqError: a reference refuses the values, such as a label out of range.
    """
    known: Environment = dict(zip(graph.inputs, inputs, strict=True))
    known.update((param, params[param.name]) for param in graph.params)
    evaluate(graph.nodes, known, graph.outputs)
    return [known[value] for value in graph.outputs]


def evaluate(nodes: Sequence[Node], known: Environment, keep: Iterable[Value]) -> None:
    """Add the outputs of ``nodes`` to ``known``; of these, only ``keep`` stay.

    Values that were known before stay too.
    """
    last = {value: node for node in nodes for value in node.inputs}
    protected = {*keep, *known}
    for node in nodes:
        results = compute(node, [known[value] for value in node.inputs])
        known.update(zip(node.outputs, results, strict=True))
        finished = (
            value for value in dict.fromkeys(node.inputs) if last[value] is node
        )
        for value in (*finished, *node.outputs):
            unread = value not in last or last[value] is node
            if unread and value not in protected:
                del known[value]


def compute(node: Node, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The reference's results; an error gains the op and its layer as a note."""
    try:
        result = get_op(node.op).reference(*inputs, **node.attrs)
        return result if isinstance(result, tuple) else (result,)
    except JitseqError as error:
        place = f" of layer {node.path}" if node.path else ""
        error.add_note(f"while computing {node.op}{place}")
        raise

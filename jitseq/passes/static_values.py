"""Which values depend on parameters only.

They are computed once for each version of the parameters (by the ops' references),
so folding batch-norm into weights or reshaping a bias costs a call nothing.
"""

from __future__ import annotations

from jitseq.ir.graph import Graph, Value


def static_values(graph: Graph) -> frozenset[Value]:
    """Params, and outputs of nodes all of whose inputs are static."""
    static: set[Value] = set(graph.params)
    for node in graph.nodes:
        if all(value in static for value in node.inputs):
            static.update(node.outputs)
    return frozenset(static)

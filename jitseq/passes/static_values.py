"""Which values depend on parameters only.

They are computed once for each version of the parameters (by the ops' references),
so folding batch-norm into weights or reshaping a bias costs a call nothing. What the
graph itself changes in place, a step's parameters, is not static.
"""

from __future__ import annotations

from jitseq.ir.graph import Graph, Value
from jitseq.ir.ops.update import changed_in_place


def static_values(graph: Graph) -> frozenset[Value]:
    """Params that stay, and outputs of nodes all of whose inputs are static."""
    static = set(graph.params) - set(changed_in_place(graph).values())
    for node in graph.nodes:
        if all(value in static for value in node.inputs):
            static.update(node.outputs)
    return frozenset(static)

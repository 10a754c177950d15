"""What a traced function needs for a compiled program.

A trace enters; nothing leaves, or a `JitseqError` for what layers let through but
kernels do not compute. Invariant: integers reach a program as class labels only.
"""

from __future__ import annotations

from jitseq.errors import DtypeError, UnsupportedError
from jitseq.ir.graph import Graph, Value
from jitseq.ir.trace import Traced
from jitseq.ir.types import FLOAT_DTYPES
from jitseq.runtime.training_checks import SAME_ELEMENTS


def require_compilable(traced: Traced) -> None:
    """Raise `JitseqError` for what layers let through but kernels do not compute."""
    graph = traced.graph
    for value in graph.values():
        if 0 in value.type.inner_shape:
            raise UnsupportedError(
                "a compiled program with a value of no elements",
                facts={"value": value.type},
                hint='only the batch may have size 0; use backend="eager"',
            )
    own = graph.inputs[: len(graph.inputs) - len(traced.feeds)]
    inputs = [value for value in own if not _only_labels(graph, value)]
    for what, values in (("input", inputs), ("result", traced.results)):
        for value in values:
            if value.type.dtype not in FLOAT_DTYPES:
                raise DtypeError(
                    f"compiled programs take and give float32 and float64, "
                    f"got {value.type.dtype}",
                    facts={what: value.type},
                    hint="convert it, for example x.astype(np.float32), or leave this "
                    "part eager; integers are class labels for a loss only",
                )


def _only_labels(graph: Graph, value: Value) -> bool:
    """Whether ``value`` is read, and as class labels only."""
    readers = graph.consumers().get(value, [])
    if value in graph.outputs or not readers:
        return False
    return all(
        node.op == "labels"
        or (node.op in SAME_ELEMENTS and _only_labels(graph, node.output))
        for node in readers
    )

"""The graph's invariants: a Graph in, `VerifyError` out when a pass has broken one.

Every value is defined once and before its use, every type is what its op infers,
every param has a name of its own, and the symbolic batch stands in dimension 0 only.
"""

from __future__ import annotations

from typing import NoReturn

from jitseq.errors import JitseqError, NeedsStaticBatch
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.text import node_text, value_names
from jitseq.ir.types import BATCH, TensorType


class VerifyError(AssertionError):
    """A graph breaks an invariant: a mistake in jitseq, never in the user's model."""


def verify(graph: Graph) -> None:
    """Raise `VerifyError` naming the first broken rule and the node that breaks it."""
    defined = _signature(graph)
    external = frozenset(defined)
    for node in graph.nodes:
        for position, value in enumerate(node.inputs):
            if value not in defined:
                _fail(graph, f"input {position} is used before it is defined", node)
        for value in node.outputs:
            if value in external:
                _fail(graph, "an output is an input or param of the graph", node)
            if value in defined:
                _fail(graph, "an output is defined twice", node)
            defined.add(value)
        _check_types(graph, node)
    if not graph.outputs:
        _fail(graph, "the graph has no outputs")
    for position, value in enumerate(graph.outputs):
        if value not in defined:
            _fail(graph, f"output {position} of the graph is not defined")


def _signature(graph: Graph) -> set[Value]:
    """The values that exist before the first node."""
    external = (*graph.inputs, *graph.params)
    if len(set(external)) < len(external):
        _fail(graph, "a value is an input or param of the graph twice")
    names = [param.name for param in graph.params]
    for name in names:
        if names.count(name) > 1:
            _fail(graph, f"two params have the name {name!r}")
    for value in external:
        if _misplaced_batch(value.type):
            _fail(graph, f"the batch is not in dimension 0 of {value}")
    return set(external)


def _check_types(graph: Graph, node: Node) -> None:
    types = [value.type for value in node.inputs]
    try:
        inferred = get_op(node.op).infer(*types, **node.attrs)
    except (JitseqError, NeedsStaticBatch, TypeError) as error:
        reason = str(error) or type(error).__name__
        _fail(graph, f"type inference refuses the node: {reason}", node, error)
    recorded = tuple(value.type for value in node.outputs)
    if recorded != (inferred if isinstance(inferred, tuple) else (inferred,)):
        _fail(graph, f"{node.op} infers the type {inferred}", node)


def _misplaced_batch(type: TensorType) -> bool:
    return any(dim is BATCH for dim in type.shape[1:])


def _fail(
    graph: Graph, rule: str, node: Node | None = None, cause: Exception | None = None
) -> NoReturn:
    if node is None:
        raise VerifyError(rule) from cause
    undefined = {value: "%undefined" for value in node.inputs}
    names = undefined | value_names(graph)
    raise VerifyError(f"{rule}\n  {node_text(node, names)}") from cause

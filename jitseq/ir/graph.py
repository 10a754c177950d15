"""Graph: tensors in single-assignment form, one flat tuple of nodes.

Grammar::

    graph  = inputs, params, nodes, outputs
    node   = outputs ":" types "=" op "(" inputs ")" "{" attrs "}" "@" layer path
    value  = an input, a param, or an output of one node; compared by identity

Invariant: a graph is immutable; every value used by a node is an input, a param, or
an output of an earlier node. `verify` checks it, and that types are what ops infer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jitseq.ir.types import TensorType

Attrs = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor. ``name`` is a hint for printing; params are bound by it."""

    type: TensorType
    name: str = ""

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, eq=False)
class Node:
    """One application of an op.

    ``path`` is the layer that it came from, ``place`` its position in the traced
    function: passes move nodes, reports list them as the user wrote them.
    """

    op: str
    inputs: tuple[Value, ...]
    attrs: Attrs
    outputs: tuple[Value, ...]
    path: str = ""
    place: int = 0

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    def with_inputs(self, inputs: Iterable[Value]) -> Node:
        return replace(self, inputs=tuple(inputs))


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced function: ``inputs`` are call arguments, ``params`` named variables."""

    inputs: tuple[Value, ...]
    params: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    layer_outputs: Mapping[str, Value] = field(default_factory=dict)
    """The value that each layer returned, by path, where it still exists."""

    def producers(self) -> dict[Value, Node]:
        """The node that computes each value; inputs and params have none."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """Nodes that read each value, once per reading node."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(node)
        return readers

    def values(self) -> Iterator[Value]:
        """Inputs, params, then what nodes compute, in order."""
        yield from self.inputs
        yield from self.params
        for node in self.nodes:
            yield from node.outputs

    def replace(
        self,
        nodes: Iterable[Node],
        substitute: Callable[[Value], Value] = lambda value: value,
        outputs: tuple[Value, ...] | None = None,
    ) -> Graph:
        """The same inputs and params with other nodes; unused params are dropped."""
        nodes = tuple(nodes)
        outputs = tuple(map(substitute, self.outputs)) if outputs is None else outputs
        used = {value for node in nodes for value in node.inputs} | set(outputs)
        alive = used | set(self.inputs) | {v for node in nodes for v in node.outputs}
        layer_outputs = {
            path: substitute(value)
            for path, value in self.layer_outputs.items()
            if substitute(value) in alive
        }
        params = tuple(param for param in self.params if param in used)
        return Graph(self.inputs, params, nodes, outputs, layer_outputs)

    def __str__(self) -> str:
        from jitseq.ir.text import graph_text

        return graph_text(self)

    __repr__ = __str__

    # displays, imported when they are asked for

    def to_dot(self) -> str:
        """The graph in the language of Graphviz."""
        from jitseq.display.export import graph_dot

        return graph_dot(self)

    def to_json(self) -> str:
        """The graph as JSON, by the schema in ``docs/displays.md``."""
        from jitseq.display.export import graph_json

        return graph_json(self)

    @staticmethod
    def from_json(source: str) -> Graph:
        """The graph that `to_json` wrote; raises `JitseqError` for other JSON."""
        from jitseq.display.export import graph_from_json

        return graph_from_json(source)

    def to_svg(self, path: str | Path | None = None) -> str:
        """The nodes that are no function of params alone, also written to ``path``."""
        from jitseq.display.drawing import picture_of_graph

        text = picture_of_graph(self).svg(standalone=True)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _repr_html_(self) -> str:
        from jitseq.display.drawing import graph_html

        return graph_html(self)

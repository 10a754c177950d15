"""A fusion group: the nodes that one kernel computes.

Shape of a group: an anchor (contraction, window, reduction or movement; none for a
purely pointwise group), pointwise nodes on its result, a pooling window, and
pointwise nodes on the pooled value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jitseq.ir.compute import (
    Contraction,
    Pointwise,
    Update,
    WeightGradient,
    Window,
)
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op


def compute_of(node: Node) -> object:
    """How a node computes: `Pointwise`, or the record for its types and attributes."""
    compute = get_op(node.op).compute
    if isinstance(compute, Pointwise | Update) or compute is None:
        return compute
    return compute(tuple(value.type for value in node.inputs), dict(node.attrs))


def generated_values(graph: Graph) -> dict[Value, Value]:
    """Random numbers that only pointwise nodes read, and the key of each."""
    readers = graph.consumers()
    found = {}
    for node in graph.nodes:
        read = readers.get(node.outputs[0], ())
        inline = all(isinstance(get_op(r.op).compute, Pointwise) for r in read)
        if node.op == "random_uniform" and inline and node.output not in graph.outputs:
            found[node.output] = node.inputs[0]
    return found


@dataclass(frozen=True)
class Group:
    """Nodes in order: anchor, ``inner`` pointwise, ``pool``, ``outer`` pointwise.

    ``prologue`` are pointwise nodes that make what a sum reads. ``companions`` share
    what the kernel has in registers and have outputs of their own: the index of a
    maximum's window, the bias gradient beside a weight gradient.
    """

    anchor: Node | None
    inner: tuple[Node, ...] = ()
    pool: Node | None = None
    outer: tuple[Node, ...] = ()
    companions: tuple[Node, ...] = ()
    prologue: tuple[Node, ...] = ()

    @property
    def chain(self) -> tuple[Node, ...]:
        """The nodes that lead to the group's main output."""
        anchor = (self.anchor,) if self.anchor else ()
        pool = (self.pool,) if self.pool else ()
        return (*self.prologue, *anchor, *self.inner, *pool, *self.outer)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (*self.chain, *self.companions)

    @property
    def ops(self) -> tuple[str, ...]:
        """The ops in the order of the traced function."""
        return tuple(n.op for n in sorted(self.nodes, key=lambda node: node.place))

    @property
    def output(self) -> Value:
        """The main output."""
        return self.chain[-1].outputs[0]

    @property
    def outputs(self) -> tuple[Value, ...]:
        """All that the kernel writes."""
        others = (node.output for node in self.companions)
        return (*self.chain[-1].outputs, *others)

    @property
    def anchor_output(self) -> Value:
        assert self.anchor is not None
        return self.anchor.output

    @property
    def pooled_output(self) -> Value:
        """What the outer chain starts from."""
        if self.pool:
            return self.pool.output
        return (self.inner or (self.anchor,))[-1].output  # type: ignore[union-attr]

    @property
    def pool_window(self) -> tuple[int, int]:
        if self.pool is None:
            return (1, 1)
        window = compute_of(self.pool)
        assert isinstance(window, Window)
        rows, columns = window.rows.uniform, window.cols.uniform
        assert rows and columns
        return rows[0], columns[0]

    @property
    def pool_kind(self) -> str:
        window = compute_of(self.pool) if self.pool else None
        assert isinstance(window, Window)
        return window.kind

    @property
    def pool_divisor(self) -> int:
        window = compute_of(self.pool) if self.pool else None
        assert isinstance(window, Window)
        return window.divisor or window.rows.divisor[0] * window.cols.divisor[0]

    @property
    def external_inputs(self) -> tuple[Value, ...]:
        """Values that the group reads but does not produce, each once, in order."""
        made = {value for node in self.nodes for value in node.outputs}
        read = (value for node in self.nodes for value in node.inputs)
        return tuple(dict.fromkeys(value for value in read if value not in made))

    def reading(self, replaced: Mapping[Value, Value]) -> Group:
        """The same nodes on other inputs."""

        def node(node: Node) -> Node:
            return node.with_inputs(replaced.get(v, v) for v in node.inputs)

        return Group(
            node(self.anchor) if self.anchor else None,
            tuple(map(node, self.inner)),
            node(self.pool) if self.pool else None,
            tuple(map(node, self.outer)),
            tuple(map(node, self.companions)),
            tuple(map(node, self.prologue)),
        )

    @property
    def accumulates(self) -> bool:
        """Whether the kernel adds to its outputs, which were zero at first."""
        if self.output.type.has_batch or self.anchor is None:
            return False
        if isinstance(compute_of(self.anchor), WeightGradient):
            return True
        return any(value.type.has_batch for value in self.anchor.inputs)

    @property
    def path(self) -> str:
        return self.nodes[0].path

    def extended(self, node: Node) -> Group:
        """With one more pointwise node at its end."""
        if self.pool is None:
            return replace(self, inner=(*self.inner, node))
        return replace(self, outer=(*self.outer, node))

    def pooled(self, node: Node) -> Group:
        return replace(self, pool=node)

    def summed(self, node: Node) -> Group:
        """A purely pointwise group with a sum at its end."""
        return Group(node, prologue=self.inner)

    def merged(self, other: Group) -> Group:
        """With the nodes of a purely pointwise group before its next node."""
        if self.pool is None:
            return replace(self, inner=(*self.inner, *other.inner))
        return replace(self, outer=(*self.outer, *other.inner))

    def accompanied(self, node: Node) -> Group:
        """With a companion."""
        return replace(self, companions=(*self.companions, node))


@dataclass(frozen=True)
class Refusal:
    """A producer and consumer that stay apart, and why."""

    producer: str
    consumer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.producer} -> {self.consumer}: {self.reason}"


@dataclass(frozen=True)
class FusedGraph:
    """A graph whose nodes are partitioned into groups, in execution order.

    ``static`` values depend on parameters only: they are computed once for each
    version of the parameters, not by kernels. ``changed`` maps outputs of updates to
    the params whose memory they take. ``generated`` values are random numbers that
    their readers compute; they map to the keys.
    """

    graph: Graph
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    static: frozenset[Value]
    changed: Mapping[Value, Value]
    generated: Mapping[Value, Value]

    @property
    def packed_values(self) -> frozenset[Value]:
        """What kernels read in packed form: static values, and changing params."""
        return self.static | frozenset(self.changed.values())

    @property
    def batched(self) -> bool:
        """Whether the batch size is a run-time number."""
        return any(value.type.has_batch for value in self.graph.inputs)

    def __str__(self) -> str:
        lines = []
        for group in self.groups:
            lines.append(f"kernel {' + '.join(group.ops):<44}  # {group.path}")
        lines += [f"apart  {refusal}" for refusal in self.refusals]
        return "\n".join(lines)


def is_linear(record: Contraction) -> bool:
    """Whether every leading axis is batch, and there is one tap."""
    return record.weight_axes in ("oi", "io")


def is_depthwise(record: Contraction) -> bool:
    """One input and one output channel a group: vectors run along the groups."""
    return (
        record.groups > 1 and record.groups == record.in_channels == record.out_channels
    )

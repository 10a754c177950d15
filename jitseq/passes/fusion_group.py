"""A fusion group: the nodes that one kernel computes.

Shape of a group: an anchor (contraction, window, reduction or movement; none for a
purely pointwise group), pointwise nodes on its result, a pooling window, and
pointwise nodes on the pooled value.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitseq.ir.compute import Contraction, Pointwise, Window
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op


def compute_of(node: Node) -> object:
    """How a node computes: `Pointwise`, or the record for its types and attributes."""
    compute = get_op(node.op).compute
    if isinstance(compute, Pointwise) or compute is None:
        return compute
    return compute(tuple(value.type for value in node.inputs), dict(node.attrs))


@dataclass(frozen=True)
class Group:
    """Nodes in order: anchor, ``inner`` pointwise, ``pool``, ``outer`` pointwise."""

    anchor: Node | None
    inner: tuple[Node, ...] = ()
    pool: Node | None = None
    outer: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        anchor = (self.anchor,) if self.anchor else ()
        pool = (self.pool,) if self.pool else ()
        return (*anchor, *self.inner, *pool, *self.outer)

    @property
    def ops(self) -> tuple[str, ...]:
        """The ops in the order of the traced function."""
        return tuple(n.op for n in sorted(self.nodes, key=lambda node: node.place))

    @property
    def output(self) -> Value:
        return self.nodes[-1].output

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

    @property
    def path(self) -> str:
        return self.nodes[0].path

    def extended(self, node: Node) -> Group:
        """With one more pointwise node at its end."""
        if self.pool is None:
            return Group(self.anchor, (*self.inner, node))
        return Group(self.anchor, self.inner, self.pool, (*self.outer, node))

    def pooled(self, node: Node) -> Group:
        return Group(self.anchor, self.inner, node)


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
    version of the parameters, not by kernels.
    """

    graph: Graph
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    static: frozenset[Value]

    def __str__(self) -> str:
        lines = []
        for group in self.groups:
            lines.append(f"kernel {' + '.join(group.ops):<44}  # {group.path}")
        lines += [f"apart  {refusal}" for refusal in self.refusals]
        return "\n".join(lines)


def is_depthwise(record: Contraction) -> bool:
    """One input and one output channel a group: vectors run along the groups."""
    return (
        record.groups > 1 and record.groups == record.in_channels == record.out_channels
    )

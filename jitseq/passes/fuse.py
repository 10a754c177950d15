"""Fusion: partition a graph's nodes into kernels, and say why pairs stay apart.

A node joins the group that produces its input when it reads each element at most
once and is that value's only reader: pointwise nodes ride on whatever comes before,
in registers; a non-overlapping pooling window joins a convolution. A refusal is
recorded for every other pair of producer and consumer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from jitseq.ir.compute import (
    Contraction,
    Movement,
    Pointwise,
    Reduction,
    Update,
    WeightGradient,
    Window,
    WindowGradient,
    WindowIndex,
)
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.ops.update import changed_in_place
from jitseq.ir.scalar import uses_functions
from jitseq.passes.fusion_group import (
    FusedGraph,
    Group,
    Refusal,
    compute_of,
    generated_values,
    is_depthwise,
    is_linear,
)

POOL_OUTPUTS = 16
"""Conv outputs of one pooling window that fit the registers of a tile."""


def fuse(graph: Graph, static: frozenset[Value], enabled: bool = True) -> FusedGraph:
    """Groups in execution order: a group runs where its last node stood."""
    generated = generated_values(graph)
    known = static | generated.keys()
    dynamic = [node for node in graph.nodes if node.outputs[0] not in known]
    fuser = _Fuser(graph, dynamic, enabled)
    for node in dynamic:
        fuser.place(node)
    position = {node: i for i, node in enumerate(dynamic)}
    groups = sorted(fuser.groups.values(), key=lambda g: position[g.chain[-1]])
    refusals = tuple(fuser.refusals)
    changed = changed_in_place(graph)
    return FusedGraph(graph, tuple(groups), refusals, static, changed, generated)


FEW_CHANNELS = 8
"""Output channels of a convolution up to which functions such as tanh run as a kernel
of their own, on full vectors (lenet5's first layer: 7.1 to 5 ns a pixel)."""


class _Fuser:
    def __init__(self, graph: Graph, nodes: list[Node], enabled: bool) -> None:
        self.groups: dict[Value, Group] = {}
        """Each group by the value it produces so far."""
        self.refusals: list[Refusal] = []
        self.enabled = enabled
        self.outputs = set(graph.outputs)
        self.readers: Mapping[Value, list[Node]] = _readers(nodes)

    def place(self, node: Node) -> None:
        """Join ``node`` to a group of its producers, or start a group."""
        if self.enabled and self._accompanies(node):
            return
        parts: list[Group] = []
        for value in reversed(dict.fromkeys(node.inputs)):
            group = self.groups.get(value)
            if group is None:
                continue
            reason = self._reason(group, node, value)
            if reason is None and (not parts or _is_pointwise(group, node)):
                parts.append(group)
            else:
                reason = reason or f"already fused with {parts[0].ops[-1]}"
                producer = group.nodes[-1]
                self.refusals.append(Refusal(_label(producer), _label(node), reason))
        consumer = compute_of(node)
        if not parts:
            pointwise = isinstance(consumer, Pointwise)
            self.groups[node.outputs[0]] = (
                Group(None, (node,)) if pointwise else Group(node)
            )
            return
        for group in parts:
            del self.groups[group.output]
        joined = reduce(Group.merged, parts)
        if isinstance(consumer, Pointwise):
            grown = joined.extended(node)
        elif isinstance(consumer, Reduction):
            grown = joined.summed(node)
        else:
            grown = joined.pooled(node)
        self.groups[node.output] = grown

    def _accompanies(self, node: Node) -> bool:
        """Whether a kernel that has the node's operand in registers takes it along.

        The index of a maximum rides on the pooling of the same windows, the sum of a
        cotangent on the weight gradient that reads it.
        """
        if node.op != "channel_sum" and not isinstance(compute_of(node), WindowIndex):
            return False
        for value, group in self.groups.items():
            if _takes_along(group, node):
                self.groups[value] = group.accompanied(node)
                return True
        return False

    def _reason(self, group: Group, node: Node, value: Value) -> str | None:
        """Why ``node`` cannot join ``group``; None when it can."""
        if not self.enabled:
            return "fusion is disabled"
        if value in self.outputs:
            return "the value between them is a result of the program"
        others = [r for r in self.readers[value] if not _same_windows(node, r)]
        if len(others) > 1:
            return "the value between them has other readers"
        anchor = compute_of(group.anchor) if group.anchor else None
        if node.op == "reshape" or group.nodes[-1].op == "reshape":
            return "a reshape is a view: it runs no kernel"
        if isinstance(anchor, Update):
            return f"{group.anchor.op} changes variables in place"  # type: ignore[union-attr]
        if isinstance(anchor, WindowIndex) or group.accumulates:
            return f"{group.anchor.op} is complete behind the last image"  # type: ignore[union-attr]
        if isinstance(anchor, Reduction):
            return f"{group.anchor.op} writes its rows in several passes"  # type: ignore[union-attr]
        if isinstance(anchor, Movement):
            return f"{group.anchor.op} only moves elements"  # type: ignore[union-attr]
        consumer = compute_of(node)
        if isinstance(consumer, Pointwise):
            if node.output.type != value.type:
                return f"broadcasts {value.type} to {node.output.type}"
            few = isinstance(anchor, Contraction) and _few_channels(anchor)
            if few and uses_functions(consumer.expr, len(node.inputs), node.attrs):
                return f"{node.op} would run on vectors that are mostly empty"
            return None
        if isinstance(consumer, Window):
            return _pool_reason(group, anchor, consumer)
        if isinstance(consumer, Contraction):
            return f"{node.op} reads each element more than once"
        if isinstance(consumer, Reduction):
            return _sum_reason(group, node)
        if isinstance(consumer, Update):
            return f"{node.op} changes variables in place"
        if isinstance(consumer, WeightGradient | WindowIndex | WindowGradient):
            return f"{node.op} reads each element more than once"
        return f"{node.op} only moves elements"


def _is_pointwise(group: Group, node: Node) -> bool:
    """Whether both are pointwise only: then another group can absorb the first."""
    return group.anchor is None and isinstance(compute_of(node), Pointwise)


def _sum_reason(group: Group, node: Node) -> str | None:
    """Why a sum cannot compute its operand; None for sums over channels' elements."""
    x = node.inputs[0].type
    if node.op != "channel_sum" or group.anchor is not None:
        return f"{node.op} needs whole rows"
    channels = x.ndim in (2, 4) and node.attrs["axis"] % x.ndim == 1
    if not (x.has_batch and channels and x.shape[1] > 1):
        return f"{node.op} does not run along channels"
    small = (1, x.shape[1], *(1,) * (x.ndim - 2))
    for value in group.external_inputs:
        shape = (1,) * (x.ndim - value.type.ndim) + value.type.shape
        fits = value.type == x or all(a in (1, b) for a, b in zip(shape, small))
        if not fits:
            return f"an operand of type {value.type} has no value for each channel"
    return None


def _few_channels(record: Contraction) -> bool:
    """Whether an image's channels fill at most half of a vector."""
    channels = record.out_channels // record.groups
    return (
        channels <= FEW_CHANNELS and not is_linear(record) and not is_depthwise(record)
    )


def _takes_along(group: Group, node: Node) -> bool:
    if group.pool is not None:
        return node is not group.pool and _same_windows(group.pool, node)
    if node.op != "channel_sum" or group.anchor is None:
        return False
    weight_gradient = isinstance(compute_of(group.anchor), WeightGradient)
    return weight_gradient and group.anchor.inputs[1] is node.inputs[0]


def _same_windows(pool: Node, node: Node) -> bool:
    """Whether ``node`` is the index of the maxima that ``pool`` takes."""
    if pool.inputs != node.inputs:
        return False
    record = compute_of(node)
    return isinstance(record, WindowIndex) and compute_of(pool) == record.forward


def _pool_reason(group: Group, anchor: object, window: Window) -> str | None:
    if not isinstance(anchor, Contraction) or is_linear(anchor):
        return "pooling joins convolutions only"
    if is_depthwise(anchor):
        return (
            "a depthwise convolution is bound by memory: pooling would not speed it up"
        )
    if group.pool is not None:
        return "the kernel already ends in a pooling window"
    if len(anchor.phases) > 1:
        return "a transposed convolution computes interleaved outputs, not windows"
    rows, columns = window.rows.uniform, window.cols.uniform
    if rows is None or columns is None:
        return "its windows are padded, dilated or of different sizes"
    if rows[0] > rows[1] or columns[0] > columns[1]:
        return "its windows overlap: conv outputs would be computed more than once"
    if rows[0] < rows[1] or columns[0] < columns[1]:
        return "its windows leave gaps"
    if rows[0] * columns[0] > POOL_OUTPUTS:
        return f"a {rows[0]}×{columns[0]} window does not fit a register tile"
    return None


def _readers(nodes: list[Node]) -> dict[Value, list[Node]]:
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        for value in dict.fromkeys(node.inputs):
            readers.setdefault(value, []).append(node)
    return readers


def _label(node: Node) -> str:
    return f"{node.op} ({node.path})" if node.path else node.op

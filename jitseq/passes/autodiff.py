"""Reverse-mode differentiation: a Graph in, forward and backward in one Graph out.

The nodes are walked in reverse; each op's vjp appends nodes that turn the cotangents
of its outputs into those of its inputs, and cotangents of a value with several readers
are added. Invariant: the forward nodes are those of the input, unchanged and first;
behind them is only what a gradient that was asked for depends on. The joint graph
contains ordinary ops, so every later pass serves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jitseq.errors import UnsupportedError
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import Cotangents, get_op
from jitseq.ir.types import FLOAT_DTYPES
from jitseq.ir.verify import verify
from jitseq.passes.simplify import drop_dead


@dataclass(frozen=True)
class JointGraph:
    """Forward and backward of one function.

    ``graph``       inputs: those of the function, then ``cotangents``;
                    outputs: those of the function, then ``gradients``
    ``cotangents``  an input for each output in ``of``; empty with a ``seed``
    ``wrt``         the values of the function that the gradients belong to, in order
    ``forward``     how many of the nodes, from the first, are the function's own
    """

    graph: Graph
    cotangents: tuple[Value, ...]
    wrt: tuple[Value, ...]
    forward: int

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What the function returns."""
        return self.graph.outputs[: len(self.graph.outputs) - len(self.wrt)]

    @property
    def gradients(self) -> tuple[Value, ...]:
        return self.graph.outputs[len(self.graph.outputs) - len(self.wrt) :]


def differentiate(
    graph: Graph,
    wrt: Sequence[Value],
    of: Sequence[Value] | None = None,
    seed: float | None = None,
) -> JointGraph:
    """The graph with the gradients of its outputs appended.

    Args:
        graph: a verified graph.
        wrt: inputs and params, float32 or float64, whose gradients are wanted; only
            their work is done. A value that no output depends on has gradient zero.
        of: the outputs that have cotangents; all that are floating point when None.
            The others, such as new values of buffers, are returned and not
            differentiated.
        seed: the cotangent of every output in ``of``, as a constant, for losses; when
            None, the cotangents are inputs of the joint graph.

    Raises:
        UnsupportedError: an op on the way has no gradient; names its layer.
    """
    of = _floats(graph.outputs) if of is None else tuple(of)
    tape = _Tape(graph, wrt)
    cotangents = tape.start(of, seed)
    for node in reversed(graph.nodes):
        tape.step(node)
    gradients = tuple(tape.gradient(value) for value in wrt)
    joint = drop_dead(
        Graph(
            (*graph.inputs, *cotangents),
            graph.params,
            (*graph.nodes, *tape.nodes),
            (*graph.outputs, *gradients),
            graph.layer_outputs,
        )
    )
    verify(joint)
    forward = sum(node in set(graph.nodes) for node in joint.nodes)
    return JointGraph(joint, cotangents, tuple(wrt), forward)


def _floats(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(value for value in values if value.type.dtype in FLOAT_DTYPES)


class _Tape:
    """The nodes of the backward pass, and the cotangent of each value so far."""

    def __init__(self, graph: Graph, wrt: Sequence[Value]) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.cotangent: dict[Value, Value] = {}
        self.active = _depending(graph, wrt)
        self.path = ""

    def emit(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        """Append a node of the layer that is being differentiated."""
        type = get_op(op).infer(*(value.type for value in inputs), **attrs)
        place = len(self.graph.nodes) + len(self.nodes)
        node = Node(op, inputs, attrs, (Value(type),), self.path, place)
        self.nodes.append(node)
        return node.output

    def start(self, of: Sequence[Value], seed: float | None) -> tuple[Value, ...]:
        """Give the outputs their cotangents; returns those that are new inputs."""
        if seed is None:
            names = _cotangent_names(self.graph, len(of))
            new = [Value(v.type, name) for v, name in zip(of, names, strict=True)]
        else:
            new = [self.filled(value, seed) for value in of]
        for value, cotangent in zip(of, new, strict=True):
            self.add(value, cotangent)
        return tuple(new) if seed is None else ()

    def filled(self, value: Value, number: float) -> Value:
        """A value of the same type, ``number`` everywhere."""
        constant = self.emit("constant", value=number, dtype=value.type.dtype)
        if value.type.has_batch:
            return self.emit("broadcast_like", constant, value)
        if not value.type.shape:
            return constant
        return self.emit("broadcast", constant, shape=value.type.shape)

    def add(self, value: Value, cotangent: Value) -> None:
        assert cotangent.type == value.type, (cotangent.type, value.type)
        known = self.cotangent.get(value)
        total = cotangent if known is None else self.emit("add", known, cotangent)
        self.cotangent[value] = total

    def step(self, node: Node) -> None:
        """From the cotangents of the outputs to those of the inputs."""
        given: Cotangents = tuple(self.cotangent.get(value) for value in node.outputs)
        wanted = [value in self.active for value in node.inputs]
        if not any(wanted) or all(cotangent is None for cotangent in given):
            return
        vjp = get_op(node.op).vjp
        if vjp is None:
            raise _no_gradient(node)
        self.path = node.path
        found = vjp(self.emit, node, given)
        for value, cotangent, want in zip(node.inputs, found, wanted, strict=True):
            if want and cotangent is not None:
                self.add(value, cotangent)

    def gradient(self, value: Value) -> Value:
        self.path = ""
        return self.cotangent.get(value) or self.filled(value, 0.0)


def _depending(graph: Graph, wrt: Sequence[Value]) -> set[Value]:
    """Float values that depend on ``wrt``: the only ones whose cotangents matter."""
    active = set(wrt)
    for node in graph.nodes:
        if not active.isdisjoint(node.inputs):
            active.update(_floats(node.outputs))
    return active


def _cotangent_names(graph: Graph, count: int) -> list[str]:
    """``g``, or ``g0``, ``g1``, …; no two inputs are printed under one name."""
    taken = {value.name for value in graph.inputs}
    names = ["g"] if count == 1 else [f"g{i}" for i in range(count)]
    while not taken.isdisjoint(names):
        names = [f"{name}_" for name in names]
    return names


def _no_gradient(node: Node) -> UnsupportedError:
    layer = {"layer": node.path} if node.path else {}
    return UnsupportedError(
        f"{node.op} has no gradient",
        facts={"output": node.outputs[0].type, **layer},
        hint="use operations that can be differentiated once, or leave the parameters "
        "before it out of training with requires_grad_(False)",
    )

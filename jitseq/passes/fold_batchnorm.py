"""Eval-mode batch-norm becomes part of the convolution or linear layer before it.

With ``scale = weight / sqrt(var + eps)``: ``bn(conv(x, w, b)) = conv(x, w·scale,
(b - mean)·scale + bias)``. `decompose_batchnorm` turns what is left into a
multiplication and an addition by channel. The new nodes depend on parameters only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.ops.norm import expand_batch_norm_train
from jitseq.ir.ops.update import changed_in_place

OUTPUT_AXIS = {"conv2d": 0, "linear": 0, "conv_transpose2d": 1}


class _Emitter:
    """Appends nodes with inferred types."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def emit(
        self, path: str, op: str, *inputs: Value, place: int = 0, **attrs: Any
    ) -> Value:
        type = get_op(op).infer(*(value.type for value in inputs), **attrs)
        node = Node(op, inputs, attrs, (Value(type),), path, place)
        self.nodes.append(node)
        return node.output

    def scale_and_shift(self, node: Node) -> tuple[Value, Value]:
        """``scale`` and ``shift`` of a batch-norm, each [C]."""
        _, mean, var, *affine = node.inputs
        path = node.path
        eps = self.emit(path, "constant", value=node.attrs["eps"], dtype=var.type.dtype)
        spread = self.emit(path, "sqrt", self.emit(path, "add", var, eps))
        if affine:
            scale = self.emit(path, "div", affine[0], spread)
        else:
            one = self.emit(path, "constant", value=1.0, dtype=var.type.dtype)
            scale = self.emit(path, "div", one, spread)
        shift = self.emit(path, "neg", self.emit(path, "mul", mean, scale))
        if affine:
            shift = self.emit(path, "add", shift, affine[1])
        return scale, shift


def fold_batchnorm(graph: Graph) -> Graph:
    """Fold where the batch-norm is the only reader of a contraction's result."""
    emitter = _Emitter()
    producers, readers = graph.producers(), graph.consumers()
    params = set(graph.params) - set(changed_in_place(graph).values())
    folded: dict[Value, Node] = {}
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        producer = producers.get(node.inputs[0])
        if producer is None or producer.op not in OUTPUT_AXIS:
            continue
        alone = len(readers[producer.output]) == 1
        fixed = all(
            value in params for value in (*producer.inputs[1:], *node.inputs[1:])
        )
        channels_are_axis_1 = producer.op != "linear" or node.output.type.ndim == 2
        if (
            alone
            and fixed
            and channels_are_axis_1
            and producer.output not in graph.outputs
        ):
            folded[producer.output] = node
    dropped = set(folded.values())
    for node in graph.nodes:
        if node in dropped:
            continue
        batch_norm = folded.get(node.outputs[0])
        if batch_norm is None:
            emitter.nodes.append(node)
        else:
            _folded(emitter, node, batch_norm)
    return graph.replace(emitter.nodes)


def _folded(emitter: _Emitter, node: Node, batch_norm: Node) -> None:
    path = batch_norm.path
    scale, shift = emitter.scale_and_shift(batch_norm)
    x, weight, *bias = node.inputs
    axis = OUTPUT_AXIS[node.op]
    groups = node.attrs.get("groups", 1)
    scaled = _scaled_weight(emitter, path, weight, scale, axis, groups)
    if bias:
        shift = emitter.emit(
            path, "add", emitter.emit(path, "mul", bias[0], scale), shift
        )
    emitter.nodes.append(
        replace(node, inputs=(x, scaled, shift), outputs=batch_norm.outputs)
    )


def _scaled_weight(
    emitter: _Emitter, path: str, weight: Value, scale: Value, axis: int, groups: int
) -> Value:
    """Weights times the scale of their output channel.

    A grouped transposed convolution holds ``[groups · I/g, O/g, …]``: the scale is
    repeated for the input channels of each group.
    """
    shape = weight.type.shape
    if axis == 0 or groups == 1:
        broadcast = tuple(-1 if i == axis else 1 for i in range(len(shape)))
        column = tuple(scale.type.shape[0] if e == -1 else 1 for e in broadcast)
        return emitter.emit(
            path, "mul", weight, emitter.emit(path, "reshape", scale, shape=column)
        )
    per_group = (groups, shape[0] // groups, *shape[1:])
    grouped = emitter.emit(path, "reshape", weight, shape=per_group)
    column = (groups, 1, shape[1], 1, 1)
    factor = emitter.emit(path, "reshape", scale, shape=column)
    product = emitter.emit(path, "mul", grouped, factor)
    return emitter.emit(path, "reshape", product, shape=shape)


def decompose_batchnorm(graph: Graph) -> Graph:
    """``bn(x) = x·scale + shift`` for every batch-norm that is left."""
    if not any(node.op in ("batch_norm", "batch_norm_train") for node in graph.nodes):
        return graph
    emitter = _Emitter()
    for node in graph.nodes:
        if node.op == "batch_norm":
            _scaled_and_shifted(emitter, node)
        elif node.op == "batch_norm_train":
            emit = partial(emitter.emit, node.path, place=node.place)
            expand_batch_norm_train(emit, node)
            last = emitter.nodes.pop()
            emitter.nodes.append(replace(last, outputs=node.outputs))
        else:
            emitter.nodes.append(node)
    return graph.replace(emitter.nodes)


def _scaled_and_shifted(emitter: _Emitter, node: Node) -> None:
    scale, shift = emitter.scale_and_shift(node)
    x = node.inputs[0]
    column = (scale.type.shape[0], *(1,) * (x.type.ndim - 2))
    factors = [
        emitter.emit(node.path, "reshape", value, shape=column)
        for value in (scale, shift)
    ]
    product = emitter.emit(node.path, "mul", x, factors[0], place=node.place)
    inputs = (product, factors[1])
    emitter.nodes.append(Node("add", inputs, {}, node.outputs, node.path, node.place))

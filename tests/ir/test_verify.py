"""Each malformed graph is rejected, and the message shows the node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitseq.ir.builder import Builder
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.types import BATCH, TensorType
from jitseq.ir.variable import Variable
from jitseq.ir.verify import VerifyError, verify

ROW = TensorType("float32", (BATCH, 3))


def small_graph() -> Graph:
    """relu(linear(x, w)) with the layer path of each."""
    builder = Builder()
    weight = Variable([[1.0, 2.0, 3.0]] * 3)
    weight.cast("float32")
    x = builder.add_input(ROW, "x")
    with builder.layer("fc", [("weight", weight)]):
        hidden = builder.emit("linear", (x, builder.param(weight)))
    with builder.layer("act", []):
        return builder.finish([builder.emit("relu", (hidden,))])


def rejected(graph: Graph) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    return str(caught.value)


def test_a_traced_graph_is_accepted() -> None:
    verify(small_graph())


def test_use_before_definition_prints_the_node() -> None:
    graph = small_graph()
    broken = replace(graph, nodes=graph.nodes[::-1])
    rule, node = rejected(broken).split("\n")
    assert rule == "input 0 is used before it is defined"
    assert " ".join(node.split()) == "%0: f32[n, 3] = relu(%1) # act"


def test_use_of_a_value_from_nowhere() -> None:
    graph = small_graph()
    first, second = graph.nodes
    broken = replace(graph, nodes=(first, second.with_inputs([Value(ROW)])))
    assert "relu(%undefined)" in rejected(broken)


def test_a_param_that_was_dropped() -> None:
    broken = replace(small_graph(), params=())
    assert "input 1 is used before it is defined" in rejected(broken)


def test_double_definition() -> None:
    graph = small_graph()
    broken = replace(graph, nodes=(*graph.nodes, graph.nodes[1]))
    assert rejected(broken).startswith("an output is defined twice\n  %")


@pytest.mark.parametrize("role", ["inputs", "params"])
def test_an_input_or_param_as_output_of_a_node(role) -> None:
    graph = small_graph()
    node = Node("relu", graph.inputs, {}, getattr(graph, role))
    broken = replace(graph, nodes=(node, *graph.nodes))
    assert rejected(broken).startswith("an output is an input or param of the graph\n")


def test_a_value_that_is_input_twice() -> None:
    graph = small_graph()
    assert "twice" in rejected(replace(graph, inputs=graph.inputs * 2))


def test_unknown_op() -> None:
    graph = small_graph()
    value = Value(ROW)
    node = Node("frobnicate", graph.inputs, {"speed": 2}, (value,), "layer")
    message = rejected(replace(graph, nodes=(node,), outputs=(value,)))
    assert "there is no op named 'frobnicate'" in message
    assert "%0: f32[n, 3] = frobnicate(%x) {speed=2}" in message


@pytest.mark.parametrize("type", [
    TensorType("float32", (BATCH, 4)),
    TensorType("float64", (BATCH, 3)),
    TensorType("float32", (5, 3)),
])  # fmt: skip
def test_recorded_type_differs(type) -> None:
    graph = small_graph()
    value = Value(type)
    node = Node("relu", graph.inputs, {}, (value,))
    message = rejected(replace(graph, nodes=(node,), outputs=(value,)))
    assert message == f"relu infers the type f32[n, 3]\n  %0: {type} = relu(%x)"


@pytest.mark.parametrize("count", [0, 2])
def test_number_of_outputs_differs(count) -> None:
    graph = small_graph()
    node = Node("relu", graph.inputs, {}, tuple(Value(ROW) for _ in range(count)))
    assert "infers the type" in rejected(replace(graph, nodes=(node, *graph.nodes)))


@pytest.mark.parametrize("op, attrs, reason", [
    ("softmax", {"dim": 5}, "there is no dimension 5"),
    ("softmax", {"dim": 0}, "NeedsStaticBatch"),
    ("softmax", {"axis": 1}, "unexpected keyword"),
])  # fmt: skip
def test_inference_refuses(op, attrs, reason) -> None:
    graph = small_graph()
    value = Value(ROW)
    node = Node(op, graph.inputs, attrs, (value,))
    message = rejected(replace(graph, nodes=(node,), outputs=(value,)))
    assert "type inference refuses the node" in message
    assert reason in message


def test_missing_outputs() -> None:
    graph = small_graph()
    assert rejected(replace(graph, outputs=())) == "the graph has no outputs"
    stray = replace(graph, outputs=(*graph.outputs, Value(ROW)))
    assert rejected(stray) == "output 1 of the graph is not defined"


def test_duplicate_param_names() -> None:
    graph = small_graph()
    twin = Value(TensorType("float32", (3,)), graph.params[0].name)
    broken = replace(graph, params=(*graph.params, twin))
    assert rejected(broken) == "two params have the name 'fc.weight'"


def test_batch_outside_of_dimension_0() -> None:
    graph = small_graph()
    odd = Value(TensorType("float32", (3, BATCH)), "y")
    message = rejected(replace(graph, inputs=(*graph.inputs, odd)))
    assert message == "the batch is not in dimension 0 of %y: f32[3, n]"

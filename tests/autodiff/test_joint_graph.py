"""The joint graph: its text, its order, and no work that nobody asked for."""

from __future__ import annotations

import numpy as np
import pytest
from pass_cases import traced

from jitseq import nn
from jitseq.errors import UnsupportedError
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.interpret import interpret
from jitseq.ir.types import TensorType
from jitseq.ir.verify import verify
from jitseq.nn import functional as F
from jitseq.passes.autodiff import differentiate


def small_model():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


def test_text(golden) -> None:
    graph = traced(small_model(), (5, 1, 4, 4))
    joint = differentiate(graph, graph.params)
    golden("joint_graph", f"before\n{graph}\n\nafter\n{joint.graph}")


def test_parts_of_the_joint_graph() -> None:
    graph = traced(small_model(), (5, 1, 4, 4))
    wrt = (*graph.inputs, *graph.params)
    joint = differentiate(graph, wrt)
    verify(joint.graph)
    assert joint.graph.inputs == (*graph.inputs, *joint.cotangents)
    assert joint.outputs == graph.outputs
    assert joint.graph.nodes[: joint.forward] == graph.nodes
    assert [v.type for v in joint.gradients] == [v.type for v in wrt]
    assert [v.type for v in joint.cotangents] == [v.type for v in graph.outputs]


def ops_for(graph: Graph, names: set[str]) -> list[str]:
    wrt = [value for value in graph.params if value.name in names]
    joint = differentiate(graph, wrt)
    return [node.op for node in joint.graph.nodes[joint.forward :]]


def test_only_the_work_that_is_asked_for() -> None:
    graph = traced(small_model(), (5, 1, 4, 4))
    assert ops_for(graph, {"4.bias"}) == ["channel_sum"]
    assert ops_for(graph, {"4.weight"}) == ["linear_weight_grad"]
    assert "conv2d_input_grad" not in ops_for(graph, {v.name for v in graph.params})
    assert ops_for(graph, {"0.bias"})[-1] == "channel_sum"
    assert "conv2d_weight_grad" not in ops_for(graph, {"0.bias"})


def test_a_value_with_two_readers_adds_its_cotangents() -> None:
    graph = traced(lambda x: F.mul(x, x) + x, (4, 3))
    joint = differentiate(graph, graph.inputs)
    backward = [node.op for node in joint.graph.nodes[joint.forward :]]
    assert backward.count("add") == 2
    x, g = np.arange(12.0).reshape(4, 3), np.ones((4, 3))
    *_, gradient = interpret(joint.graph, [x, g], {})
    np.testing.assert_array_equal(gradient, 2 * x + 1)


def test_an_unreached_input_has_a_zero_gradient() -> None:
    graph = traced(lambda x, y, z: F.exp(x), (4, 3), (4, 2), (5,))
    joint = differentiate(graph, graph.inputs)
    arrays = [np.ones(shape, np.float32) for shape in ((4, 3), (4, 2), (5,), (4, 3))]
    _, _, y, z = interpret(joint.graph, arrays, {})
    np.testing.assert_array_equal(y, np.zeros((4, 2)))
    np.testing.assert_array_equal(z, np.zeros(5))


def test_an_output_that_is_an_input() -> None:
    graph = traced(lambda x: x, (4, 3))
    joint = differentiate(graph, graph.inputs)
    assert joint.gradients == joint.cotangents


def test_outputs_that_are_not_differentiated_are_kept() -> None:
    """A new value of a buffer, for example."""
    graph = traced(lambda x: (F.exp(x), F.tanh(x)), (4, 3))
    joint = differentiate(graph, graph.inputs, of=graph.outputs[:1])
    assert joint.outputs == graph.outputs
    assert len(joint.cotangents) == 1
    backward = {node.op for node in joint.graph.nodes[joint.forward :]}
    assert "tanh_grad" not in backward


@pytest.mark.parametrize("shape", [(4, 3), ()])
def test_a_seed_is_a_constant(shape) -> None:
    graph = traced(lambda x: F.exp(x), shape)
    joint = differentiate(graph, graph.inputs, seed=2.0)
    assert joint.cotangents == ()
    assert joint.graph.inputs == graph.inputs
    x = np.ones(shape, np.float32)
    y, gradient = interpret(joint.graph, [x], {})
    np.testing.assert_allclose(gradient, 2 * y, rtol=1e-6)


def test_cotangents_have_names_of_their_own() -> None:
    graph = traced(lambda g: F.exp(g), (4, 3))
    joint = differentiate(graph, graph.inputs)
    names = [value.name for value in joint.graph.inputs]
    assert len(set(names)) == 2


def test_a_missing_gradient_names_op_and_layer() -> None:
    type = TensorType("float32", (2, 2))
    x, g, y = Value(type, "x"), Value(type, "g"), Value(type)
    node = Node("relu_grad", (g, x), {}, (y,), "features.3")
    with pytest.raises(UnsupportedError, match=r"relu_grad(.|\n)*features\.3"):
        differentiate(Graph((g, x), (), (node,), (y,)), [x])


def test_an_op_behind_which_nothing_is_asked_needs_no_gradient() -> None:
    type = TensorType("float32", (2, 2))
    x, w, hidden, y = Value(type, "x"), Value(type, "w"), Value(type), Value(type)
    nodes = (
        Node("relu_grad", (x, x), {}, (hidden,)),
        Node("mul", (hidden, w), {}, (y,)),
    )
    joint = differentiate(Graph((x,), (w,), nodes, (y,)), [w])
    assert [node.op for node in joint.graph.nodes] == ["relu_grad", "mul", "mul"]

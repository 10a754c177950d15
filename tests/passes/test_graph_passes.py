"""What the graph passes refuse to do, and that they keep every value they keep."""

from __future__ import annotations

import numpy as np
import pytest
from pass_cases import traced

import jitseq as js
from jitseq import nn
from jitseq.ir.verify import verify
from jitseq.nn import functional as F
from jitseq.passes.fold_batchnorm import decompose_batchnorm, fold_batchnorm
from jitseq.passes.pipeline import optimise
from jitseq.passes.simplify import drop_dead, simplify
from jitseq.passes.static_values import static_values

SHAPE = (2, 3, 4, 4)
CONV = nn.Conv2d(3, 3, 1)
NORM = nn.BatchNorm2d(3).eval()
LINEAR = nn.Linear(4, 4)
ROWS = nn.BatchNorm1d(3).eval()


def ops(graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_drop_dead_keeps_what_an_output_needs() -> None:
    graph = traced(lambda x: (F.exp(x), F.relu(F.tanh(x))), SHAPE)
    assert ops(drop_dead(graph)) == ["exp", "tanh", "relu"]


def test_drop_dead_drops_params_that_nothing_reads() -> None:
    graph = traced(lambda x: (CONV(x), x)[1] + 1, SHAPE)
    assert len(graph.params) == 2
    dropped = drop_dead(graph)
    verify(dropped)
    assert dropped.params == ()


def read_twice(x):
    y = CONV(x)
    return NORM(y) + y


def returned(x):
    y = CONV(x)
    return NORM(y), y


UNFOLDED = {
    "the result has another reader": read_twice,
    "the result is returned": returned,
    "something stands between": lambda x: NORM(F.relu(CONV(x))),
    "channels of a linear layer on (N, C, L)": lambda x: ROWS(LINEAR(F.mean(x, 2))),
    "weights are computed from the input": lambda x: NORM(
        F.conv2d(x, F.reshape(F.sum(x, (0, 1, 2, 3)), (1, 1, 1, 1)) * CONV.weight)
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", UNFOLDED)
def test_fold_batchnorm_refuses(why) -> None:
    graph = traced(UNFOLDED[why], SHAPE)
    assert "batch_norm" in ops(graph)
    assert ops(fold_batchnorm(graph)) == ops(graph)


def test_decompose_batchnorm_returns_other_graphs_as_they_are() -> None:
    graph = traced(nn.Sequential(CONV, nn.ReLU()), SHAPE)
    assert decompose_batchnorm(graph) is graph


@pytest.mark.parametrize("function", [
    lambda x: F.permute(x, (0, 1, 3, 2)),  # the same type, other elements
    lambda x: F.max_pool2d(F.silu(x), 2),  # not monotone
    lambda x: F.max_pool2d(F.leaky_relu(x, -0.1), 2),
    lambda x: F.avg_pool2d(F.relu(x), 2),  # averages do not commute
    lambda x: F.relu(F.unflatten(x, 1, (1, 3))),  # fewer dimensions first
    lambda x: F.relu(x) + F.tanh(x),
    lambda x: F.softmax(x, 1) * F.softmax(x, 2),  # equal but for an attribute
])  # fmt: skip
def test_simplify_refuses(function) -> None:
    graph = traced(function, SHAPE)
    assert ops(simplify(graph)) == ops(graph)


def relu_read_twice(x):
    y = F.relu(x)
    return F.max_pool2d(y, 2), y


def flat_read_twice(x):
    y = F.flatten(x, 1)
    return F.relu(y), y


@pytest.mark.parametrize("function", [relu_read_twice, flat_read_twice])
def test_simplify_moves_nothing_that_has_another_reader(function) -> None:
    graph = traced(function, SHAPE)
    assert ops(simplify(graph)) == ops(graph)


def test_simplify_merges_calls_of_one_layer() -> None:
    graph = simplify(traced(lambda x: CONV(x) + CONV(x), SHAPE))
    assert ops(graph) == ["conv2d", "add"]
    assert graph.nodes[1].inputs[0] is graph.nodes[1].inputs[1]


def test_simplify_ends_when_nothing_changes() -> None:
    graph = traced(nn.Sequential(*[nn.Flatten(2), nn.Unflatten(2, (4, 4))] * 4), SHAPE)
    once = simplify(graph)
    assert ops(once) == []
    assert once.outputs == once.inputs


def test_static_values_are_those_that_inputs_do_not_reach() -> None:
    graph = traced(lambda x: CONV(x) * F.exp(LINEAR.weight * 2.0), SHAPE)
    static = static_values(graph)
    assert set(graph.params) <= static
    assert {n.op for n in graph.nodes if n.output in static} == {
        "constant",
        "mul",
        "exp",
    }
    assert static.isdisjoint(graph.inputs)
    assert graph.outputs[0] not in static


def test_static_values_are_computed_once_for_each_version() -> None:
    layer = nn.Linear(3, 3)
    compiled = js.jit(lambda x: F.linear(x, layer.weight * 2))
    x = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(compiled(x), layer.weight.numpy().T * 2)
    layer.weight[...] = 1
    np.testing.assert_array_equal(compiled(x), np.full((3, 3), 2))
    (kernel,) = compiled.explain(x).kernels
    assert kernel.ops == ("linear",)


def test_disabled_passes_are_left_out() -> None:
    graph = traced(lambda x: F.max_pool2d(F.relu(NORM(CONV(x))), 2), SHAPE)
    everything = optimise(graph)
    assert "batch_norm" not in ops(everything.graph)
    unfolded = optimise(graph, frozenset({"fold_batchnorm", "simplify"}))
    dynamic = [n.op for n in unfolded.graph.nodes if n.output not in unfolded.static]
    assert dynamic == ["conv2d", "mul", "add", "relu", "max_pool2d"]

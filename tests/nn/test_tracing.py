"""Layers on tracers: paths, symbolic batches, shared modules, and error locations."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import nn
from jitseq.errors import NeedsStaticBatch, ShapeError, TraceError
from jitseq.ir.builder import Builder
from jitseq.ir.graph import Graph
from jitseq.ir.tracer import Tracer
from jitseq.ir.types import BATCH, TensorType
from jitseq.nn import functional as F


def trace(function, *shape) -> Graph:
    builder = Builder()
    if isinstance(function, nn.Module):
        builder.module_names = {id(m): name for name, m in function.named_modules()}
    with builder.tracing():
        out = function(Tracer(builder.add_input(TensorType("float32", shape), "x")))
    return builder.finish([out.value])


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


def test_paths_params_and_symbolic_batch():
    graph = trace(model(), BATCH, 1, 8, 8)
    assert [(node.op, node.path) for node in graph.nodes] == [
        ("conv2d", "0.0"), ("batch_norm", "0.1"), ("relu", "0.2"),
        ("max_pool2d", "1"), ("reshape", "3"), ("linear", "4"),
    ]  # fmt: skip
    assert [p.name for p in graph.params] == [
        "0.0.weight", "0.0.bias", "0.1.running_mean", "0.1.running_var", "0.1.weight",
        "0.1.bias", "4.weight", "4.bias",
    ]  # fmt: skip
    (result,) = graph.outputs
    assert result.type == TensorType("float32", (BATCH, 10))
    assert graph.layer_outputs["0.2"] is graph.nodes[2].output
    assert graph.layer_outputs["2"] is graph.layer_outputs["1"]


def test_a_function_names_modules_by_class():
    first, second, block = nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential(nn.ReLU())
    graph = trace(lambda x: block(second(first(first(x)))), BATCH, 4)
    paths = [node.path for node in graph.nodes]
    assert paths == ["linear", "linear", "linear_1", "sequential.0"]
    assert set(graph.layer_outputs) >= {"linear", "linear#1", "sequential"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.reshape(x, (-1, 12)),
        lambda x: F.reshape(x, (x.shape[0], -1)),
        lambda x: F.reshape(x, (x.shape[0], 2, 6)).flatten(1),
        lambda x: F.unflatten(x, 1, (3, 1)).reshape(-1, 12),
        lambda x: F.transpose(x, 1, 2).flatten(1),
        lambda x: F.sum(F.pad(x, (0, 0, 5, 4)), -1),
        lambda x: F.amax(F.concat([x, x, x, x], 1), 2),
        lambda x: x.flatten(1),
    ],
)
def test_shapes_keep_a_symbolic_batch(function):
    (result,) = trace(function, BATCH, 3, 4).outputs
    assert result.type.shape == (BATCH, 12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.flatten(x),
        lambda x: F.reshape(x, (-1, 6)),
        lambda x: F.reshape(x, (3, 12)),
        lambda x: F.permute(x, (1, 0, 2)),
        lambda x: F.softmax(x, 0),
        lambda x: F.amax(x),
        lambda x: F.concat([x, x]),
        lambda x: F.unflatten(x, 0, (1, -1)),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
        lambda x: nn.MaxPool2d(2)(x),
        lambda x: nn.Conv2d(3, 2, 1)(x),
    ],
)
def test_what_needs_the_batch_asks_for_it(function):
    with pytest.raises(NeedsStaticBatch):
        trace(function, BATCH, 3, 4)
    assert trace(function, 3, 3, 4).nodes


def test_state_is_read_at_run_time():
    scale = nn.Parameter([2.0, 3.0])

    def function(x):
        return nn.PReLU(2)(x) * F.exp(scale) + scale * scale

    graph = trace(function, BATCH, 2, 3, 2)
    assert [node.op for node in graph.nodes] == [
        "reshape", "prelu", "exp", "mul", "mul", "add",
    ]  # fmt: skip
    assert len(graph.params) == 2


@pytest.mark.parametrize(
    "read", [lambda p: np.asarray(p), lambda p: p[0], lambda p: np.dot(p, p)]
)
def test_values_cannot_be_baked_in(read):
    scale = nn.Parameter([2.0, 3.0])
    with pytest.raises((TraceError, NotImplementedError)):
        trace(lambda x: x * read(scale), BATCH, 2)


def test_errors_name_the_layer_by_its_path():
    net = nn.Sequential(nn.Identity(), nn.Sequential(nn.ReLU(), nn.Conv2d(1, 4, 3)))
    x = np.ones((2, 3, 8, 8), np.float32)
    for call in (lambda: net(x), lambda: trace(net, BATCH, 3, 8, 8)):
        with pytest.raises(ShapeError) as caught:
            call()
        text = str(caught.value)
        assert "model.1.1  Conv2d(1, 4, kernel_size=(3, 3)" in text
        assert "3 channels" in text and "hint" in text


def test_errors_in_a_root_layer_name_the_model():
    with pytest.raises(ShapeError, match=r"at +model  BatchNorm2d\(3"):
        nn.BatchNorm2d(3).eval()(np.ones((2, 3), np.float32))

"""Batch-norm with the statistics of the batch: PyTorch's results and buffers."""

from __future__ import annotations

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.errors import DtypeError, ShapeError, TraceError, UnsupportedError
from jitseq.ir.interpret import interpret
from jitseq.ir.op import get_op
from jitseq.ir.ops.norm import require_values_per_channel
from jitseq.ir.trace import trace
from jitseq.ir.types import TensorType, type_of
from jitseq.nn import functional as F

torch = pytest.importorskip("torch")

SHAPES = {"BatchNorm1d": [(6, 3), (4, 3, 5)], "BatchNorm2d": [(4, 3, 5, 2)]}
CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]
OPTIONS = {
    "default": {},
    "average": {"momentum": None},
    "plain": {"affine": False, "momentum": 0.3, "eps": 0.1},
    "no bias": {"bias": False},
    "untracked": {"track_running_stats": False},
    "untracked average": {"track_running_stats": False, "momentum": None},
}


def pair(kind: str, options: dict, dtype: str):
    """The same layer here and in PyTorch, with random weights."""
    options = dict(options)
    without_bias = not options.pop("bias", True)
    theirs = getattr(torch.nn, kind)(3, **options).to(getattr(torch, dtype))
    ours = getattr(nn, kind)(3, **options, bias=not without_bias).to(dtype)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    if without_bias:
        theirs.register_parameter("bias", None)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same_state(ours, theirs, rtol: float) -> None:
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        assert str(expected[name].dtype) == f"torch.{value.dtype}"
        np.testing.assert_allclose(value, expected[name].numpy(), rtol, rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind, shape", CASES)
def test_several_steps_and_switches_of_mode(kind, shape, name, dtype, rng) -> None:
    ours, theirs = pair(kind, OPTIONS[name], dtype)
    rtol = 2e-6 if dtype == "float32" else 1e-12
    for training in (True, True, False, True, False):
        ours.train(training), theirs.train(training)
        x = rng.normal(1.0, 2.0, shape).astype(dtype)
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x), expected, 10 * rtol, 10 * rtol)
        assert_same_state(ours, theirs, rtol)


def test_changed_options_are_followed(rng) -> None:
    ours, theirs = pair("BatchNorm1d", {}, "float64")
    for change in ({"momentum": None}, {"track_running_stats": False}, {"momentum": 1}):
        for name, value in change.items():
            setattr(ours, name, value), setattr(theirs, name, value)
        x = rng.normal(size=(5, 3))
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x), expected, 1e-11)
        assert_same_state(ours, theirs, 1e-12)


def test_the_function_changes_arrays_in_place(rng) -> None:
    x, mean, var = rng.normal(size=(5, 3)), np.zeros(3), np.ones(3)
    tensors = [torch.from_numpy(a.copy()) for a in (x, mean, var)]
    expected = torch.nn.functional.batch_norm(*tensors, training=True, momentum=0.4)
    result = F.batch_norm(x, mean, var, training=True, momentum=0.4)
    np.testing.assert_allclose(result, expected.numpy(), 1e-12)
    np.testing.assert_allclose(mean, tensors[1].numpy(), 1e-12)
    np.testing.assert_allclose(var, tensors[2].numpy(), 1e-12)
    mean.flags.writeable = False
    with pytest.raises(nn.OptionError, match="read-only"):
        F.batch_norm(x, mean, var, training=True)
    plain = F.batch_norm(x, None, None, training=True)
    np.testing.assert_allclose(plain, result, 1e-12)


def test_far_from_zero_the_variance_keeps_its_digits(rng) -> None:
    """The mean is subtracted before squares are summed."""
    x = (1000 + rng.normal(size=(64, 3, 8, 8))).astype(np.float32)
    layer = nn.BatchNorm2d(3, momentum=1.0)
    layer(x)
    exact = x.astype(np.float64).var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(layer.running_var.numpy(), exact, 1e-5)


def test_an_empty_batch_changes_no_statistics() -> None:
    for shape in ((0, 3), (0, 3, 2, 2)):
        kind = "BatchNorm1d" if len(shape) == 2 else "BatchNorm2d"
        ours, theirs = pair(kind, {}, "float64")
        x = np.zeros(shape)
        assert ours(x).shape == tuple(theirs(torch.from_numpy(x)).shape)
        assert_same_state(ours, theirs, 0)


def refused(layer, x, error, match: str) -> None:
    """The call raises, and leaves the buffers alone."""
    before = layer.state_dict()
    for call in (layer, lambda a: js.vjp(layer, a)):
        with pytest.raises(error, match=match):
            call(x)
        for name, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


def test_refused_calls_leave_the_buffers() -> None:
    one = r"Expected more than 1 value per channel when training"
    ones = np.ones((4, 3), np.float32)
    refused(nn.BatchNorm1d(3), ones[:1], ShapeError, one)
    refused(nn.BatchNorm2d(3), ones[:1, :, None, None], ShapeError, one)
    refused(nn.BatchNorm1d(3, affine=False), ones[:1, :, None], ShapeError, one)
    untracked = nn.BatchNorm1d(3, track_running_stats=False).eval()
    refused(untracked, ones[:1], ShapeError, one)
    refused(nn.BatchNorm1d(3), ones[:, :2], ShapeError, "2 channels")
    refused(nn.BatchNorm1d(3, affine=False), ones[:, :2], ShapeError, "2 channels")
    refused(nn.BatchNorm1d(3), ones[0], ShapeError, "expected 2-D or 3-D")
    refused(nn.BatchNorm1d(3), ones.astype("f8"), DtypeError, "different dtypes")
    assert nn.BatchNorm1d(3)(ones[:1, :, None].repeat(2, 2)).shape == (1, 3, 2)


def test_a_loss_that_is_refused_leaves_the_buffers(rng) -> None:
    layer, x = nn.BatchNorm1d(3).double(), rng.normal(size=(5, 3))
    before = layer.state_dict()
    with pytest.raises(ShapeError, match="one number"):
        js.value_and_grad(layer, lambda out, y: out - y)(x, x)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    js.value_and_grad(layer, nn.MSELoss())(x, x)
    assert int(layer.num_batches_tracked.numpy()) == 1


def test_values_per_channel_of_a_program() -> None:
    n = TensorType("float32", (4, 3, 1, 1))
    require_values_per_channel(n, 2)
    require_values_per_channel(n.with_shape((4, 3, 1, 2)), 1)
    with pytest.raises(ShapeError, match=r"input +f32\[1, 3, 1, 1\]"):
        require_values_per_channel(n, 1)


# Tracing


def run(traced, *inputs: np.ndarray) -> list[np.ndarray]:
    """What a call of the traced function returns; it does its updates, too."""
    params = {name: v.numpy() for name, v in traced.variables.items()}
    fed = [source() for _, source in traced.feeds]
    outputs = interpret(traced.graph, [*inputs, *fed], params)
    for (variable, _), value in zip(
        traced.updates, outputs[len(traced.results) :], strict=True
    ):
        variable.assign(value)
    for variable in traced.counted:
        variable.assign(variable.numpy() + 1)
    return outputs[: len(traced.results)]


@pytest.mark.parametrize("name", OPTIONS)
def test_one_trace_serves_all_batches(name, rng) -> None:
    ours, theirs = pair("BatchNorm2d", OPTIONS[name], "float64")
    traced = trace(ours, [TensorType("float64", (4, 3, 5, 2))])
    assert traced.static_reason is None
    for batch in (4, 2, 7):
        x = rng.normal(size=(batch, 3, 5, 2))
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        (result,) = run(traced, x)
        np.testing.assert_allclose(result, expected, 1e-10, 1e-12)
        assert_same_state(ours, theirs, 1e-12)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_called_twice_updates_twice(momentum, rng) -> None:
    ours, theirs = pair("BatchNorm1d", {"momentum": momentum}, "float64")

    def twice(x):
        return ours(F.exp(ours(x)))

    for step in range(2):
        x = rng.normal(size=(5, 3)) + step
        expected = theirs(torch.exp(theirs(torch.from_numpy(x))))
        (result,) = run(trace(twice, [type_of(x)]), x)
        np.testing.assert_allclose(result, expected.detach().numpy(), 1e-11)
        assert_same_state(ours, theirs, 1e-12)
    assert int(ours.num_batches_tracked.numpy()) == 4
    js.vjp(twice, x)
    assert int(ours.num_batches_tracked.numpy()) == 6


def test_a_trace_changes_nothing_and_reads_the_new_value_afterwards(rng) -> None:
    layer, x = nn.BatchNorm1d(3).double(), rng.normal(size=(5, 3))

    def function(x):
        layer(x)
        return layer.running_mean * 1.0

    before = layer.state_dict()
    traced = trace(function, [type_of(x)])
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert [v.shape for v, _ in traced.updates] == [(3,), (3,)]
    (result,) = run(traced, x)
    np.testing.assert_array_equal(result, layer.running_mean.numpy())
    np.testing.assert_allclose(result, 0.1 * x.mean(0))


def test_statistics_that_are_no_variables_cannot_be_traced() -> None:
    x = TensorType("float64", (5, 3))
    with pytest.raises(UnsupportedError, match="no variables"):
        trace(lambda a: F.batch_norm(a, np.zeros(3), np.ones(3), training=True), [x])


def test_a_variable_keeps_its_type() -> None:
    from jitseq.ir.builder import Builder

    builder = Builder()
    value = builder.add_input(TensorType("float64", (3,)), "x")
    with pytest.raises(TraceError, match="keeps its dtype"):
        builder.update(nn.Buffer(np.zeros(3, np.float32)), value)


@pytest.mark.parametrize("affine", [True, False])
def test_expansion_means_the_op(affine, rng) -> None:
    """`expand_batch_norm_train` computes what the op's reference does."""
    from jitseq.ir.graph import Node, Value
    from jitseq.ir.ops.norm import expand_batch_norm_train

    arrays = [rng.normal(size=(4, 3, 5)), *rng.uniform(0.5, 2, (4 if affine else 2, 3))]
    inputs = tuple(Value(type_of(a)) for a in arrays)
    node = Node("batch_norm_train", inputs, {"eps": 0.01}, (Value(inputs[0].type),))
    known = dict(zip(inputs, arrays))

    def emit(op, *values, **attrs):
        result = get_op(op).reference(*(known[v] for v in values), **attrs)
        known[value := Value(type_of(result))] = result
        return value

    result = known[expand_batch_norm_train(emit, node)]
    expected = get_op("batch_norm_train").reference(*arrays, eps=0.01)
    np.testing.assert_allclose(result, expected, 1e-12)

"""Losses: formulas in float64, PyTorch, gradients' ops, tracing and refused inputs."""

from __future__ import annotations

import numpy as np
import pytest
from tolerance import assert_close

import jitseq as js
from jitseq import nn
from jitseq.errors import DtypeError, ShapeError
from jitseq.ir.builder import Builder
from jitseq.ir.op import get_op
from jitseq.ir.tracer import Tracer
from jitseq.ir.types import type_of
from jitseq.nn import functional as F
from jitseq.passes.autodiff import differentiate

REDUCTIONS = ("mean", "sum", "none")
SCORES = {"(N, C)": (6, 4), "(N, C, d)": (3, 4, 5), "(N, C, d, e)": (2, 3, 4, 5)}


def log_softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis, keepdims=True))


def labels_for(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, x.shape[1], (x.shape[0], *x.shape[2:]))


def torch_value(function: str, *arrays, **options):
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(np.asarray(a)) for a in arrays]
    options = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in options.items()
    }
    return getattr(torch.nn.functional, function)(*tensors, **options).numpy()


# Formulas


def test_cross_entropy_is_the_mean_of_log_probabilities(rng):
    x = rng.normal(size=(5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    expected = -log_softmax(x)[np.arange(5), labels].mean()
    assert float(F.cross_entropy(x, labels)) == pytest.approx(expected, rel=1e-14)
    assert nn.CrossEntropyLoss()(x, labels) == pytest.approx(expected, rel=1e-14)


def test_frozen_numbers():
    x = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]])
    labels = np.array([2, 0])
    weight = np.array([1.0, 2.0, 0.5])
    assert float(F.cross_entropy(x, labels)) == pytest.approx(1.545161756713, rel=1e-11)
    weighted = F.cross_entropy(x, labels, weight)
    assert float(weighted) == pytest.approx(1.479778576731, rel=1e-11)
    smooth = F.cross_entropy(x, labels, label_smoothing=0.1)
    assert float(smooth) == pytest.approx(1.561828423379, rel=1e-11)
    a, b = np.array([0.2, 3.0, -1.0]), np.array([0.0, 0.5, -1.5])
    assert float(F.mse_loss(a, b)) == pytest.approx(6.54 / 3)
    assert float(F.l1_loss(a, b)) == pytest.approx(3.2 / 3)
    assert float(F.huber_loss(a, b)) == pytest.approx((0.02 + 2.0 + 0.125) / 3)
    smooth = F.smooth_l1_loss(a, b, beta=0.5)
    assert float(smooth) == pytest.approx((0.04 + 2.25 + 0.25) / 3)
    p, t = np.array([0.25, 0.9]), np.array([1.0, 0.0])
    binary = F.binary_cross_entropy(p, t)
    assert float(binary) == pytest.approx((np.log(4) + np.log(10)) / 2)


# Against PyTorch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_class_labels(shape, weighted, smoothing, reduction, dtype, rng):
    x = rng.normal(size=shape).astype(dtype)
    labels = labels_for(x, rng)
    labels.ravel()[::5] = 1
    weight = rng.uniform(0.5, 2, shape[1]).astype(dtype) if weighted else None
    for ignore in (-100, 1):
        options = {"weight": weight, "ignore_index": ignore, "reduction": reduction}
        exact = {**options, "weight": weight.astype("f8") if weighted else None}
        wide = x.astype("f8")
        expected = torch_value(
            "cross_entropy", wide, labels, label_smoothing=smoothing, **exact
        )
        result = F.cross_entropy(x, labels, label_smoothing=smoothing, **options)
        assert_close(result, expected, np.abs(expected) + 4 * np.sqrt(labels.size))
        module = nn.CrossEntropyLoss(label_smoothing=smoothing, **options)
        np.testing.assert_array_equal(module(x, labels), result)
        log_p = log_softmax(wide).astype(dtype)
        expected = torch_value("nll_loss", log_p.astype("f8"), labels, **exact)
        result = F.nll_loss(log_p, labels, **options)
        assert_close(result, expected, np.abs(expected) + 4 * np.sqrt(labels.size))
        np.testing.assert_array_equal(nn.NLLLoss(**options)(log_p, labels), result)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [*SCORES.values(), (4,)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_class_probabilities(shape, weighted, smoothing, reduction, rng):
    x = rng.normal(size=shape)
    p = rng.uniform(size=shape)
    count = shape[min(1, len(shape) - 1)]
    options = {
        "weight": rng.uniform(0.5, 2, count) if weighted else None,
        "reduction": reduction,
        "label_smoothing": smoothing,
    }
    expected = torch_value("cross_entropy", x, p, **options)
    np.testing.assert_allclose(F.cross_entropy(x, p, **options), expected, 1e-12)


@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 1.0, 3.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignore", [-100, 2])
def test_one_sample_without_batch(weight, smoothing, ignore, rng):
    x = rng.normal(size=4)
    for label in (0, 2):
        for reduction in REDUCTIONS:
            options = {
                "weight": weight,
                "ignore_index": ignore,
                "label_smoothing": smoothing,
                "reduction": reduction,
            }
            expected = torch_value("cross_entropy", x, np.array(label), **options)
            result = F.cross_entropy(x, np.array(label), **options)
            assert result.shape == ()
            np.testing.assert_allclose(result, expected, 1e-12)


PAIRWISE = {
    "mse_loss": ({}, nn.MSELoss()),
    "l1_loss": ({}, nn.L1Loss()),
    "smooth_l1_loss": ({"beta": 0.7}, nn.SmoothL1Loss(beta=0.7)),
    "huber_loss": ({"delta": 0.7}, nn.HuberLoss(delta=0.7)),
}


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_regression(name, reduction, rng):
    options, module = PAIRWISE[name]
    x, t = rng.normal(size=(2, 5, 7)) * 2
    x[0, :3] = np.nan, np.inf, t[0, 2] + 0.7
    options = {**options, "reduction": reduction}
    expected = torch_value(name, x, t, **options)
    np.testing.assert_allclose(getattr(F, name)(x, t, **options), expected, 1e-12)
    x[0, :2] = 0
    expected = getattr(F, name)(x, t, **PAIRWISE[name][0])
    np.testing.assert_array_equal(module(x, t), expected)


def test_smooth_l1_without_a_smooth_part_is_l1(rng):
    x, t = rng.normal(size=(2, 8))
    np.testing.assert_array_equal(F.smooth_l1_loss(x, t, beta=0), F.l1_loss(x, t))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary(reduction, weighted, dtype, rng):
    x = rng.normal(size=(5, 4)) * 3
    x[0] = 0, 200, -200, 50
    t = rng.uniform(size=(5, 4)).round(1)
    p = 1 / (1 + np.exp(-x))
    p[1], t[1] = (0, 0, 1, 1), (0, 1, 0, 1)
    x, t, p = (a.astype(dtype) for a in (x, t, p))
    wide = [a.astype("f8") for a in (x, t, p)]
    weight = rng.uniform(size=4).astype(dtype) if weighted else None
    options = {"weight": weight, "reduction": reduction}
    exact = {"weight": weight.astype("f8") if weighted else None} | {
        "reduction": reduction
    }
    expected = torch_value("binary_cross_entropy", wide[2], wide[1], **exact)
    result = F.binary_cross_entropy(p, t, **options)
    assert_close(result, expected, np.abs(expected) + 1)
    np.testing.assert_array_equal(nn.BCELoss(**options)(p, t), result)
    for positive in (None, rng.uniform(0.5, 3, 4).astype(dtype)):
        wider = None if positive is None else positive.astype("f8")
        expected = torch_value(
            "binary_cross_entropy_with_logits", *wide[:2], pos_weight=wider, **exact
        )
        module = nn.BCEWithLogitsLoss(pos_weight=positive, **options)
        assert_close(module(x, t), expected, np.abs(expected) + 1)


@pytest.mark.parametrize(
    ("size_average", "reduce", "expected"),
    [
        (None, None, "sum"), (True, None, "mean"), (False, None, "sum"),
        (None, False, "none"), (False, True, "sum"), (True, True, "mean"),
    ],
)  # fmt: skip
def test_older_options(size_average, reduce, expected):
    assert nn.MSELoss(size_average, reduce, "sum").reduction == expected


def test_torch_tensors_and_saved_weights():
    torch = pytest.importorskip("torch")
    weight = np.array([1, 2, 3], np.float32)
    theirs = torch.nn.CrossEntropyLoss(torch.from_numpy(weight))
    ours = nn.CrossEntropyLoss(np.zeros(3, np.float32))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    result = ours(x, labels)
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result, theirs(x, labels))
    assert list(nn.BCEWithLogitsLoss(pos_weight=weight).state_dict()) == ["pos_weight"]


# Edges


def test_other_classes_may_be_impossible():
    x = np.array([[0.0, -np.inf, 1.0], [-np.inf, 0.0, 0.0]])
    result = F.cross_entropy(x, np.array([2, 1]), reduction="none")
    expected = [np.log1p(np.exp(-1)), np.log(2)]
    np.testing.assert_allclose(result, expected, 1e-12)
    ignored = F.cross_entropy(x, np.array([2, -100]), reduction="none")
    np.testing.assert_allclose(ignored, [expected[0], 0])


def test_ignored_samples_hide_nan():
    x = np.array([[np.nan, 0.0], [1.0, 0.0]])
    for smoothing in (0.0, 0.5):
        value = F.cross_entropy(x, np.array([-100, 0]), label_smoothing=smoothing)
        alone = F.cross_entropy(x[1:], np.array([0]), label_smoothing=smoothing)
        assert float(value) == float(alone)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_over_nothing_is_nan(smoothing):
    x, none = np.zeros((0, 3)), np.zeros(0, np.int64)
    assert np.isnan(F.cross_entropy(x, none, label_smoothing=smoothing))
    assert F.cross_entropy(x, none, reduction="sum", label_smoothing=smoothing) == 0
    assert np.isnan(F.cross_entropy(np.zeros((2, 3)), np.full(2, -100)))
    assert np.isnan(F.mse_loss(x, x)) and np.isnan(F.binary_cross_entropy(x, x))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_label_dtypes(dtype):
    x = np.eye(3, dtype=np.float32)
    labels = np.array([0, 1, 2])
    expected = F.cross_entropy(x, labels)
    assert F.cross_entropy(x, labels.astype(dtype)) == expected
    assert F.cross_entropy(x, labels.astype(dtype)).dtype == np.float32


# Refused inputs

X = np.zeros((2, 3))
REFUSED = {
    "label": (nn.RangeError, lambda: F.cross_entropy(X, np.array([0, 3]))),
    "negative": (nn.RangeError, lambda: F.nll_loss(X, np.array([-1, 0]))),
    "float labels": (DtypeError, lambda: F.cross_entropy(X, np.zeros(2))),
    "bool labels": (DtypeError, lambda: F.cross_entropy(X, np.zeros(2, bool))),
    "int scores": (DtypeError, lambda: F.cross_entropy(X.astype(int), [0, 1])),
    "other float": (DtypeError, lambda: F.mse_loss(X, X.astype(np.float32))),
    "int one-hot": (DtypeError, lambda: F.cross_entropy(X, X.astype(int))),
    "batch": (ShapeError, lambda: F.cross_entropy(X, np.array([0, 1, 2]))),
    "rank": (ShapeError, lambda: F.cross_entropy(X, np.array(1))),
    "no classes": (ShapeError, lambda: F.cross_entropy(X[:, :0], [0, 0])),
    "scalar": (ShapeError, lambda: F.nll_loss(np.array(1.0), np.array(0))),
    "one-hot": (ShapeError, lambda: F.cross_entropy(X, X[:, :2])),
    "broadcast": (ShapeError, lambda: F.mse_loss(X, X[:1])),
    "column": (ShapeError, lambda: F.l1_loss(X[:, 0], X[:, :1])),
    "weight": (ShapeError, lambda: F.cross_entropy(X, [0, 1], np.ones(2))),
    "bce weight": (ShapeError, lambda: F.binary_cross_entropy(X, X, np.ones(2))),
    "wide weight": (ShapeError, lambda: nn.BCELoss(np.ones((1, 2, 3)))(X, X)),
    "probability": (nn.RangeError, lambda: F.binary_cross_entropy(X - 1, X)),
    "target": (nn.RangeError, lambda: F.binary_cross_entropy(X, X + 1.5)),
    "nan": (nn.RangeError, lambda: F.binary_cross_entropy(X * np.nan, X)),
    "reduction": (nn.OptionError, lambda: nn.MSELoss(reduction="median")),
    "beta": (nn.OptionError, lambda: F.smooth_l1_loss(X, X, beta=-1)),
    "delta": (nn.OptionError, lambda: F.huber_loss(X, X, delta=0)),
    "smoothing": (nn.OptionError, lambda: F.cross_entropy(X, X, label_smoothing=2)),
    "ignored": (nn.OptionError, lambda: F.cross_entropy(X, X, ignore_index=1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    error, call = REFUSED[name]
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, js.JitseqError)


def test_the_message_shows_the_label():
    with pytest.raises(IndexError, match="label 7 is out of range") as caught:
        nn.CrossEntropyLoss()(X, np.array([0, 7]))
    assert "0 … 2" in str(caught.value) and "[1]" in str(caught.value)


# Tracing


LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(np.ones(3), ignore_index=1, label_smoothing=0.1),
    "nll": nn.NLLLoss(np.ones(3), reduction="sum"),
    "mse": nn.MSELoss(),
    "huber": nn.HuberLoss(delta=2),
    "smooth_l1": nn.SmoothL1Loss(reduction="none"),
    "bce": nn.BCELoss(),
    "logits": nn.BCEWithLogitsLoss(pos_weight=np.ones(3)),
}


def traced(loss, *arrays):
    """The graph of ``loss`` and the values of its inputs and params."""
    builder = Builder()
    inputs = [builder.add_input(type_of(a), f"x{i}") for i, a in enumerate(arrays)]
    with builder.tracing():
        result = loss(*map(Tracer, inputs))
    graph = builder.finish([result.value])
    values = dict(zip(inputs, arrays))
    return graph, values | {p: builder.variables[p.name].numpy() for p in graph.params}


def interpret(graph, values):
    values = dict(values)
    for node in graph.nodes:
        arrays = [values[value] for value in node.inputs]
        values[node.output] = get_op(node.op).reference(*arrays, **node.attrs)
    return [values[value] for value in graph.outputs]


@pytest.mark.parametrize("name", LOSSES)
def test_a_trace_means_the_eager_loss(name, rng):
    loss = LOSSES[name]
    x = rng.uniform(0.1, 0.9, (4, 3))
    classes = name in ("cross_entropy", "weighted", "nll")
    target = rng.integers(0, 3, 4) if classes else rng.uniform(0.1, 0.9, (4, 3))
    (result,) = interpret(*traced(loss, x, target))
    np.testing.assert_array_equal(result, loss(x, target))


GRADIENTS = {
    "cross_entropy": {},
    "cross_entropy weighted": {"weight": np.array([1, 2, 0.5]), "ignore_index": 1},
    "cross_entropy smooth": {"label_smoothing": 0.2, "ignore_index": 2},
    "cross_entropy smooth sum": {"label_smoothing": 0.2, "reduction": "sum"},
    "nll_loss": {"weight": np.array([1, 2, 0.5])},
    "mse_loss": {},
    "l1_loss": {},
    "smooth_l1_loss": {"beta": 0.3},
    "huber_loss": {"delta": 0.3},
    "binary_cross_entropy": {"weight": np.array([1, 2, 0.5])},
    "binary_cross_entropy_with_logits": {"pos_weight": np.array([1, 2, 0.5])},
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_pytorchs(name, rng):
    torch = pytest.importorskip("torch")
    function, options = name.split()[0], GRADIENTS[name]
    x, t = rng.uniform(size=(2, 4, 3))
    if function in ("cross_entropy", "nll_loss"):
        t = np.array([0, 1, 2, 1])
    else:
        x[0], t[0] = (0, 1, 0.5), (1, 0, 0.5)
        x[1, 0] = t[1, 0] + 0.3
    graph, values = traced(lambda x, t: getattr(F, function)(x, t, **options), x, t)
    joint = differentiate(graph, [graph.inputs[0]], seed=1.0)
    _, gradient = interpret(joint.graph, values)
    tensor = torch.tensor(x, requires_grad=True)
    arrays = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in options.items()
    }
    loss = getattr(torch.nn.functional, function)(tensor, torch.from_numpy(t), **arrays)
    loss.backward()
    # PyTorch's bound of x (1 - x) is 1e-12 as a float32, also in float64.
    near = 1e-8 if function == "binary_cross_entropy" else 1e-12
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), near, 1e-14)


def test_gradient_of_target_probabilities(rng):
    torch = pytest.importorskip("torch")
    x, t = rng.uniform(0.1, 0.9, (2, 4, 3))
    graph, values = traced(F.binary_cross_entropy, x, t)
    joint = differentiate(graph, [graph.inputs[1]], seed=1.0)
    _, gradient = interpret(joint.graph, values)
    target = torch.tensor(t, requires_grad=True)
    torch.nn.functional.binary_cross_entropy(torch.from_numpy(x), target).backward()
    np.testing.assert_allclose(gradient, target.grad.numpy(), 1e-12)

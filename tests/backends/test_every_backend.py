"""One suite for all backends: ops, the zoo, losses, optimizers, random numbers.

A new backend is tested here as soon as `jitseq.runtime.arguments.BACKENDS` names it.
The cuda backend runs on a GPU, or in numba's simulator where `conftest` found none.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from op_cases import CASES, CONTRACTIONS, inputs_of
from optimizer_cases import CASES as OPTIMIZERS
from small_zoo import small_model, small_sample
from tolerance import assert_close

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.ir.op import Example, Op
from jitseq.ir.tracer import apply
from jitseq.nn import Parameter
from jitseq.runtime.arguments import BACKENDS

ELSEWHERE = ("constant", "random_uniform")
"""Ops that no user's function can consist of."""

OPS = [case for case in CASES if case.values[0].name not in ELSEWHERE]
DIFFERENTIABLE = [
    case for case in OPS if case.values[0].vjp and not case.values[1].below
]
DEEP = ("vgg11_bn", "mobilenet_v1")
"""Models whose layers take long in numba's simulator."""

COMPILED = [backend for backend in BACKENDS if backend != "eager"]
CLOSE = 1e-11

every_backend = pytest.mark.parametrize("backend", BACKENDS)
compiled_backends = pytest.mark.parametrize("backend", COMPILED)


def assert_near(found: Any, expected: Any, rel: float = CLOSE) -> None:
    """Within ``rel`` of the largest element, or of 1 for sums that cancel."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    bound = rel * np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=rel, atol=bound)


# ops


def function_of(op: Op, example: Example, arrays: list[np.ndarray]) -> Any:
    """The op as a function of its inputs; weights of layers are parameters."""
    inputs = 1 if op.name in (*CONTRACTIONS, "batch_norm") else len(arrays)
    params = [Parameter(array) for array in arrays[inputs:]]

    def function(*values: Any) -> Any:
        return apply(op.name, *values, *params, **example.attrs)

    return function, arrays[:inputs]


def magnitude(op: Op, example: Example, arrays: list[np.ndarray]) -> tuple[Any, int]:
    """Σ|a||b| and the number of terms of an op that sums products, else bounds."""
    wide = [np.abs(array.astype(np.float64)) for array in arrays]
    if op.name in CONTRACTIONS:
        terms = int(np.prod(arrays[1].shape[1:]))
        return op.reference(*wide, **example.attrs), terms
    if op.name in ("sum", "mean", "avg_pool2d", "adaptive_avg_pool2d"):
        return op.reference(*wide, **example.attrs), arrays[0].size
    return max((np.max(array, initial=1.0) for array in wide), default=1.0), 1


@every_backend
@pytest.mark.parametrize("op, example", OPS)
def test_op(op: Op, example: Example, backend: str) -> None:
    arrays = inputs_of(op, example, "float32")
    wide = [array.astype(np.float64) for array in arrays]
    reference = op.reference(*wide, **example.attrs)
    function, inputs = function_of(op, example, arrays)
    result = js.jit(function, backend=backend)(*inputs)
    assert result.dtype == np.float32
    size, terms = magnitude(op, example, arrays)
    assert_close(result, reference, np.broadcast_to(size, reference.shape), terms)


@compiled_backends
@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_gradients_of_op(op: Op, example: Example, backend: str) -> None:
    arrays = inputs_of(op, example, "float64")
    function, inputs = function_of(op, example, arrays)
    expected, eager = js.vjp(function, *inputs)
    out, pullback = js.jit(function, backend=backend).vjp(*inputs)
    assert_near(out, expected)
    g = np.random.default_rng(7).normal(size=out.shape)
    for found, reference in zip(pullback(g)[0], eager(g)[0], strict=True):
        assert_near(found, reference)


@compiled_backends
def test_nan_and_infinity_spread_as_in_pytorch(backend: str) -> None:
    """Through a maximum, a window, a comparison, and a softmax row of its own."""
    x = np.zeros((4, 2, 4, 4), np.float32)
    x[0, 0, 1, 1], x[1, 1, 2, 3], x[2, 0, 0, 0] = np.nan, np.inf, -np.inf
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(1))
    expected = model(x)
    found = js.jit(model, backend=backend)(x)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, 1e-6)


# models


@every_backend
@pytest.mark.parametrize("name", ZOO)
def test_zoo_model(name: str, backend: str) -> None:
    """One program for several batch sizes."""
    model = small_model(name)
    wide = small_model(name, "float64")
    compiled = js.jit(model, backend=backend)
    for batch in (1, 2) if name in DEEP else (1, 3):
        x = small_sample(name, batch)
        assert_near(compiled(x), wide(x.astype("float64")).astype("float32"), 3e-5)
    assert compiled.cache_info().misses == (backend != "eager")


@cache
def trained_in_eager_mode(name: str) -> tuple[list[float], dict[str, np.ndarray]]:
    return trained(name, "eager")


def trained(name: str, backend: str) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and state after steps on two batch sizes, in training mode."""
    model = small_model(name, "float64").train()
    optimizer = optim.SGD(model.parameters(), 0.05, momentum=0.9)
    step = js.train_step(model, nn.MSELoss(), optimizer, backend=backend)
    js.manual_seed(3)
    losses = []
    for batch in (2,) if name in DEEP else (3, 2):
        x = small_sample(name, batch, "float64")
        losses.append(step(x, 0.1 * np.ones_like(model.eval()(x))))
        model.train()
    state = {key: np.array(value) for key, value in model.state_dict().items()}
    return losses, state


@compiled_backends
@pytest.mark.parametrize("name", ZOO)
def test_zoo_model_trains(name: str, backend: str) -> None:
    losses, state = trained_in_eager_mode(name)
    found, own = trained(name, backend)
    np.testing.assert_allclose(found, losses, 1e-9)
    for key, value in state.items():
        assert_near(own[key], value, 1e-8)


# losses and optimizers

N, C = 4, 3
SCORES = np.random.default_rng(1).normal(size=(N, C))
LABELS = np.array([2, 0, 1, 2])
TARGETS = np.random.default_rng(2).uniform(0.1, 0.9, (N, C))
WEIGHT = np.array([0.5, 2.0, 1.0])
LOSSES: dict[str, tuple[Any, Any]] = {
    "cross entropy": (nn.CrossEntropyLoss(), LABELS),
    "weighted": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), LABELS),
    "ignoring": (nn.CrossEntropyLoss(ignore_index=2, reduction="sum"), LABELS),
    "probabilities": (nn.CrossEntropyLoss(), TARGETS),
    "nll": (nn.NLLLoss(), LABELS),
    "mse": (nn.MSELoss(), TARGETS),
    "l1": (nn.L1Loss(), TARGETS),
    "smooth l1": (nn.SmoothL1Loss(beta=0.5), TARGETS),
    "huber": (nn.HuberLoss(delta=0.7), TARGETS),
    "bce with logits": (nn.BCEWithLogitsLoss(), TARGETS),
    "bce": (lambda x, y: nn.BCELoss()(nn.functional.sigmoid(x), y), TARGETS),
}


@compiled_backends
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str, backend: str) -> None:
    loss, y = LOSSES[name]
    model = nn.Linear(C, C).double()
    value, gradients = js.value_and_grad(model, loss)(SCORES, y)
    found, own = js.value_and_grad(model, loss, backend=backend)(SCORES, y)
    assert found == pytest.approx(value, rel=CLOSE)
    for key, gradient in gradients.items():
        assert_near(own[key], gradient)


@compiled_backends
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str, backend: str) -> None:
    kind, options = OPTIMIZERS[name]
    models = []
    for chosen in (backend, "eager"):
        js.manual_seed(5)
        model = nn.Sequential(nn.Linear(C, 4), nn.Tanh(), nn.Linear(4, C)).double()
        optimizer = getattr(optim, kind)(model.parameters(), **options)
        step = js.train_step(
            model, nn.CrossEntropyLoss(), optimizer, backend=chosen, clip_norm=0.5
        )
        losses = [step(SCORES, LABELS) for _ in range(3)]
        models.append((losses, model.state_dict()))
    (found, own), (losses, state) = models
    np.testing.assert_allclose(found, losses, 1e-9)
    for key, value in state.items():
        assert_near(own[key], value, 1e-8)


# what holds for every backend


@compiled_backends
def test_dropout_draws_the_same_mask(backend: str) -> None:
    model = nn.Sequential(nn.Dropout(0.4), nn.Linear(6, 5)).train()
    x = np.ones((7, 6), np.float32)
    results = []
    for chosen in (backend, "eager"):
        js.manual_seed(11)
        results.append(js.jit(model, backend=chosen)(x))
    np.testing.assert_allclose(*results, 1e-5, 1e-6)


@compiled_backends
def test_weights_are_never_stale(backend: str) -> None:
    model = nn.Linear(4, 3)
    compiled, x = js.jit(model, backend=backend), np.ones((2, 4), np.float32)
    for scale in (1.0, -2.0):
        model.weight[...] = np.full((3, 4), scale)
        np.testing.assert_allclose(compiled(x), model(x), 1e-5)


@compiled_backends
def test_source_shows_the_kernels(backend: str) -> None:
    compiled = js.trace(nn.Linear(4, 3), np.ones((2, 4), np.float32), backend=backend)
    kernels = compiled.explain().kernels
    assert kernels and all(kernel.name in compiled.source() for kernel in kernels)

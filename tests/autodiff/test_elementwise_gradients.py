"""Gradients of elementwise functions: finite differences, PyTorch, kinks, training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from elementwise_functions import (
    FUNCTIONS,
    arrays_for,
    clipped,
    gelu,
    hardswish,
    mish,
    registry_as_before,
    softplus,
    swish,
)

import jitseq as js
from jitseq import nn, optim
from jitseq.ir.trace import trace
from jitseq.ir.types import TensorType
from jitseq.nn import functional as F
from jitseq.passes.autodiff import differentiate
from jitseq.runtime.arguments import BACKENDS

__all__ = ["registry_as_before"]
COMPILED = [backend for backend in BACKENDS if backend != "eager"]


def swish_derivatives(x, beta):
    s = 1 / (1 + math.exp(-beta * x))
    return s * (1 + beta * x * (1 - s)), x * x * s * (1 - s)


@js.elementwise(derivative=swish_derivatives)
def given_swish(x, beta):
    return x / (1 + math.exp(-beta * x))


@js.elementwise(
    derivative=lambda x, *, slope: 1.0 if x > 0 else slope,
)
def leaky(x, *, slope=0.1):
    return x if x > 0 else slope * x


@js.elementwise(derivative=lambda x: 1.0, check=False)
def straight_through(x):
    return 1.0 if x > 0 else -1.0


@js.elementwise
def calls_given(x, y):
    return straight_through(x * y) * given_swish(y, x)


def gradients(function, *arrays, backend="eager", g=None):
    """Input gradients for the cotangent ``g``, ones by default."""
    target = function if backend == "eager" else js.jit(function, backend=backend)
    out, pullback = js.vjp(target, *arrays)
    return pullback(np.ones_like(out) if g is None else g)[0]


@pytest.mark.parametrize("function, count", FUNCTIONS)
def test_finite_differences(function, count, rng) -> None:
    function.check()
    arrays = [3 * rng.standard_normal(50) for _ in range(count)]
    for index, gradient in enumerate(gradients(function, *arrays)):
        step = np.zeros((count, 1))
        step[index] = 1e-6
        up, down = function(*(arrays + step)), function(*(arrays - step))
        np.testing.assert_allclose(gradient, (up - down) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("function, count", FUNCTIONS)
def test_compiled_gradients(function, count, backend, rng) -> None:
    """Broadcast operands too: their gradients are sums, of their own shapes."""
    arrays = arrays_for(count, rng)
    doubles = [x.astype(np.float64) for x in arrays]
    g = rng.standard_normal(arrays[0].shape, dtype=np.float32)
    expected = gradients(function, *doubles, g=g.astype(np.float64))
    found = gradients(function, *arrays, backend=backend, g=g)
    for x, gradient, wanted in zip(arrays, found, expected, strict=True):
        assert gradient.shape == x.shape and gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


TORCH = {
    "mish": (mish, {}, "mish", {}),
    "swish": (swish, {}, "silu", {}),
    "softplus": (softplus, {}, "softplus", {}),
    "softplus-beta": (softplus, {"beta": 3.0}, "softplus", {"beta": 3.0}),
    "hardswish": (hardswish, {}, "hardswish", {}),
    "gelu": (gelu, {}, "gelu", {}),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", TORCH)
def test_torch(case, backend) -> None:
    torch = pytest.importorskip("torch")
    function, numbers, name, options = TORCH[case]
    x = np.linspace(-30, 30, 121).astype(np.float32)

    def target(x):
        return function(x, **numbers)

    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    getattr(torch.nn.functional, name)(tensor, **options).sum().backward()
    (gradient,) = gradients(target, x, backend=backend)
    kink = np.abs(x) == 3 if case == "hardswish" else np.zeros(x.shape, bool)
    expected = np.where(kink, gradient, tensor.grad.numpy())
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_overflowing_exponentials(backend) -> None:
    """Where exp overflows in float32, derivatives still have their limits."""
    x = np.float32([-1e4, -200, -89, 89, 200, 1e4])
    one = (x > 0).astype(np.float32)
    for function in (mish, swish, lambda x: softplus(x, threshold=1e9)):
        result = gradients(function, x, backend=backend)[0]
        np.testing.assert_allclose(result, one, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("backend", BACKENDS)
def test_kinks_and_ties(backend) -> None:
    @js.elementwise
    def size(x):
        return abs(x)

    @js.elementwise
    def larger(x, y):
        return max(x, y) + 2 * min(y, x)

    @js.elementwise
    def bounded(x):
        return min(max(x, -1.0), 1.0)

    inf, nan = np.inf, np.nan
    x = np.float32([-2, 0, 3, nan])
    np.testing.assert_array_equal(gradients(size, x, backend=backend)[0], [-1, 0, 1, 0])
    x, y = np.float32([[1, 2, 2, nan, 1], [2, 1, 2, 1, nan]])
    found = gradients(larger, x, y, backend=backend)
    expected = gradients(lambda x, y: F.maximum(x, y) + 2 * F.minimum(x, y), x, y)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(expected[0], [2, 1, 1.5, 3, 3])
    x = np.float32([-inf, -1, 0, 1, 2, inf])
    found = gradients(bounded, x, backend=backend)[0]
    np.testing.assert_array_equal(found, [0, 0.5, 1, 0.5, 0, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sides_not_taken_have_no_gradient(backend) -> None:
    """Roots and logarithms of the other side are infinite or NaN."""

    @js.elementwise
    def guarded(x):
        positive = x if x > 0 else 0.0
        return math.sqrt(positive) + (math.log(x) if x > 0 else 0.0)

    x = np.float32([-4, 0, 4, -np.inf])
    found = gradients(guarded, x, backend=backend)[0]
    np.testing.assert_allclose(found, [0, 0, 0.5, 0], rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_given_derivatives(backend, rng) -> None:
    x, y = (rng.standard_normal((4, 5), dtype=np.float32) for _ in range(2))
    np.testing.assert_allclose(
        gradients(given_swish, x, y, backend=backend), gradients(swish, x, y), rtol=1e-5
    )
    (found,) = gradients(straight_through, x, backend=backend)
    np.testing.assert_array_equal(found, np.ones_like(x))
    (found,) = gradients(lambda x: leaky(x, slope=0.5), x, backend=backend)
    np.testing.assert_array_equal(found, np.where(x > 0, 1, 0.5))


def test_a_given_derivative_is_used_in_other_functions(rng) -> None:
    x, y = (rng.standard_normal((4, 5)) for _ in range(2))
    expected = gradients(lambda x, y: straight_through(x * y) * given_swish(y, x), x, y)
    np.testing.assert_allclose(gradients(calls_given, x, y), expected, rtol=1e-12)


def test_wrong_derivatives_are_refused() -> None:
    def cube(x):
        return x * x * x

    wrong = "the derivative to x is wrong"
    for derivative in (lambda x: 2 * x * x, lambda x: 3.001 * x * x, lambda x: x / 0):
        with pytest.raises(js.JitseqError, match=wrong) as caught:
            js.elementwise(cube, derivative=derivative)
        assert {"at", "given", "differences"} <= caught.value.facts.keys()
    js.elementwise(cube, derivative=lambda x: 3 * x * x)
    with pytest.raises(js.JitseqError, match="the derivative to low is wrong"):
        js.elementwise(derivative=lambda x, low, high: (1.0 if low < x < high else 0.0,
            1.0 if x <= low else 0.0, 1.0 if x >= high else 0.0)
        )(clipped.__wrapped__)  # fmt: skip

    def nowhere(x):
        return math.sqrt(-x * x - 1)

    with pytest.raises(js.JitseqError, match="could not be checked"):
        js.elementwise(nowhere, derivative=lambda x: x)


def test_derivatives_of_other_arguments_are_refused() -> None:
    def power(x, y, *, k):
        return x * y * k

    refused = [
        (lambda x: x, "takes other arguments"),
        (lambda x, y, *, j: (x, j), "takes other arguments"),
        (lambda x, y: x, "returns 1 numbers"),
        (lambda x, y: (x, y, x), "returns 3 numbers"),
    ]
    for derivative, message in refused:
        with pytest.raises(js.JitseqError, match=message):
            js.elementwise(power, derivative=derivative)
    known = js.elementwise(power, derivative=lambda a, b, *, k: (b * k, a))
    with pytest.raises(nn.OptionError, match="needs numbers for k"):
        known.check()
    known.check(k=1)
    with pytest.raises(js.JitseqError, match="the derivative to y is wrong"):
        known.check(k=2)


def test_only_what_a_derivative_reads_is_read(rng) -> None:
    """x + y² needs neither operand for x, and only y for y."""

    @js.elementwise
    def added(x, y):
        return x + y * y

    x, y = (rng.standard_normal((4, 5), dtype=np.float32) for _ in range(2))
    compiled = js.jit(added)
    np.testing.assert_allclose(compiled.vjp(x, y)[1](x)[0], (x, 2 * y * x), rtol=1e-6)
    graph = trace(added, [TensorType("float32", (4, 5))] * 2).graph
    backward = differentiate(graph, graph.inputs).graph.nodes[1:]
    assert [(node.op, len(node.inputs)) for node in backward] == [("added_y_grad", 2)]


class Gate(nn.Module):
    """`swish` with a learned number for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(np.ones((channels, 1, 1), np.float32))

    def forward(self, x):
        return swish(x, self.beta)


@pytest.mark.parametrize("backend", COMPILED)
def test_training_step(backend, rng) -> None:
    """Losses and parameters are those of the eager step, the learned number's too."""
    x = rng.standard_normal((8, 3, 6, 6), dtype=np.float32)
    y = rng.integers(0, 4, 8)
    losses, states = [], []
    for kind in ("eager", backend):
        nn.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), Gate(8), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(32, 4), nn.Elementwise(leaky, slope=0.3),
        )  # fmt: skip
        step = js.train_step(
            model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1),
            backend=kind,
        )  # fmt: skip
        losses.append([step(x, y) for _ in range(5)])
        states.append(model.state_dict())
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
    assert not np.allclose(states[0]["1.beta"], 1, atol=1e-3)
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-4, atol=1e-6)

"""`vjp` and `value_and_grad` as users call them."""

from __future__ import annotations

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.errors import JitseqError, ShapeError
from jitseq.nn import functional as F


def model(*layers):
    js.manual_seed(3)
    return nn.Sequential(*layers).double()


def small():
    return model(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def test_results_and_names(rng) -> None:
    net, x = small(), rng.normal(size=(5, 4))
    out, pullback = js.vjp(net, x)
    np.testing.assert_array_equal(out, net(x))
    (dx,), gradients = pullback(np.ones_like(out))
    assert dx.shape == x.shape
    assert list(gradients) == list(net.state_dict())
    for name, parameter in net.named_parameters():
        assert gradients[name].shape == parameter.shape


def test_frozen_parameters_are_absent(rng) -> None:
    net, x = small(), rng.normal(size=(5, 4))
    _, everything = js.vjp(net, x)[1](np.ones((5, 3)))
    net[0].requires_grad_(False)
    _, some = js.vjp(net, x)[1](np.ones((5, 3)))
    assert list(some) == ["2.weight", "2.bias"]
    for name, gradient in some.items():
        np.testing.assert_array_equal(gradient, everything[name])


def test_a_shared_layer_adds_its_gradients(rng) -> None:
    layer = nn.Linear(4, 4).double()
    shared = nn.Sequential(layer, nn.Tanh(), layer)
    twin = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    twin.load_state_dict(shared.state_dict())
    x, g = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    (dx,), together = js.vjp(shared, x)[1](g)
    (expected,), apart = js.vjp(twin, x)[1](g)
    np.testing.assert_allclose(dx, expected, rtol=1e-12)
    assert list(together) == ["0.weight", "0.bias"]
    for name in ("weight", "bias"):
        total = apart[f"0.{name}"] + apart[f"2.{name}"]
        np.testing.assert_allclose(together[f"0.{name}"], total, rtol=1e-12)


def test_a_skip_connection_adds_its_gradients(rng) -> None:
    block, x = model(nn.Linear(4, 4), nn.ReLU()), rng.normal(size=(5, 4))
    g = rng.normal(size=(5, 4))
    (direct,), inner = js.vjp(block, x)[1](g)
    (dx,), gradients = js.vjp(lambda a: block(a) + a, x)[1](g)
    np.testing.assert_allclose(dx, direct + g, rtol=1e-12)
    assert [name.split(".", 1)[1] for name in gradients] == list(inner)


def test_a_pullback_keeps_the_values_of_its_call(rng) -> None:
    """Changes of inputs, results and parameters in between do not matter."""
    net, x = model(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), rng.normal(size=(5, 4))
    g = rng.normal(size=(5, 2))
    expected = js.vjp(net, x)[1](g)
    out, pullback = js.vjp(net, x)
    x[...], out[...] = 0, 0
    for parameter in net.parameters():
        parameter[...] = 7.0
    for _ in range(2):
        (dx,), gradients = pullback(g)
        np.testing.assert_array_equal(dx, expected[0][0])
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, expected[1][name])
            gradient[...] = 0  # the caller's own


def test_gradients_do_not_share_memory() -> None:
    x, y, g = np.ones(3), np.ones(3), np.arange(3.0)
    (dx, dy), _ = js.vjp(lambda a, b: a + b, x, y)[1](g)
    dx[...] = 9
    np.testing.assert_array_equal(dy, [0, 1, 2])
    np.testing.assert_array_equal(g, [0, 1, 2])


def test_structured_results(rng) -> None:
    x = rng.normal(size=(3, 2))
    out, pullback = js.vjp(lambda a: {"p": F.exp(a), "q": (a * 2, F.tanh(a))}, x)
    g = {"p": np.ones((3, 2)), "q": (np.ones((3, 2)), np.zeros((3, 2)))}
    (dx,), _ = pullback(g)
    np.testing.assert_allclose(dx, out["p"] + 2, rtol=1e-12)
    with pytest.raises(ShapeError, match="built as the result"):
        pullback({"p": g["p"]})
    with pytest.raises(ShapeError, match="built as the result"):
        pullback(np.ones((3, 2)))


def test_a_cotangent_of_another_shape_is_refused() -> None:
    _, pullback = js.vjp(small(), np.ones((5, 4)))
    with pytest.raises(ShapeError, match="shape of the result"):
        pullback(np.ones(3))


def test_compiled_targets_differentiate_as_their_target(rng) -> None:
    net, x, g = small(), rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    (dx,), gradients = js.vjp(js.jit(net), x)[1](g)
    (expected,), others = js.vjp(net, x)[1](g)
    np.testing.assert_allclose(dx, expected, rtol=1e-12)
    assert list(gradients) == list(others)


def test_value_and_grad_descends(rng) -> None:
    net, x, y = small(), rng.normal(size=(8, 4)), rng.integers(3, size=8)
    step = js.value_and_grad(net, nn.CrossEntropyLoss())
    before, gradients = step(x, y)
    assert isinstance(before, float)
    assert before == pytest.approx(float(nn.CrossEntropyLoss()(net(x), y)), rel=1e-12)
    assert list(gradients) == list(net.state_dict())
    for name, parameter in net.named_parameters():
        parameter[...] = parameter.numpy() - 0.05 * gradients[name]
    assert step(x, y)[0] < before


def test_value_and_grad_against_central_differences(rng) -> None:
    net, x, y = small(), rng.normal(size=(8, 4)), rng.normal(size=(8, 3))
    step = js.value_and_grad(net, nn.MSELoss())
    _, gradients = step(x, y)
    weight, values = net[2].weight, []
    direction = rng.normal(size=weight.shape)
    start = np.array(weight.numpy())
    for sign in (1, -1):
        weight[...] = start + sign * 1e-6 * direction
        values.append(step(x, y)[0])
    expected = (values[0] - values[1]) / 2e-6
    assert np.sum(gradients["2.weight"] * direction) == pytest.approx(
        expected, rel=1e-7
    )


def test_value_and_grad_of_a_function_of_two_inputs(rng) -> None:
    net = small()
    step = js.value_and_grad(lambda a, b: net(a) * b, nn.MSELoss(reduction="sum"))
    a, b, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 3)), np.zeros((5, 3))
    value, gradients = step(a, b, y)
    assert value == pytest.approx(float(np.sum((net(a) * b) ** 2)), rel=1e-12)
    assert len(gradients) == 4


@pytest.mark.parametrize("loss", [lambda out, y: out - y, lambda out, y: (out, out)])
def test_a_loss_is_one_number(loss) -> None:
    step = js.value_and_grad(small(), loss)
    with pytest.raises(ShapeError, match="one number"):
        step(np.ones((5, 4)), np.ones((5, 3)))


def test_value_and_grad_needs_a_target() -> None:
    with pytest.raises(JitseqError, match="inputs and y"):
        js.value_and_grad(small(), nn.MSELoss())(np.ones((5, 4)))


def test_torch_tensors_and_modules() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    out, pullback = js.vjp(module, x)
    (dx,), gradients = pullback(torch.ones_like(out))
    module(x).sum().backward()
    torch.testing.assert_close(dx, x.grad, rtol=1e-9, atol=1e-12)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-9)

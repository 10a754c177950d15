"""Compiled pullbacks and losses: eager and PyTorch's gradients, one program each."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.errors import RangeError
from jitseq.nn import functional as F

CLOSE = {"float32": 2e-4, "float64": 1e-11}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two threads": {"threads": 2},
    "static batch": {"dynamic_batch": False},
    "no optional pass": {
        "disable_passes": (
            "fold_batchnorm", "simplify", "fuse", "segment", "reuse_memory",
        )
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def every_call_on_threads(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 1)


def network(dtype: str = "float64") -> nn.Sequential:
    js.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.3), nn.Flatten(), nn.Linear(45, 6), nn.Tanh(),
    ).to(dtype)  # fmt: skip


def small() -> nn.Sequential:
    js.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def close(got: Any, expected: Any, rel: float = 1e-11) -> None:
    """Within ``rel`` of the largest element, or of 1 for sums that cancel."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape and got.dtype == expected.dtype
    bound = rel * np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def all_close(got: Any, expected: Any, rel: float = 1e-11) -> None:
    assert list(got) == list(expected)
    for name, value in got.items():
        close(value, expected[name], rel)


def after(seed: int, call: Any) -> Any:
    js.manual_seed(seed)
    return call()


# vjp


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_pullbacks_are_those_of_eager_mode(
    name: str, training: bool, dtype: str, rng: Any
) -> None:
    ours, twin = network(dtype).train(training), network(dtype).train(training)
    compiled = js.jit(ours, **OPTIONS[name])
    for seed, n in enumerate((5, 96, 2, 41)):
        x = rng.normal(size=(n, 2, 6, 6)).astype(dtype)
        expected, eager = after(seed, lambda x=x: js.vjp(twin, x))
        out, pullback = after(seed, lambda x=x: compiled.vjp(x))
        close(out, expected, CLOSE[dtype])
        for _ in range(2):
            g = rng.normal(size=out.shape).astype(dtype)
            (dx,), gradients = pullback(g)
            (other,), others = eager(g)
            close(dx, other, CLOSE[dtype])
            all_close(gradients, others, CLOSE[dtype])
        all_close(ours.state_dict(), twin.state_dict(), CLOSE[dtype])


def test_pullbacks_are_pytorchs(rng: Any) -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Conv2d(2, 5, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(2)
    theirs = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(20, 3))
    compiled = js.jit(theirs)
    for n in (4, 9):
        x = torch.randn(n, 2, 6, 6, requires_grad=True)
        g = torch.randn(n, 3)
        theirs.zero_grad()
        theirs(x).backward(g)
        out, pullback = compiled.vjp(x)
        (dx,), gradients = pullback(g)
        assert isinstance(out, torch.Tensor) and isinstance(dx, torch.Tensor)
        close(dx.numpy(), x.grad.numpy(), 1e-5)
        for name, parameter in theirs.named_parameters():
            close(gradients[name], parameter.grad.numpy(), 1e-5)
            parameter.data -= 0.1 * parameter.grad


def test_a_pullback_keeps_the_values_of_its_call(rng: Any) -> None:
    """Inputs, results, parameters and buffers may change, masks may be drawn."""
    for training in (True, False):
        net, x = network().train(training), rng.normal(size=(5, 2, 6, 6))
        g = rng.normal(size=(5, 6))
        state = {key: np.array(value) for key, value in net.state_dict().items()}
        (expected,), others = after(1, lambda net=net, x=x: js.vjp(net, x))[1](g)
        net.load_state_dict(state)
        compiled = js.jit(net)
        out, pullback = after(1, lambda compiled=compiled, x=x: compiled.vjp(x))
        x[...], out[...] = 0, 0
        for parameter in net.parameters():
            parameter[...] = 7.0
        for buffer in net.buffers():
            buffer[...] = 3
        _, another = compiled.vjp(np.ones_like(x))
        for _ in range(2):
            another(g)
            (dx,), gradients = pullback(g)
            close(dx, expected)
            all_close(gradients, others)
            dx[...] = 0


def test_frozen_parameters_are_absent(rng: Any) -> None:
    net, x, g = small(), rng.normal(size=(5, 4)), np.ones((5, 3))
    compiled = js.jit(net)
    _, everything = compiled.vjp(x)[1](g)
    net[0].requires_grad_(False)
    _, some = compiled.vjp(x)[1](g)
    assert list(some) == ["2.weight", "2.bias"]
    all_close(some, {name: everything[name] for name in some})
    net.requires_grad_(False)
    (dx,), none = compiled.vjp(x)[1](g)
    assert none == {} and dx.shape == x.shape
    net.requires_grad_()
    all_close(compiled.vjp(x)[1](g)[1], everything)
    assert compiled.cache_info().misses == 1


def test_two_inputs_and_two_results(rng: Any) -> None:
    first, second = small(), nn.Linear(3, 2).double()

    def function(a: Any, b: Any) -> dict[str, Any]:
        h = first(a)
        return {"x": second(h * b), "y": (F.sum(h, 1), [a])}

    compiled = js.jit(function)
    for n in (3, 40):
        a, b = rng.normal(size=(n, 4)), rng.normal(size=(n, 3))
        out, pullback = compiled.vjp(a, b)
        expected, eager = js.vjp(function, a, b)
        close(out["x"], expected["x"]), close(out["y"][1][0], a)
        g = {
            "x": rng.normal(size=(n, 2)),
            "y": (rng.normal(size=n), [rng.normal(size=(n, 4))]),
        }
        (da, db), gradients = pullback(g)
        (ea, eb), others = eager(g)
        close(da, ea), close(db, eb)
        all_close(gradients, others)


def test_labels_get_no_gradient(rng: Any) -> None:
    net, loss = small(), nn.CrossEntropyLoss()
    compiled = js.jit(lambda x, y: loss(net(x), y))
    for n in (5, 33):
        x, y = rng.normal(size=(n, 4)), rng.integers(0, 3, n)
        value, pullback = compiled.vjp(x, y)
        expected, eager = js.vjp(compiled.target, x, y)
        close(value, expected)
        (dx, dy), gradients = pullback(np.ones(()))
        (other, _), others = eager(np.ones(()))
        assert dy is None
        close(dx, other)
        all_close(gradients, others)
    with pytest.raises(RangeError):
        compiled.vjp(x, y + 3)


def test_an_unused_input_and_an_input_that_is_returned(rng: Any) -> None:
    compiled = js.jit(lambda a, b: (a, a * 2.0))
    a, b = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    (same, twice), pullback = compiled.vjp(a, b)
    np.testing.assert_array_equal(same, a)
    np.testing.assert_array_equal(twice, 2 * a)
    (da, db), _ = pullback((np.ones((3, 2)), np.ones((3, 2))))
    np.testing.assert_array_equal(da, np.full((3, 2), 3.0))
    np.testing.assert_array_equal(db, np.zeros((3, 2)))


@pytest.mark.parametrize(
    "cotangent", [np.ones(3), np.ones((5, 3), complex), (np.ones((5, 3)),) * 2]
)
def test_cotangents_are_refused_as_in_eager_mode(cotangent: Any) -> None:
    net, x = small(), np.ones((5, 4))
    with pytest.raises(js.JitseqError) as eager:
        js.vjp(net, x)[1](cotangent)
    with pytest.raises(type(eager.value)) as compiled:
        js.jit(net).vjp(x)[1](cotangent)
    assert str(compiled.value) == str(eager.value)


def test_cotangents_are_converted_and_may_be_strided(rng: Any) -> None:
    _, pullback = js.jit(small()).vjp(rng.normal(size=(5, 4)))
    g = rng.normal(size=(3, 5)).T
    (expected,), others = pullback(np.ascontiguousarray(g))
    (dx,), gradients = pullback(g)
    np.testing.assert_array_equal(dx, expected)
    all_close(gradients, others, 0.0)
    assert pullback(np.ones((5, 3), np.int32))[0][0].dtype == np.float64


def test_an_empty_batch() -> None:
    out, pullback = js.jit(small()).vjp(np.ones((0, 4)))
    (dx,), gradients = pullback(out)
    assert dx.shape == (0, 4) and not any(g.any() for g in gradients.values())


def test_pullbacks_from_several_threads(rng: Any) -> None:
    compiled = js.jit(network(), threads=2)
    g = rng.normal(size=(30, 6))
    _, pullback = compiled.vjp(rng.normal(size=(30, 2, 6, 6)))
    (expected,), others = pullback(g)
    found: list[Any] = []

    def work() -> None:
        for _ in range(5):
            found.append(pullback(g))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(found) == 20
    for (dx,), gradients in found:
        close(dx, expected)
        all_close(gradients, others)


# value_and_grad


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", OPTIONS)
def test_losses_are_those_of_eager_mode(name: str, dtype: str, rng: Any) -> None:
    ours, twin = network(dtype), network(dtype)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    compiled = js.value_and_grad(js.jit(ours, **OPTIONS[name]), loss)
    eager = js.value_and_grad(twin, loss)
    for seed, (n, training) in enumerate(
        [(5, True), (96, True), (41, False), (5, True), (1, False), (41, False)]
    ):
        ours.train(training), twin.train(training)
        x = rng.normal(size=(n, 2, 6, 6)).astype(dtype)
        y = rng.integers(0, 6, n)
        value, gradients = after(seed, lambda x=x, y=y: compiled(x, y))
        expected, others = after(seed, lambda x=x, y=y: eager(x, y))
        assert isinstance(value, float)
        assert value == pytest.approx(expected, rel=CLOSE[dtype])
        all_close(gradients, others, CLOSE[dtype])
        all_close(ours.state_dict(), twin.state_dict(), CLOSE[dtype])
    if name != "static batch":
        assert compiled.cache_info().misses == 2


def test_backends(rng: Any) -> None:
    net, x, y = small(), rng.normal(size=(8, 4)), rng.normal(size=(8, 3))
    expected, others = js.value_and_grad(net, nn.MSELoss())(x, y)
    forms = [
        js.value_and_grad(net, nn.MSELoss(), backend="cpu"),
        js.value_and_grad(net, nn.MSELoss(), backend="eager"),
        js.value_and_grad(js.jit(net), nn.MSELoss(), backend="eager"),
        js.value_and_grad(js.jit(net, backend="eager"), nn.MSELoss()),
        js.value_and_grad(js.jit(net, backend="eager"), nn.MSELoss(), backend="cpu"),
    ]
    counts = []
    for form in forms:
        value, gradients = form(x, y)
        assert value == pytest.approx(expected, rel=1e-12)
        all_close(gradients, others)
        info = getattr(form, "cache_info", None)
        counts.append(0 if info is None else info().misses)
    assert counts == [1, 0, 0, 0, 1]
    with pytest.raises(js.UnsupportedError):
        js.value_and_grad(net, nn.MSELoss(), backend="abacus")


def test_frozen_parameters_and_new_values_are_seen(rng: Any) -> None:
    net, x, y = small(), rng.normal(size=(8, 4)), rng.normal(size=(8, 3))
    compiled = js.value_and_grad(js.jit(net), nn.MSELoss())
    eager = js.value_and_grad(net, nn.MSELoss())
    for frozen in (False, True, False):
        net[0].requires_grad_(not frozen)
        net[2].weight[...] = rng.normal(size=(3, 6))
        value, gradients = compiled(x, y)
        expected, others = eager(x, y)
        assert value == pytest.approx(expected, rel=1e-12)
        assert len(others) == (2 if frozen else 4)
        all_close(gradients, others)


@pytest.mark.parametrize("count", [1, 5])
def test_a_loss_that_is_several_numbers(count: int) -> None:
    net, x, y = small(), np.ones((count, 4)), np.zeros(count, np.int64)
    loss = nn.CrossEntropyLoss(reduction="none")
    compiled = js.value_and_grad(js.jit(net), loss)
    eager = js.value_and_grad(net, loss)
    if count == 1:
        assert compiled(x, y)[0] == pytest.approx(eager(x, y)[0], rel=1e-12)
        return
    for function in (compiled, eager):
        with pytest.raises(js.ShapeError, match="the loss must be one number"):
            function(x, y)
        with pytest.raises(js.JitseqError, match="expects inputs and y"):
            function(x)


def test_a_torch_module_is_followed(rng: Any) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6)
    ).double()
    compiled = js.value_and_grad(js.jit(theirs), nn.MSELoss())
    for _ in range(3):
        x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 6))
        mean = theirs[1].running_mean.numpy().copy()
        value, gradients = compiled(x, y)
        moved = theirs[1].running_mean.numpy().copy()
        theirs[1].running_mean.copy_(torch.from_numpy(mean))
        theirs.zero_grad()
        out = theirs(torch.from_numpy(x))
        loss = torch.nn.functional.mse_loss(out, torch.from_numpy(y))
        loss.backward()
        close(moved, theirs[1].running_mean.numpy())
        assert value == pytest.approx(loss.item(), rel=1e-12)
        for name, parameter in theirs.named_parameters():
            close(gradients[name], parameter.grad.numpy())
            parameter.data -= 0.1 * parameter.grad

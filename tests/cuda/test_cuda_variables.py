"""Where the values of parameters are while programs on a device change them."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import threading
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
from cuda_support import in_simulator, where_cuda_runs

import jitseq as js
from jitseq import nn, optim
from jitseq.errors import DeviceError
from jitseq.ir.variable import Variable
from jitseq.runtime.cuda import variables
from jitseq.runtime.cuda.device import current_device
from jitseq.runtime.cuda.variables import device_copy

pytestmark = where_cuda_runs
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5)).astype(np.float32)
Y = np.array([0, 1, 2])


def model_and_step(backend: str = "cuda") -> tuple[nn.Module, js.TrainStep]:
    js.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return model, js.train_step(
        model, nn.CrossEntropyLoss(), optimizer, backend=backend
    )


def on_device(model: nn.Module) -> list[bool]:
    """Which parameters have their newest value there only."""
    return [parameter.pull is not None for parameter in model.parameters()]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts copies to and from the device."""
    device, counts = current_device(), Counter[str]()
    for name in ("upload", "download"):
        whole = getattr(device, name)

        def counted(*arguments: Any, name: str = name, whole: Any = whole) -> Any:
            counts[name] += 1
            return whole(*arguments)

        monkeypatch.setattr(device, name, counted)
    return counts


def test_values_stay_on_the_device_until_they_are_read() -> None:
    model, step = model_and_step()
    host, host_step = model_and_step("cpu")
    for _ in range(3):
        assert step(X, Y) == pytest.approx(host_step(X, Y), rel=1e-5)
    assert all(on_device(model))
    first, second, *_ = model.parameters()
    expected = next(iter(host.parameters())).numpy()
    np.testing.assert_allclose(first.numpy(), expected, 1e-5)
    assert on_device(model) == [False, True, True, True]
    np.testing.assert_allclose(
        np.asarray(second), dict(host.state_dict())["0.bias"], 1e-5
    )


def test_a_step_copies_its_arrays_and_the_loss_only(copies: Counter[str]) -> None:
    model, step = model_and_step()
    step(X, Y)
    copies.clear()
    for _ in range(4):
        step(X, Y)
    assert copies == {"upload": 4, "download": 4}
    assert all(on_device(model))


@pytest.mark.parametrize("backend", ("cpu", "eager", "cuda"))
def test_other_programs_see_the_values(backend: str) -> None:
    model, step = model_and_step()
    compiled = js.jit(model, backend=backend)
    before = compiled(X)
    step(X, Y)
    after = compiled(X)
    assert np.abs(before - after).max() > 1e-3
    np.testing.assert_allclose(after, model(X), 1e-5, 1e-6)


def test_programs_share_the_copy_on_the_device(copies: Counter[str]) -> None:
    model, step = model_and_step()
    compiled = js.jit(model, backend="cuda")
    compiled(X)
    step(X, Y)
    copies.clear()
    compiled(X)
    assert copies == {"upload": 1, "download": 1}
    assert all(on_device(model))


def test_what_is_assigned_goes_to_the_device() -> None:
    (model, step), (host, host_step) = model_and_step(), model_and_step("cpu")
    for one, run in ((model, step), (host, host_step)):
        run(X, Y)
        first, second, third, _ = one.parameters()
        first.assign(np.full(first.shape, 0.25))
        second[1] = 7.0
        third[...] = np.asarray(third) * 2
        run(X, Y)
    for name, value in host.state_dict().items():
        found = dict(model.state_dict())[name]
        np.testing.assert_allclose(np.asarray(found), value, 1e-5, 1e-6)


def test_a_change_by_another_backend_is_seen() -> None:
    model, step = model_and_step()
    optimizer = step.optimizer
    others = {
        backend: js.train_step(model, step.loss, optimizer, backend=backend)
        for backend in ("cpu", "eager")
    }
    expected, expected_step = model_and_step("eager")
    for run in (step, others["cpu"], step, others["eager"], step):
        assert run(X, Y) == pytest.approx(expected_step(X, Y), rel=1e-5)
    for found, value in zip(model.parameters(), expected.parameters(), strict=True):
        np.testing.assert_allclose(found.numpy(), value.numpy(), 1e-5, 1e-6)


def test_state_of_the_optimizer_is_read_and_loaded() -> None:
    model, step = model_and_step()
    step(X, Y)
    saved, weights = step.optimizer.state_dict(), model.state_dict()
    weights = {name: np.array(value) for name, value in weights.items()}
    following = [step(X, Y), step(X, Y)]
    step.optimizer.load_state_dict(saved)
    model.load_state_dict(weights)
    assert [step(X, Y), step(X, Y)] == pytest.approx(following, rel=1e-6)


@pytest.mark.parametrize(
    "clone", (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)))
)
def test_copies_hold_the_values(clone: Any) -> None:
    model, step = model_and_step()
    step(X, Y)
    other = clone(model)
    values = [parameter.numpy().copy() for parameter in other.parameters()]
    step(X, Y)
    for parameter, value, own in zip(
        other.parameters(), values, model.parameters(), strict=True
    ):
        np.testing.assert_array_equal(parameter.numpy(), value)
        assert np.abs(own.numpy() - value).max() > 0


def test_another_dtype_and_back() -> None:
    model, _ = model_and_step()
    compiled = js.jit(model, backend="cuda")
    for dtype in ("float32", "float64", "float32"):
        model.to(dtype)
        np.testing.assert_allclose(
            compiled(X.astype(dtype)), model(X.astype(dtype)), 1e-5, 1e-6
        )


def test_a_pullback_answers_for_the_values_of_its_call() -> None:
    model, step = model_and_step()
    compiled = js.jit(model, backend="cuda")
    out, pullback = compiled.vjp(X)
    _, expected = js.vjp(model, X)
    g = np.ones_like(out)
    reference = expected(g)
    step(X, Y)
    inputs, named = pullback(g)
    np.testing.assert_allclose(inputs[0], reference[0][0], 1e-5, 1e-6)
    for name, value in reference[1].items():
        np.testing.assert_allclose(named[name], value, 1e-5, 1e-6)


def test_buffers_and_folded_values_follow() -> None:
    """Batch-norm's averages change on the device; its folded form is of the host."""
    js.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    optimizer = optim.SGD(model.parameters(), 0.1)
    step = js.train_step(model, nn.MSELoss(), optimizer, backend="cuda")
    x = RNG.normal(size=(4, 1, 4, 4)).astype(np.float32)
    y = np.zeros((4, 8), np.float32)
    compiled = js.jit(model, backend="cuda")
    for _ in range(2):
        model.train()
        step(x, y)
        model.eval()
        np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-5)


def test_a_variable_that_is_followed_has_its_value_at_once() -> None:
    class Followed(nn.Parameter):
        seen: np.ndarray

        def changed(self) -> None:
            self.seen = self._array.copy()

    model, step = model_and_step()
    model[0].weight = Followed(model[0].weight.numpy())
    step.optimizer.param_groups[0]["params"][0] = model[0].weight
    step(X, Y)
    weight = model[0].weight
    assert isinstance(weight, Variable) and weight.pull is None
    np.testing.assert_array_equal(weight.seen, weight.numpy())


def _child(model: nn.Module, queue: Any) -> None:
    queue.put([parameter.numpy().copy() for parameter in model.parameters()])


@in_simulator
def test_a_forked_child_has_the_values() -> None:
    model, step = model_and_step()
    step(X, Y)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(model, queue))
    process.start()
    found = queue.get(timeout=60)
    process.join(60)
    for value, parameter in zip(found, model.parameters(), strict=True):
        np.testing.assert_array_equal(value, parameter.numpy())


def test_memory_goes_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the collector of cycles."""
    device, alive = current_device(), []
    whole = device.allocate

    class Owner:
        def __init__(self, owner: Any) -> None:
            self.owner = owner

    def allocate(size: int) -> Any:
        memory = whole(size)
        memory.owner = Owner(memory.owner)
        alive.append(weakref.ref(memory.owner))
        return memory

    monkeypatch.setattr(device, "allocate", allocate)
    variable = Variable(np.ones(3, np.float32))
    copied = device_copy(device, variable)
    copied.current(variable)
    copied.written(variable)
    gc.disable()
    try:
        del variable, copied
        assert len(alive) == 1 and alive[0]() is None
    finally:
        gc.enable()


def test_a_shallow_copy_has_memory_of_its_own() -> None:
    model, step = model_and_step()
    step(X, Y)
    weight = model[0].weight
    copied = copy.copy(weight)
    value = copied.numpy().copy()
    step(X, Y)
    np.testing.assert_array_equal(copied.numpy(), value)
    copied[...] = np.zeros(copied.shape)
    assert np.abs(weight.numpy()).max() > 0


def test_an_assignment_wins_over_a_value_that_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread reads while another one assigns: the older value comes last."""
    model, step = model_and_step()
    step(X, Y)
    weight, device = model[0].weight, current_device()
    whole = device.synchronize

    def assign() -> None:
        monkeypatch.setattr(device, "synchronize", whole)
        weight.assign(np.full(weight.shape, 0.25))

    monkeypatch.setattr(device, "synchronize", assign)
    assert weight.numpy().max() == 0.25
    compiled = js.jit(model, backend="cuda")
    np.testing.assert_allclose(compiled(X), model(X), 1e-5, 1e-6)


def test_a_value_that_cannot_be_fetched_loses_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One variable is followed on the host, and the device fails to give its value."""

    class Followed(nn.Parameter):
        def changed(self) -> None:
            """Followed."""

    model, step = model_and_step()
    step(X, Y)
    model[0].weight = Followed(model[0].weight.numpy())
    step.optimizer.param_groups[0]["params"][0] = model[0].weight
    step(X, Y)
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    device, compiled = current_device(), js.jit(model, backend="cpu")
    compiled(X)
    whole, calls = device.download, []

    def download(host: np.ndarray, address: int) -> Any:
        calls.append(address)
        if len(calls) == 2:  # behind the loss
            raise DeviceError("the device has failed")
        return whole(host, address)

    with monkeypatch.context() as context:
        context.setattr(device, "download", download)
        with pytest.raises(DeviceError):
            step(X, Y)
    for name, value in model.state_dict().items():
        assert np.abs(np.array(value) - before[name]).max() > 0
    np.testing.assert_allclose(compiled(X), model(X), 1e-5, 1e-6)


def test_no_call_changes_values_during_a_fork() -> None:
    model, step = model_and_step()
    step(X, Y)
    taken: list[bool] = []

    def other() -> None:
        taken.append(current_device().lock.acquire(blocking=False))

    variables._before_fork()
    try:
        assert not any(on_device(model))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
    finally:
        variables._after_fork_in_parent()
    assert taken == [False]
    step(X, Y)

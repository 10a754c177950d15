"""The device's memory: none left, none lost; and graphs that replay launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from real_device import (
    BACKEND,
    free_bytes,
    needs_gpu,
    needs_torch,
    on_device,
    on_host,
)

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.errors import DeviceError

pytestmark = needs_gpu

MIB = 2**20


def test_too_large_a_batch_says_so_and_changes_nothing() -> None:
    """A TiB between two small layers; the program goes on with fewer rows."""
    js.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 2**20), nn.Tanh(), nn.Linear(2**20, 1))
    compiled = js.jit(model, backend=BACKEND)
    x = np.linspace(-1, 1, 2**18, dtype=np.float32).reshape(-1, 1)
    with pytest.raises(DeviceError, match="memory"):
        compiled(x)
    np.testing.assert_allclose(compiled(x[:2]), model(x[:2]), 1e-3, 1e-3)


def test_too_large_a_step_trains_nothing() -> None:
    js.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 2**20), nn.Tanh(), nn.Linear(2**20, 1))
    optimizer = optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    step = js.train_step(model, nn.MSELoss(), optimizer, backend=BACKEND)
    before = {name: np.array(p) for name, p in model.state_dict().items()}
    x = np.ones((2**18, 1), np.float32)
    with pytest.raises(DeviceError, match="memory"):
        step(x, x)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(np.array(value), before[name])
    loss = step(x[:4], x[:4])
    assert step(x[:4], x[:4]) < loss


def lost(call: Callable[[int], Any], turns: int) -> int:
    """Bytes that the device has less after ``turns`` calls, behind some first ones."""
    for turn in range(12):
        call(turn)
    before = free_bytes()
    for turn in range(turns):
        call(turn)
    return before - free_bytes()


def test_calls_lose_no_memory() -> None:
    """The results of these calls are 400 MiB together."""
    compiled = js.jit(ZOO["docs_conv"].build(), backend=BACKEND)
    inputs = [ZOO["docs_conv"].sample(batch) for batch in (64, 1, 17)]
    assert lost(lambda turn: compiled(inputs[turn % 3]), 150) < 32 * MIB


@needs_torch
def test_calls_on_tensors_lose_no_memory() -> None:
    compiled = js.jit(ZOO["docs_conv"].build(), backend=BACKEND)
    inputs = [on_device(ZOO["docs_conv"].sample(batch)) for batch in (64, 1, 17)]
    assert lost(lambda turn: compiled(inputs[turn % 3]), 150) < 32 * MIB


def test_steps_lose_no_memory() -> None:
    """A gradient of these steps is 1 MiB."""
    model = ZOO["mlp_bn"].build().train()
    optimizer = optim.Adam(model.parameters())
    step = js.train_step(model, nn.CrossEntropyLoss(), optimizer, backend=BACKEND)
    x, y = ZOO["mlp_bn"].sample(32), np.arange(32) % 10
    assert lost(lambda _: step(x, y), 200) < 32 * MIB


def test_programs_give_their_memory_back() -> None:
    def make_and_call(turn: int) -> None:
        js.jit(ZOO["chain224"].build(), backend=BACKEND)(ZOO["chain224"].sample(16))

    assert lost(make_and_call, 10) < 256 * MIB


# graphs: the same bits as launches


def outputs(graphs: str, monkeypatch: pytest.MonkeyPatch, given: Any) -> list[Any]:
    """Of calls with inputs, batch sizes and parameters that change."""
    monkeypatch.setenv("JITSEQ_CUDA_GRAPHS", graphs)
    model = ZOO["cnn32"].build()
    compiled = js.jit(model, backend=BACKEND)
    found = []
    for turn, batch in enumerate((4, 4, 4, 9, 4, 9, 9, 9, 4)):
        if turn == 5:
            for parameter in model.parameters():
                parameter[...] = 0.9 * parameter.numpy()
        x = ZOO["cnn32"].sample(batch, seed=turn)
        result = compiled(given(x))
        found.append(np.array(result) if given is np.array else on_host(result))
        expected = np.asarray(model(x))
        np.testing.assert_allclose(found[-1], expected, 1e-4, 1e-5)
    return found


def test_graphs_give_the_same_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    launched, replayed = (outputs(g, monkeypatch, np.array) for g in "01")
    for first, second in zip(launched, replayed, strict=True):
        np.testing.assert_array_equal(first, second)


@needs_torch
def test_graphs_give_the_same_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    launched, replayed = (outputs(g, monkeypatch, on_device) for g in "01")
    for first, second in zip(launched, replayed, strict=True):
        np.testing.assert_array_equal(first, second)


def trained(
    backend: str, graphs: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Steps with dropout, whose masks and rates change, on two batch sizes."""
    monkeypatch.setenv("JITSEQ_CUDA_GRAPHS", graphs)
    js.manual_seed(7)
    model = nn.Sequential(
        nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(64, 5),
    ).double()  # fmt: skip
    optimizer = optim.Adam(model.parameters(), 1e-2)
    step = js.train_step(model, nn.CrossEntropyLoss(), optimizer, backend=backend)
    rng = np.random.default_rng(0)
    losses = []
    for turn in range(10):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + turn)
        batch = 16 if turn % 4 else 7
        losses.append(step(rng.normal(size=(batch, 20)), rng.integers(0, 5, batch)))
    return losses, {name: np.array(v) for name, v in model.state_dict().items()}


def test_graphs_train_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = trained(BACKEND, "0", monkeypatch)
    replayed = trained(BACKEND, "1", monkeypatch)
    eager = trained("eager", "0", monkeypatch)
    assert launched[0] == replayed[0]
    np.testing.assert_allclose(launched[0], eager[0], 1e-9)
    for name, value in eager[1].items():
        np.testing.assert_array_equal(launched[1][name], replayed[1][name])
        np.testing.assert_allclose(launched[1][name], value, 1e-7, 1e-9)

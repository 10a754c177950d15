"""The zoo at full size on a device, held to float64: outputs and training steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from error_bound import analyse, assert_within
from real_device import BACKEND, needs_gpu
from training_steps import Pair

import jitseq as js
from benchmarks.train_peers import prepare_jitseq
from benchmarks.train_task import MOMENTUM, RATE, make_task, update_error
from benchmarks.zoo import ZOO
from jitseq import nn, optim

pytestmark = needs_gpu

LARGE = ("chain224", "vgg11_bn", "mobilenet_v1")
BATCHES = (1, 3, 64)
CLOSE = 1e-9
"""Between two orders of adding in float64, after a step."""

ALLOWED = 8
"""The error of float32 updates as a multiple of eager mode's own."""


def batches_of(name: str) -> tuple[int, ...]:
    return (1, 3) if name in LARGE else BATCHES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ZOO)
def test_outputs(name: str, dtype: str) -> None:
    """One program for all batch sizes; a call again gives the same bits."""
    model = ZOO[name].build().to(dtype)
    compiled = js.jit(model, backend=BACKEND)
    for batch in batches_of(name):
        x = ZOO[name].sample(batch, seed=batch).astype(dtype)
        expected = analyse(model, [x])
        found = compiled(x)
        assert_within(found, expected, dtype)
        for _ in range(3):
            np.testing.assert_array_equal(compiled(x), found)
    assert compiled.cache_info().misses == 1


@pytest.mark.parametrize("batch", [5, 64])
@pytest.mark.parametrize("name", [name for name in ZOO if name not in LARGE])
def test_steps_in_float64(name: str, batch: int) -> None:
    """Losses, parameters, buffers and momentum as in eager mode; masks too."""
    pair = step_pair(name)
    rng = np.random.default_rng(batch)
    for seed in range(3):
        x, y = arrays_of(name, batch, rng)
        pair(x, y, close=CLOSE, seed=seed)
    assert pair.native.cache_info().misses == 1


@pytest.mark.parametrize("name", LARGE)
def test_steps_of_large_models(name: str) -> None:
    pair = step_pair(name)
    x, y = arrays_of(name, 2, np.random.default_rng(0))
    pair(x, y, close=1e-8)


def step_pair(name: str) -> Pair:
    def momentum(parameters: Any) -> optim.Optimizer:
        return optim.SGD(parameters, RATE, momentum=MOMENTUM)

    def model() -> nn.Module:
        return ZOO[name].build().to("float64").train()

    return Pair(model, nn.MSELoss(), momentum, backend=BACKEND)


def arrays_of(
    name: str, batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and targets as large as what the model gives."""
    entry = ZOO[name]
    x = rng.normal(size=(batch, *entry.input_shape))
    shape = np.asarray(entry.build().to("float64")(x[:1])).shape[1:]
    return x, rng.normal(size=(batch, *shape))


@pytest.mark.parametrize("name", ZOO)
def test_updates_in_float32(name: str) -> None:
    """As near to float64 as eager mode in float32 is, up to a factor."""
    task = make_task(ZOO[name], 4 if name in LARGE else 16, dropout=False)
    found = prepare_jitseq(task, None, BACKEND)
    eager = prepare_jitseq(task, None, "eager")
    start = eager.state()
    loss, expected = step_in_float64(task)
    yardstick = abs(eager.step() - loss), update_error(eager.state(), expected, start)
    assert abs(found.step() - loss) <= ALLOWED * yardstick[0] + 1e-5 * abs(loss)
    error = update_error(found.state(), expected, start)
    assert error <= ALLOWED * yardstick[1] + 1e-5


def step_in_float64(task: Any) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the parameters after one eager step."""
    model = task.model().to("float64")
    loss = nn.CrossEntropyLoss() if task.loss == "cross_entropy" else nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    step = js.train_step(model, loss, optimizer, backend="eager")
    y = task.y.astype("float64") if task.y.dtype.kind == "f" else task.y
    value = step(task.x.astype("float64"), y)
    return value, {name: p.numpy() for name, p in model.named_parameters()}

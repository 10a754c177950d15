"""A compiled step that is refused has changed nothing; and what memory one needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from training_steps import assert_same, everything

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.errors import DtypeError, RangeError, ShapeError
from jitseq.ir.trace import trace
from jitseq.ir.types import TensorType


def network() -> nn.Sequential:
    js.manual_seed(5)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)
    ).double()


def samples(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x, y = rng.normal(size=(7, 4)), rng.integers(0, 3, 7)
    y[:2] = 2, 0
    return x, y


def step_of(model: nn.Module, **options: Any) -> js.TrainStep:
    loss = nn.CrossEntropyLoss(ignore_index=-1)
    return js.train_step(model, loss, optim.Adam(model.parameters(), 0.1), **options)


Arrays = tuple[Any, ...]
BAD: dict[str, tuple[Callable[[Any, Any], Arrays], type[Exception]]] = {
    "dtype": (lambda x, y: (x.astype(np.float32), y), DtypeError),
    "integers": (lambda x, y: (x.astype(np.int64), y), DtypeError),
    "label dtype": (lambda x, y: (x, y + 0.5), DtypeError),
    "features": (lambda x, y: (x[:, :3], y), ShapeError),
    "batch": (lambda x, y: (x, y[:-1]), ShapeError),
    "empty": (lambda x, y: (x[:0], y[:0]), ShapeError),
    "one sample": (lambda x, y: (x[:1], y[:1]), ShapeError),
    "label above": (lambda x, y: (x, y + 1), RangeError),
    "label below": (lambda x, y: (x, y - 2), RangeError),
    "label far": (lambda x, y: (x, y + 2**40), RangeError),
    "missing": (lambda x, y: (x,), TypeError),
    "objects": (lambda x, y: (x, np.array([None] * 7)), DtypeError),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", BAD)
def test_refused_steps_change_nothing(case, accumulate, rng) -> None:
    """Neither before the first step nor between others, nor what comes after."""
    change, error = BAD[case]
    steps = [step_of(network(), accumulate=accumulate) for _ in range(2)]
    data = [samples(rng) for _ in range(2 * accumulate)]
    before = everything(steps[0])
    with pytest.raises(error):
        steps[0](*change(*data[0]))
    assert_same(everything(steps[0]), before)
    for x, y in data:
        js.manual_seed(3)
        first = steps[0](x, y)
        before = everything(steps[0])
        with pytest.raises(error):
            steps[0](*change(x, y))
        assert_same(everything(steps[0]), before)
        js.manual_seed(3)
        assert steps[1](x, y) == first
    assert_same(everything(steps[0]), everything(steps[1]))
    assert steps[0].accumulated == 0


def test_options_out_of_range_change_nothing(rng) -> None:
    step = step_of(network())
    step(*samples(rng))
    before = everything(step)
    step.optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(optim.OptimizerError):
        step(*samples(rng))
    assert_same(everything(step), before)
    step.optimizer.param_groups[0]["lr"] = 0.1
    assert np.isfinite(step(*samples(rng)))


def test_a_loss_that_is_not_finite_is_returned(rng) -> None:
    """As PyTorch does: the update happens, and the loss says so."""
    x, y = samples(rng)
    x[0, 0] = np.nan
    ends = []
    for backend in ("cpu", "eager"):
        step = step_of(network(), backend=backend)
        js.manual_seed(0)
        assert np.isnan(step(x, y))
        ends.append(everything(step))
    for name, value in ends[0].items():
        np.testing.assert_array_equal(np.isnan(value), np.isnan(ends[1][name]), name)


def test_ignored_labels_are_no_error(rng) -> None:
    losses = []
    x, y = samples(rng)
    y[3:5] = -1
    for backend in ("cpu", "eager"):
        step = step_of(network(), backend=backend)
        js.manual_seed(0)
        losses.append([step(x, y) for _ in range(2)])
    np.testing.assert_allclose(losses[0], losses[1], 1e-10)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_labels_of_any_integer_dtype(dtype, rng) -> None:
    x, y = samples(rng)
    js.manual_seed(0)
    expected = step_of(network())(x, y)
    js.manual_seed(0)
    assert step_of(network())(x, y.astype(dtype)) == expected


def test_arrays_need_not_be_contiguous(rng) -> None:
    x, y = samples(rng)
    wide = np.zeros((7, 8))
    wide[:, ::2] = x
    js.manual_seed(0)
    expected = step_of(network())(x, y)
    js.manual_seed(0)
    assert step_of(network())(wide[:, ::2], np.repeat(y, 2)[::2]) == expected
    js.manual_seed(0)
    fortran = np.asfortranarray(x)
    assert step_of(network())(fortran, y) == expected


def test_memory_of_a_deep_model_does_not_grow_with_the_batch() -> None:
    """What crosses phases for the whole batch is less than one layer's output."""
    entry = ZOO["chain224"]
    model = entry.build().train()
    out = trace(model, [TensorType("float32", (1, *entry.input_shape))]).graph
    step = js.train_step(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.01))
    x = np.zeros((1, *entry.input_shape), np.float32)
    y = np.zeros((1, *out.outputs[0].type.inner_shape), np.float32)
    manifest = step._program((x, y)).code.code.manifest
    layer = 4 * max(np.prod(node.output.type.inner_shape) for node in out.nodes)
    assert sum(manifest.batch_bytes) < layer

"""Compiled steps, eager steps and PyTorch's over many steps, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from training_steps import Pair, everything

import jitseq as js
from benchmarks.export import to_torch
from benchmarks.zoo import ZOO
from jitseq import nn, optim

torch = pytest.importorskip("torch")

STEPS = 50


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads would only wait for each other on models of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Sequential:
    """Convolution, pooling, batch statistics, and a linear layer.

    A bias in front of batch statistics would have no gradient but rounding errors.
    """
    js.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.Tanh(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(30, 4),
    ).double()  # fmt: skip


def classes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, 2, 4, 6)), rng.integers(0, 4, count)


def torch_step(
    model: Any, loss: Callable[..., Any], optimizer: Any, x: Any, y: Any
) -> float:
    optimizer.zero_grad()
    value = loss(model(torch.from_numpy(x)), torch.from_numpy(y))
    value.backward()
    optimizer.step()
    return value.item()


def twin_of(model: nn.Sequential, dtype: str = "float64") -> Any:
    """The torch module with the same values, in training mode."""
    twin = to_torch(model).to(getattr(torch, dtype)).train()
    state = {k: torch.from_numpy(np.array(v)) for k, v in model.state_dict().items()}
    twin.load_state_dict(state)
    return twin


def assert_like_torch(model: nn.Module, twin: Any, close: float) -> None:
    state = model.state_dict()
    for name, tensor in twin.state_dict().items():
        expected = tensor.numpy()
        size = np.abs(expected).max(initial=1e-3)
        np.testing.assert_allclose(
            state[name], expected, close, close * size, err_msg=name
        )


Make = Callable[[Any, Any], Any]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda o, p: o.SGD(p, 0.1),
    "momentum": lambda o, p: o.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda o, p: o.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda o, p: o.Adam(p, 0.01, weight_decay=0.01),
    "amsgrad": lambda o, p: o.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda o, p: o.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda o, p: o.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "adagrad": lambda o, p: o.Adagrad(p, 0.05, lr_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps(name, rng) -> None:
    """Ragged batches and a schedule: one program."""
    model = network()
    twin = twin_of(model)
    ours = OPTIMIZERS[name](optim, model.parameters())
    theirs = OPTIMIZERS[name](torch.optim, twin.parameters())
    step = js.train_step(model, nn.CrossEntropyLoss(), ours)
    schedules = (
        optim.lr_scheduler.StepLR(ours, 10, 0.7),
        torch.optim.lr_scheduler.StepLR(theirs, 10, 0.7),
    )
    loss = torch.nn.CrossEntropyLoss()
    for number in range(STEPS):
        x, y = classes(rng, 2 + number % 4)
        value = step(x, y)
        assert value == pytest.approx(torch_step(twin, loss, theirs, x, y), rel=1e-8)
        for schedule in schedules:
            schedule.step()
    assert_like_torch(model, twin, 1e-8)
    assert step.cache_info().misses == 1


def test_groups(rng) -> None:
    """Each group has its own options, and one of them another schedule."""

    def groups(layers: Any) -> list[dict[str, Any]]:
        return [
            {"params": layers[0].parameters(), "lr": 0.1, "momentum": 0.9},
            {"params": [*layers[1].parameters(), layers[5].bias], "weight_decay": 0.2},
            {"params": [layers[5].weight], "momentum": 0.5, "nesterov": True},
        ]

    model = network()
    twin = twin_of(model)
    ours = optim.SGD(groups(model), 0.03)
    theirs = torch.optim.SGD(groups(twin), 0.03)
    step = js.train_step(model, nn.CrossEntropyLoss(), ours)
    loss = torch.nn.CrossEntropyLoss()
    for number in range(12):
        for optimizer in (ours, theirs):
            optimizer.param_groups[1]["lr"] = 0.05 / (1 + number)
        x, y = classes(rng, 5)
        value = step(x, y)
        assert value == pytest.approx(torch_step(twin, loss, theirs, x, y), rel=1e-9)
    assert_like_torch(model, twin, 1e-9)


LABELS = {
    "labels": lambda n, **o: n.CrossEntropyLoss(**o),
    "ignored": lambda n, **o: n.CrossEntropyLoss(ignore_index=2, **o),
    "smoothed": lambda n, **o: n.CrossEntropyLoss(label_smoothing=0.2, **o),
}
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])
NUMBERS = {
    "probabilities": ("softmax", lambda n, **o: n.CrossEntropyLoss(**o)),
    "mse": ("any", lambda n, **o: n.MSELoss(**o)),
    "l1": ("any", lambda n, **o: n.L1Loss(**o)),
    "smooth l1": ("any", lambda n, **o: n.SmoothL1Loss(beta=0.7, **o)),
    "huber": ("any", lambda n, **o: n.HuberLoss(delta=0.6, **o)),
    "logits": ("unit", lambda n, **o: n.BCEWithLogitsLoss(**o)),
}


def check_loss(
    end: list[nn.Module],
    ours: Any,
    theirs: Any,
    targets: Callable[[int], Any],
    rng: Any,
) -> None:
    """Three steps of a linear layer and what follows."""
    js.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4), *end).double()
    twin = torch.nn.Sequential(
        torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4),
        *(getattr(torch.nn, type(layer).__name__)(**vars_of(layer)) for layer in end),
    ).double()  # fmt: skip
    twin.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()})
    step = js.train_step(model, ours, optim.SGD(model.parameters(), 0.1))
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for count in (5, 1, 7):
        x, y = rng.normal(size=(count, 3)), targets(count)
        expected = torch_step(twin, theirs, optimizer, x, y)
        assert step(x, y) == pytest.approx(expected, rel=1e-10)
    assert_like_torch(model, twin, 1e-9)


def vars_of(layer: nn.Module) -> dict[str, Any]:
    return {"dim": 1} if isinstance(layer, nn.LogSoftmax) else {}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [*LABELS, "nll"])
def test_losses_of_labels(name, weighted, reduction, rng) -> None:
    make = LABELS.get(name, lambda n, **o: n.NLLLoss(ignore_index=1, **o))
    pair = []
    for n in (nn, torch.nn):
        weight = CLASS_WEIGHTS if n is nn else torch.from_numpy(CLASS_WEIGHTS)
        pair.append(make(n, reduction=reduction, weight=weight if weighted else None))

    def labels(count: int) -> np.ndarray:
        found = rng.integers(0, 4, count)
        found[0] = 3  # one that counts
        return found

    end = [nn.LogSoftmax(1)] if name == "nll" else []
    check_loss(end, pair[0].double() if weighted else pair[0], pair[1], labels, rng)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", [*NUMBERS, "bce"])
def test_losses_of_numbers(name, reduction, rng) -> None:
    kind, make = NUMBERS.get(name, ("unit", lambda n, **o: n.BCELoss(**o)))

    def targets(count: int) -> np.ndarray:
        numbers = rng.uniform(0.1, 0.9, (count, 4))
        if kind == "softmax":
            return numbers / numbers.sum(axis=1, keepdims=True)
        return numbers if kind == "unit" else rng.normal(size=(count, 4))

    end = [nn.Sigmoid()] if name == "bce" else []
    ours, theirs = (make(n, reduction=reduction) for n in (nn, torch.nn))
    check_loss(end, ours, theirs, targets, rng)


IMAGES = {
    "tiny": 5, "mlp": 3, "lenet5": 3, "cnn32": 2, "docs_conv": 1, "autoencoder": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_models_of_the_zoo(name, rng) -> None:
    entry = ZOO[name]
    model = entry.build().double().train()
    twin = twin_of(model)
    step = js.train_step(model, nn.MSELoss(), optim.SGD(model.parameters(), 1e-3))
    optimizer = torch.optim.SGD(twin.parameters(), 1e-3)
    loss = torch.nn.MSELoss()
    for _ in range(2):
        x = rng.normal(size=(IMAGES[name], *entry.input_shape))
        y = rng.normal(size=tuple(twin(torch.from_numpy(x)).shape))
        value = step(x, y)
        expected = torch_step(twin, loss, optimizer, x, y)
        assert value == pytest.approx(expected, rel=1e-10)
    assert_like_torch(model, twin, 1e-9)


@pytest.mark.parametrize("name", ["mlp_bn", "vgg11_bn"])
def test_models_with_statistics(name) -> None:
    """Dropout and batch statistics, as the eager step: the masks are ours."""
    entry = ZOO[name]
    rng = np.random.default_rng(1)

    def make() -> nn.Module:
        return entry.build().train()

    pair = Pair(make, nn.CrossEntropyLoss())
    x = rng.normal(size=(3, *entry.input_shape)).astype(np.float32)
    pair(x, np.array([1, 0, 4]), close=2e-3, seed=5)
    assert any(name.endswith("running_var") for name in everything(pair.native))

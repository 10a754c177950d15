"""Optimizers with their options, and runs of them beside PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import nn, optim

CASES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd decay": ("SGD", {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "dampening": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "nesterov": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": ("Adam", {"lr": 0.05}),
    "adam all": (
        "Adam",
        {"lr": 0.05, "betas": (0.4, 0.9), "eps": 1e-3, "weight_decay": 0.1,
         "amsgrad": True, "maximize": True},
    ),
    "adam fast": ("Adam", {"betas": (0.0, 0.5), "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.05}),
    "adamw all": (
        "AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "maximize": True}
    ),
    "rmsprop": ("RMSprop", {"lr": 0.02}),
    "rmsprop centered": ("RMSprop", {"centered": True, "alpha": 0.8, "eps": 1e-4}),
    "rmsprop momentum": ("RMSprop", {"momentum": 0.7, "weight_decay": 0.1}),
    "rmsprop all": (
        "RMSprop", {"centered": True, "momentum": 0.7, "maximize": True, "eps": 1e-3}
    ),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad all": (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.2, "maximize": True,
         "initial_accumulator_value": 0.5},
    ),
}  # fmt: skip
SHAPES = ((3, 4), (5,), ())


def gradients(values, step: int):
    """Bounded, and different at each step; the same for arrays and tensors."""
    return [np.tanh(v - 0.3) + 0.2 * np.sin(step + v) for v in values]


def parameters(dtype: str = "float64") -> list[nn.Parameter]:
    rng = np.random.default_rng(5)
    return [nn.Parameter(np.asarray(rng.normal(size=s), dtype)) for s in SHAPES]


def run(optimizer, params, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        for p, gradient in zip(params, gradients([p.numpy() for p in params], step)):
            p.grad = gradient.astype(p.dtype)
        optimizer.step()


def make(name: str, params, **more) -> optim.Optimizer:
    kind, options = CASES[name]
    return getattr(optim, kind)(params, **{**options, **more})


def torch_twin(name: str, params):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(p.numpy()) for p in params]
    kind, options = CASES[name]
    return tensors, getattr(torch.optim, kind)(tensors, **options)


def run_torch(optimizer, tensors, steps: int, start: int = 0) -> None:
    torch = pytest.importorskip("torch")
    for step in range(start, start + steps):
        for t, gradient in zip(tensors, gradients([t.numpy() for t in tensors], step)):
            t.grad = torch.from_numpy(np.asarray(gradient, t.numpy().dtype))
        optimizer.step()


def as_tensors(state, like):
    """Our saved arrays as tensors, with the options that only PyTorch has."""
    torch = pytest.importorskip("torch")
    return {
        "state": {
            number: {name: torch.from_numpy(array) for name, array in entries.items()}
            for number, entries in state["state"].items()
        },
        "param_groups": [
            {**theirs, **ours}
            for theirs, ours in zip(like["param_groups"], state["param_groups"])
        ],
    }

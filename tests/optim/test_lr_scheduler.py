"""Schedules: PyTorch's values to the last bit, closed forms, state, refused options."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jitseq import nn, optim
from jitseq.errors import JitseqError
from jitseq.optim import lr_scheduler

EPOCHS = 25
CASES = {
    "step": ("StepLR", {"step_size": 4, "gamma": 0.3}),
    "steps": ("MultiStepLR", {"milestones": [3, 7, 7, 20], "gamma": 0.3}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "linear": ("LinearLR", {}),
    "linear down": (
        "LinearLR", {"start_factor": 0.9, "end_factor": 0.0, "total_iters": 11}
    ),
    "cosine": ("CosineAnnealingLR", {"T_max": 30}),
    "cosine back": ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}),
    "cosine short": ("CosineAnnealingLR", {"T_max": 1, "eta_min": 0.01}),
    "lambda": ("LambdaLR", {"lr_lambda": lambda epoch: 0.95**epoch}),
    "lambdas": (
        "LambdaLR", {"lr_lambda": [lambda epoch: 1 / (1 + epoch), lambda epoch: 2]}
    ),
    "one cycle": ("OneCycleLR", {"max_lr": 0.5, "total_steps": EPOCHS}),
    "one cycle linear": (
        "OneCycleLR",
        {"max_lr": [0.5, 0.2], "epochs": 5, "steps_per_epoch": 6, "pct_start": 0.4,
         "anneal_strategy": "linear", "div_factor": 10, "final_div_factor": 100},
    ),
    "one cycle three": (
        "OneCycleLR",
        {"max_lr": 0.5, "total_steps": 30, "three_phase": True,
         "base_momentum": [0.7, 0.6], "max_momentum": 0.9},
    ),
    "one cycle still": (
        "OneCycleLR", {"max_lr": 0.5, "total_steps": 30, "cycle_momentum": False}
    ),
}  # fmt: skip
KINDS = {"SGD": {"lr": 0.3, "momentum": 0.9}, "Adam": {"lr": 0.3}}


def ours(kind: str = "SGD", **more) -> optim.Optimizer:
    groups = [
        {"params": [nn.Parameter(np.zeros(2))]},
        {"params": [nn.Parameter(np.zeros(3))], "lr": 0.07},
    ]
    return getattr(optim, kind)(groups, **{**KINDS[kind], **more})


def torchs(kind: str = "SGD"):
    torch = pytest.importorskip("torch")
    groups = [
        {"params": [torch.zeros(2, requires_grad=True)]},
        {"params": [torch.zeros(3, requires_grad=True)], "lr": 0.07},
    ]
    return getattr(torch.optim, kind)(groups, **KINDS[kind])


def schedule(name: str, optimizer):
    kind, options = CASES[name]
    return getattr(lr_scheduler, kind)(optimizer, **options)


def torch_schedule(name: str, optimizer):
    torch = pytest.importorskip("torch")
    kind, options = CASES[name]
    optimizer.step()
    return getattr(torch.optim.lr_scheduler, kind)(optimizer, **options)


def options_of(optimizer) -> list:
    """What a schedule may change."""
    return [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()
         if k in ("lr", "momentum", "betas", "initial_lr", "max_lr", "min_lr")}
        for group in optimizer.param_groups
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_pytorchs_values(name, kind):
    mine, theirs = ours(kind), torchs(kind)
    a, b = schedule(name, mine), torch_schedule(name, theirs)
    assert options_of(mine) == options_of(theirs)
    for _ in range(EPOCHS):
        a.step()
        b.step()
        assert options_of(mine) == options_of(theirs)
        assert a.get_last_lr() == b.get_last_lr()
        assert a.get_last_lr() == [group["lr"] for group in mine.param_groups]


CLOSED = {
    "step": lambda t: 0.3 ** (t // 4),
    "steps": lambda t: 0.3 ** sum(t >= m for m in (3, 7, 7, 20)),
    "exponential": lambda t: 0.9**t,
    "linear": lambda t: 1 / 3 + 2 / 3 * min(t, 5) / 5,
    "linear down": lambda t: 0.9 - 0.9 * min(t, 11) / 11,
    "cosine": lambda t: (1 + math.cos(math.pi * t / 30)) / 2,
    "lambda": lambda t: 0.95**t,
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name):
    optimizer = ours()
    s = schedule(name, optimizer)
    for epoch in range(EPOCHS):
        expected = [base * CLOSED[name](epoch) for base in (0.3, 0.07)]
        assert s.get_last_lr() == pytest.approx(expected, rel=1e-12, abs=1e-15)
        s.step()


def test_one_cycle_rises_and_falls():
    optimizer = ours()
    s = schedule("one cycle", optimizer)
    rates, momenta = [], []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        if len(rates) < EPOCHS:
            s.step()
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.5 / 25)
    assert rates[-1] == pytest.approx(0.5 / 25 / 1e4)
    assert top in (6, 7) and momenta.index(min(momenta)) == top
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert momenta[0] == 0.95 and momenta[-1] == pytest.approx(0.95)


def test_one_cycle_of_few_steps():
    s = lr_scheduler.OneCycleLR(ours(), 1.0, total_steps=2, pct_start=0.5)
    assert s.get_last_lr()[0] == 1.0


def test_a_step_beyond_the_cycle_changes_nothing():
    optimizer = ours()
    s = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=3)
    for _ in range(3):
        s.step()
    before, state = options_of(optimizer), s.state_dict()
    with pytest.raises(optim.OptimizerError, match="Tried to step 4 times"):
        s.step()
    assert options_of(optimizer) == before and s.state_dict() == state


def test_schedules_chain():
    optimizer = ours()
    first = lr_scheduler.ExponentialLR(optimizer, 0.9)
    second = lr_scheduler.StepLR(optimizer, 2)
    for _ in range(4):
        first.step()
        second.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 0.9**4 * 0.01)


@pytest.mark.parametrize("name", CASES)
def test_state_round_trip(name):
    optimizer, twin = ours(), ours(lr=0.9)
    first, second = schedule(name, optimizer), schedule(name, twin)
    for _ in range(6):
        first.step()
    twin.load_state_dict(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    for _ in range(10):
        first.step()
        second.step()
        assert options_of(optimizer) == options_of(twin)


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", CASES)
def test_state_goes_to_and_comes_from_pytorch(name):
    mine, theirs = ours(), torchs()
    a, b = schedule(name, mine), torch_schedule(name, theirs)
    for _ in range(6):
        b.step()
    a.load_state_dict(b.state_dict())
    for group, source in zip(mine.param_groups, theirs.param_groups):
        group.update({k: v for k, v in source.items() if k != "params"})
    for _ in range(3):
        a.step()
        b.step()
    assert options_of(mine) == options_of(theirs)
    twin = torchs()
    c = torch_schedule(name, twin)
    c.load_state_dict(a.state_dict())
    for group, source in zip(twin.param_groups, mine.param_groups):
        group.update({k: v for k, v in source.items() if k != "params"})
    a.step()
    c.step()
    assert options_of(mine) == options_of(twin)


class Halving:
    """A factor with a state of its own."""

    def __init__(self, every: int) -> None:
        self.every = every

    def __call__(self, epoch: int) -> float:
        return 0.5 ** (epoch // self.every)


def test_objects_save_their_attributes():
    s = lr_scheduler.LambdaLR(ours(), Halving(3))
    state = s.state_dict()
    assert state["lr_lambdas"] == [{"every": 3}] * 2
    other = lr_scheduler.LambdaLR(ours(), Halving(8))
    other.load_state_dict(state)
    assert other.lr_lambdas[0].every == 3


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", ["step", "exponential", "cosine", "linear"])
def test_going_on_from_an_epoch(name):
    mine, theirs = ours(), torchs()
    for optimizer in (mine, theirs):
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.3
    kind, options = CASES[name]
    torch = pytest.importorskip("torch")
    a = getattr(lr_scheduler, kind)(mine, **options, last_epoch=5)
    b = getattr(torch.optim.lr_scheduler, kind)(theirs, **options, last_epoch=5)
    for _ in range(5):
        assert a.get_last_lr() == b.get_last_lr() and a.last_epoch == b.last_epoch
        a.step()
        b.step()


# Plateau

METRICS = [3, 2.9, 2.95, 2.9, float("nan"), 2.5, 2.5, 2.49999, 2.4, 2.4, 9, 9, 9, 9, 1]
PLATEAUS = {
    "default": {"patience": 2},
    "max": {"mode": "max", "patience": 1, "threshold": 0.05},
    "abs": {"threshold_mode": "abs", "threshold": 0.2, "patience": 0},
    "max abs": {"mode": "max", "threshold_mode": "abs", "patience": 0, "cooldown": 2},
    "floors": {"patience": 0, "factor": 0.3, "min_lr": [0.1, 0.02]},
    "eps": {"patience": 0, "eps": 0.05},
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateau(name):
    torch = pytest.importorskip("torch")
    mine, theirs = ours(), torchs()
    a = lr_scheduler.ReduceLROnPlateau(mine, **PLATEAUS[name])
    b = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **PLATEAUS[name])
    for metric in METRICS:
        a.step(np.float32(metric))
        b.step(np.float32(metric))
        assert a.get_last_lr() == b.get_last_lr()
        assert (a.num_bad_epochs, a.in_cooldown) == (b.num_bad_epochs, b.in_cooldown)
    twin = ours()
    twin.load_state_dict(mine.state_dict())
    c = lr_scheduler.ReduceLROnPlateau(twin)
    c.load_state_dict(b.state_dict())
    for metric in METRICS:
        a.step(metric)
        c.step(metric)
        assert options_of(twin) == options_of(mine)


def test_plateau_waits_for_its_patience():
    optimizer = ours()
    s = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    rates = []
    for metric in (1, 1, 1, 1, 1, 0.5):
        s.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.3, 0.3, 0.3, 0.15, 0.15, 0.15]


# Refused options

REFUSED = {
    "optimizer": lambda: lr_scheduler.StepLR(nn.Linear(1, 1), 2),
    "step_size": lambda: lr_scheduler.StepLR(ours(), 0),
    "T_max": lambda: lr_scheduler.CosineAnnealingLR(ours(), 2.5),
    "start": lambda: lr_scheduler.LinearLR(ours(), start_factor=0),
    "end": lambda: lr_scheduler.LinearLR(ours(), end_factor=1.5),
    "lambdas": lambda: lr_scheduler.LambdaLR(ours(), [float]),
    "resume": lambda: lr_scheduler.ExponentialLR(ours(), 0.9, last_epoch=3),
    "no steps": lambda: lr_scheduler.OneCycleLR(ours(), 1.0),
    "steps": lambda: lr_scheduler.OneCycleLR(ours(), 1.0, total_steps=-1),
    "epochs": lambda: lr_scheduler.OneCycleLR(ours(), 1.0, epochs=2),
    "pct": lambda: lr_scheduler.OneCycleLR(ours(), 1.0, 5, pct_start=2.0),
    "anneal": lambda: lr_scheduler.OneCycleLR(ours(), 1.0, 5, anneal_strategy="exp"),
    "max_lr": lambda: lr_scheduler.OneCycleLR(ours(), [1.0], 5),
    "momentum": lambda: lr_scheduler.OneCycleLR(
        optim.Adagrad([nn.Parameter(np.zeros(1))]), 1.0, 5
    ),
    "factor": lambda: lr_scheduler.ReduceLROnPlateau(ours(), factor=1.0),
    "mode": lambda: lr_scheduler.ReduceLROnPlateau(ours(), mode="least"),
    "threshold": lambda: lr_scheduler.ReduceLROnPlateau(ours(), threshold_mode="x"),
    "min_lr": lambda: lr_scheduler.ReduceLROnPlateau(ours(), min_lr=[0.1]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(ValueError) as caught:
        REFUSED[name]()
    assert isinstance(caught.value, JitseqError)


@pytest.mark.parametrize("name", ["step", "cosine", "one cycle", "lambda"])
def test_a_refused_state_changes_nothing(name):
    s = schedule(name, ours())
    before = s.state_dict()
    state = {**before, "last_epoch": 7}
    del state["base_lrs"]
    with pytest.raises(optim.OptimizerError, match="does not fit"):
        s.load_state_dict(state)
    assert s.state_dict() == before

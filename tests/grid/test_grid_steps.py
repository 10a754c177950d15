"""Whole models and training steps as grids of threads, against the references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from grid_graph import LARGE, SMALL, gridded
from hypothesis import given, settings
from hypothesis import strategies as st
from native_graph import by_references
from optimizer_cases import CASES as OPTIMIZERS
from pass_cases import traced
from strategies import Case, cases, training_cases
from test_random_steps import BOUNDED, CLOSE, arrays_of, result_of

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.ir.graph import Graph, Value
from jitseq.ir.target import GridTarget
from jitseq.nn import functional as F
from jitseq.runtime.step_program import Plan, Planner
from jitseq.runtime.training_checks import trace_loss, trained

TARGETS = (SMALL, LARGE)
LEFT_OUT = ((), ("fuse",), ("simplify",), ("reuse_memory",))
FEASIBLE = ("tiny", "mlp", "mlp_bn", "lenet5", "autoencoder")
"""Models of the zoo that the interpreter runs in seconds."""


def compare(
    graph: Graph,
    arrays: list[np.ndarray],
    params: dict[Value, np.ndarray],
    target: GridTarget,
    left_out: tuple[str, ...] = (),
    close: float = CLOSE,
) -> None:
    expected = by_references(graph, arrays, params)
    found = gridded(graph, arrays, params, target, frozenset(left_out))
    for array, reference in zip(found, expected, strict=True):
        size = np.abs(reference).max(initial=0.0)
        np.testing.assert_allclose(array, reference, close, close * size + 1e-12)


def model_graph(model: Any, x: np.ndarray) -> tuple[Graph, dict[Value, np.ndarray]]:
    graph = traced(model, x.shape, dtype=str(x.dtype))
    state = {name: np.asarray(value) for name, value in model.state_dict().items()}
    return graph, {param: state[param.name] for param in graph.params}


@pytest.mark.parametrize("name", FEASIBLE)
def test_models(name: str) -> None:
    model = ZOO[name].build().double()
    x = ZOO[name].sample(3).astype(np.float64)
    graph, params = model_graph(model, x)
    compare(graph, [x], params, LARGE)


@settings(BOUNDED, max_examples=40)
@given(cases(6, 600), st.sampled_from(TARGETS))
def test_random_models(case: Case, target: GridTarget) -> None:
    for x in (case.first, case.second):
        graph, params = model_graph(case.model, x)
        close = 1e-9 if x.dtype == np.float64 else 2e-4
        compare(graph, [x], params, target, close=close)


def plan_of(
    model: nn.Module,
    loss: Callable[[Any, Any], Any],
    optimizer: optim.Optimizer,
    arrays: list[np.ndarray],
    clip_norm: float | None = None,
    **shares: bool,
) -> Plan:
    """The plan of a step, not compiled."""
    step = js.train_step(model, loss, optimizer)
    traced = trace_loss(step._target, arrays, True)
    planner = Planner(traced, optimizer, trained(model, loss, optimizer))
    share, updates = shares.get("share", False), shares.get("updates", True)
    return planner.plan(share, updates, {}, clip_norm)


def check_step(
    plan: Plan, images: int, target: GridTarget, left_out: tuple[str, ...] = ()
) -> None:
    params = {p: plan.variables[p.name].numpy() for p in plan.graph.params}
    compare(plan.graph, arrays_of(plan.graph, images), params, target, left_out)


@settings(BOUNDED, max_examples=30)
@given(training_cases(4, 400), st.sampled_from(LEFT_OUT), st.sampled_from(TARGETS))
def test_random_steps(
    case: Case, left_out: tuple[str, ...], target: GridTarget
) -> None:
    try:
        y = result_of(case.model, case.second)
    except js.JitseqError:  # one value for each channel
        return
    optimizer = optim.SGD(case.model.parameters(), 1e-3, momentum=0.9)
    plan = plan_of(case.model, nn.MSELoss(), optimizer, [case.second, y])
    check_step(plan, len(y), target, left_out)


class Residual(nn.Module):
    """A skip connection, one convolution that is used twice, dropout, statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Linear(4 * 3 * 2, 3)

    def forward(self, x: Any) -> Any:
        a = F.relu(self.first(x))
        b = self.shared(F.tanh(self.norm(self.shared(a)))) + a
        return self.last(F.flatten(self.drop(self.pool(b)), 1))


def residual_plan(optimizer: Callable[[Any], optim.Optimizer], **how: Any) -> Plan:
    js.manual_seed(1)
    model = Residual().double()
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(5, 2, 6, 5)), rng.integers(0, 3, 5)]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return plan_of(model, loss, optimizer(model.parameters()), arrays, **how)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    kind, options = OPTIMIZERS[name]
    plan = residual_plan(lambda params: getattr(optim, kind)(params, **options))
    check_step(plan, 5, SMALL)


@pytest.mark.parametrize(
    "how",
    [
        {"clip_norm": 0.5},
        {"share": True, "updates": False},
        {"share": True, "updates": True, "clip_norm": 1.0},
    ],
    ids=["clip", "gather", "gathered"],
)
@pytest.mark.parametrize("target", TARGETS, ids=["small", "large"])
def test_clipping_and_accumulation(target: GridTarget, how: dict[str, Any]) -> None:
    plan = residual_plan(lambda params: optim.SGD(params, lr=0.1), **how)
    for images in (5, 1, 8):
        check_step(plan, images, target)

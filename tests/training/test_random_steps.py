"""Random models, trained: without some passes, on two threads, as eager and PyTorch."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_graph import by_references, interpreted
from strategies import Case, training_cases
from training_steps import Pair, momentum

import jitseq as js
from jitseq import nn, optim
from jitseq.ir.graph import Graph
from jitseq.ir.target import Target
from jitseq.passes.pipeline import OPTIONAL_PASSES

LEFT_OUT = ((), ("fuse",), ("simplify",), ("segment",), ("reuse_memory",))
BOUNDED = settings(
    derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
CLOSE = 1e-9
NARROW = Target("narrow", "", 8, 8)


def result_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """What the model gives for x; the copy's statistics change, its own do not."""
    return np.asarray(copy.deepcopy(model)(x))


def check(case: Case, reduction: str, **options: object) -> None:
    """Three steps, each from the same state; an error is the same error."""
    pair = Pair(
        lambda: copy.deepcopy(case.model), nn.MSELoss(reduction=reduction), **options
    )
    rng = np.random.default_rng(1)
    for x in (case.first, case.second, case.first):
        try:
            target = rng.normal(size=result_of(pair.native.model, x).shape)
        except js.JitseqError as error:  # one value for each channel
            y = np.zeros((len(x), 1))
            with pytest.raises(type(error)):
                pair.native(x, y)
            return
        pair(x, target, close=CLOSE)
        pair.copy_state()


@settings(BOUNDED, max_examples=40)
@given(training_cases(), st.sampled_from(["mean", "sum"]))
def test_fused(case: Case, reduction: str) -> None:
    check(case, reduction)


@settings(BOUNDED, max_examples=30)
@given(training_cases(), st.sampled_from((*LEFT_OUT[1:], OPTIONAL_PASSES)))
def test_passes_left_out(case: Case, left_out: tuple[str, ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JITSEQ_TARGET", "x86-64-v3")
        check(case, "sum", disable_passes=left_out)


@settings(BOUNDED, max_examples=30)
@given(training_cases(), st.sampled_from(LEFT_OUT))
def test_two_threads(case: Case, left_out: tuple[str, ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 0)
        check(case, "mean", disable_passes=left_out, threads=2)


@settings(BOUNDED, max_examples=10)
@given(training_cases())
def test_static_batch(case: Case) -> None:
    check(case, "sum", dynamic_batch=False)


def arrays_of(graph: Graph, images: int) -> list[np.ndarray]:
    """Numbers for whatever a step is fed with: what matters is that they are read."""
    rng = np.random.default_rng(3)
    found = []
    for value in graph.inputs:
        shape = (images,) * value.type.has_batch + value.type.inner_shape
        if value.type.dtype == "uint32":
            found.append(rng.integers(2**32, size=shape, dtype=np.uint32))
        else:
            spread = rng.uniform(0.1, 1.0, shape)
            found.append(np.asarray(spread, value.type.dtype))
    return found


@settings(BOUNDED, max_examples=20)
@given(training_cases(4, 250), st.sampled_from((*LEFT_OUT, OPTIONAL_PASSES)))
def test_interpreted(case: Case, left_out: tuple[str, ...]) -> None:
    """No access outside of a buffer, no read of what nothing wrote."""
    try:
        y = result_of(case.model, case.second)
    except js.JitseqError:  # one value for each channel
        return
    optimizer = momentum(case.model.parameters())
    step = js.train_step(case.model, nn.MSELoss(), optimizer, disable_passes=left_out)
    program = step._program((case.second, y))
    graph, variables = program.code.fused.graph, program.plan.variables
    params = {param: variables[param.name].numpy() for param in graph.params}
    arrays = arrays_of(graph, len(y))
    expected = by_references(graph, arrays, params)
    found = interpreted(graph, arrays, params, NARROW, frozenset(left_out))
    for array, reference in zip(found, expected, strict=True):
        size = np.abs(reference).max(initial=0.0)
        np.testing.assert_allclose(array, reference, CLOSE, CLOSE * size + 1e-12)


def twin_of(layer: nn.Module) -> Any:
    """PyTorch's module of the same name and options."""
    kind = getattr(torch_nn(), type(layer).__name__)
    if isinstance(layer, nn.Sequential):
        children = [(name, twin_of(child)) for name, child in layer.named_children()]
        return kind(OrderedDict(children))
    options = {
        name: getattr(layer, name)
        for name in inspect.signature(kind).parameters
        if name != "bias" and hasattr(layer, name)
    }
    if "bias" in inspect.signature(kind).parameters:
        options["bias"] = getattr(layer, "bias", None) is not None
    return kind(**options)


def torch_nn() -> Any:
    return pytest.importorskip("torch").nn


@settings(BOUNDED, max_examples=30)
@given(training_cases())
def test_as_pytorch(case: Case) -> None:
    """Loss, parameters and running statistics after one step, dropout left out."""
    torch = pytest.importorskip("torch")
    model = copy.deepcopy(case.model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    try:
        shape = result_of(model, case.first).shape
    except js.JitseqError:  # one value for each channel
        return
    target = np.random.default_rng(1).normal(size=shape)
    twin = twin_of(model).double().train()
    twin.load_state_dict(
        {k: torch.from_numpy(np.array(v)) for k, v in model.state_dict().items()}
    )
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    loss = torch.nn.functional.mse_loss(
        twin(torch.from_numpy(case.first)), torch.from_numpy(target)
    )
    torch.autograd.backward(loss)
    optimizer.step()
    step = js.train_step(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    assert step(case.first, target) == pytest.approx(loss.item(), rel=CLOSE)
    for name, value in twin.state_dict().items():
        ours = np.asarray(model.state_dict()[name])
        np.testing.assert_allclose(ours, value.numpy(), rtol=CLOSE, atol=CLOSE)

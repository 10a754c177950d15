"""Steps of models that are no chain of layers, and what changes between steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from training_steps import Pair, assert_same, everything, momentum, on_two_threads

import jitseq as js
from jitseq import nn, optim
from jitseq.nn import functional as F

CLOSE = 1e-10


class Residual(nn.Module):
    """A skip connection, and one convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(4 * 5 * 3, 3)

    def forward(self, x: Any) -> Any:
        a = F.relu(self.first(x))
        b = self.shared(F.tanh(self.norm(self.shared(a)))) + a
        return self.last(F.flatten(self.drop(b), 1))


class Tied(nn.Module):
    """One parameter in two layers, as in an autoencoder with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.random.default_rng(2).normal(size=(4, 6)))
        self.unused = nn.Parameter(np.ones(3))

    def forward(self, x: Any) -> Any:
        code = F.sigmoid(F.linear(x, self.weight))
        return F.linear(code, F.permute(self.weight, (1, 0)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a: Any, b: Any) -> Any:
        return F.softplus(self.left(a)) * self.right(b)


def residual() -> nn.Module:
    js.manual_seed(1)
    return Residual().double()


def chain() -> nn.Sequential:
    """A bias in front of batch statistics would have no gradient but rounding."""
    js.manual_seed(1)
    return nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(6, 3),
    ).double()  # fmt: skip


def rows(rng: np.random.Generator, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, 4)), rng.integers(0, 3, count)


def images(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, 2, 5, 3)), rng.integers(0, 3, count)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("left_out", [(), ("fuse", "simplify"), ("reuse_memory",)])
def test_skips_and_shared_weights(left_out, threads, rng, monkeypatch) -> None:
    on_two_threads(monkeypatch)
    pair = Pair(
        residual, nn.CrossEntropyLoss(), threads=threads, disable_passes=left_out
    )
    for number, count in enumerate((5, 2, 9, 5)):
        pair(*images(rng, count), close=CLOSE, seed=number)
    assert pair.native.cache_info().misses == 1


def test_tied_weights_and_unused_ones(rng) -> None:
    """A parameter that the loss does not read stays, and has no state."""
    pair = Pair(Tied, nn.MSELoss())
    for _ in range(3):
        x = rng.normal(size=(5, 6))
        pair(x, x, close=CLOSE)
    np.testing.assert_array_equal(pair.native.model.unused.numpy(), np.ones(3))
    assert pair.native.model.unused not in pair.native.optimizer.state


def test_two_inputs(rng) -> None:
    pair = Pair(lambda: TwoInputs().double(), nn.SmoothL1Loss())
    for count in (4, 7):
        a, b = rng.normal(size=(count, 4)), rng.normal(size=(count, 5))
        pair(a, b, rng.normal(size=(count, 3)), close=CLOSE)


def test_a_function_and_a_loss_with_parameters(rng) -> None:
    """Two modules in one function; the loss is a function too."""
    losses = []
    for backend in ("cpu", "eager"):
        js.manual_seed(4)
        body, head = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        step = js.train_step(
            lambda x, body=body, head=head: head(F.gelu(body(x))),
            lambda logits, y: F.cross_entropy(logits, y) + F.mean(logits * logits),
            optim.Adam([*body.parameters(), *head.parameters()], 0.05),
            backend=backend,
        )
        data = np.random.default_rng(0)
        losses.append([step(*rows(data)) for _ in range(8)])
    np.testing.assert_allclose(losses[0], losses[1], 1e-10)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("make", [chain, residual])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bits(make, threads, monkeypatch) -> None:
    on_two_threads(monkeypatch)
    ends = []
    for _ in range(3):
        model = make()
        step = js.train_step(
            model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()),
            threads=threads,
        )  # fmt: skip
        rng = np.random.default_rng(0)
        js.manual_seed(9)
        for _ in range(4):
            step(*(rows(rng, 33) if make is chain else images(rng, 33)))
        ends.append(everything(step))
    for end in ends[1:]:
        assert_same(end, ends[0])


def test_modes_change_between_steps(rng) -> None:
    """Eval mode: no masks, the running statistics, which then stay."""
    pair = Pair(chain, nn.CrossEntropyLoss())
    for training in (True, False, True, False):
        for step in (pair.native, pair.eager):
            step.model.train(training)
        before = everything(pair.native)
        pair(*rows(rng), close=CLOSE)
        after = everything(pair.native)
        moved = (after["1.running_mean"] != before["1.running_mean"]).any()
        assert moved == training
    assert pair.native.cache_info().misses == 2


def test_frozen_parameters_have_no_work(rng) -> None:
    pair = Pair(chain, nn.CrossEntropyLoss())
    pair(*rows(rng), close=CLOSE)
    gradients = [n.op for n in pair.native.graph().nodes].count("linear_weight_grad")
    for step in (pair.native, pair.eager):
        step.model[0].requires_grad_(False)
        step.model[1].requires_grad_(False)
    before = everything(pair.native)
    pair(*rows(rng), close=CLOSE)
    after = everything(pair.native)
    for name in ("0.weight", "1.weight", "1.bias", "0.momentum_buffer"):
        np.testing.assert_array_equal(after[name], before[name])
    assert (after["4.weight"] != before["4.weight"]).any()
    nodes = [node.op for node in pair.native.graph().nodes]
    assert (gradients, nodes.count("linear_weight_grad")) == (2, 1)
    assert "linear_input_grad" not in nodes
    assert "linear_weight_grad" in str(pair.native.explain())


def test_options_count_from_the_next_step(rng) -> None:
    """A rate is a number of the program, momentum that begins another rule."""
    pair = Pair(chain, nn.CrossEntropyLoss(), lambda p: optim.SGD(p, 0.1))
    changes: list[dict[str, Any]] = [
        {}, {"lr": 0.01}, {"lr": 0.2, "weight_decay": 0.1}, {"momentum": 0.9},
        {"nesterov": True}, {"lr": 0.0},
    ]  # fmt: skip
    for options in changes:
        for step in (pair.native, pair.eager):
            step.optimizer.param_groups[0].update(options)
        pair(*rows(rng), close=CLOSE)
    assert pair.native.cache_info().misses <= 4


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e3])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_accumulation_and_clipping(accumulate, clip_norm, rng) -> None:
    options = {"accumulate": accumulate, "clip_norm": clip_norm}
    pair = Pair(chain, nn.CrossEntropyLoss(), momentum, options, **options)
    for number in range(2 * accumulate + 1):
        pair(*rows(rng, 4 + number), close=CLOSE, seed=number)
        assert pair.native.accumulated == pair.eager.accumulated


def test_values_that_are_loaded_count_from_the_next_step(rng) -> None:
    """Of the model and of the optimizer, from a step that was somewhere else."""
    pair = Pair(chain, nn.CrossEntropyLoss(), lambda p: optim.Adam(p, 0.05))
    for number in range(3):
        pair(*rows(rng), close=CLOSE, seed=number)
    saved = pair.native.model.state_dict(), pair.native.optimizer.state_dict()
    kept = everything(pair.native)
    data = [rows(rng) for _ in range(2)]
    ends = []
    for _ in range(2):
        pair.native.model.load_state_dict(saved[0])
        pair.native.optimizer.load_state_dict(saved[1])
        assert_same(everything(pair.native), kept)
        for number, (x, y) in enumerate(data):
            js.manual_seed(number)
            pair.native(x, y)
        ends.append(everything(pair.native))
    assert_same(ends[0], ends[1])
    pair.eager.model.load_state_dict(saved[0])
    pair.eager.optimizer.load_state_dict(saved[1])
    pair.native.model.load_state_dict(saved[0])
    pair.native.optimizer.load_state_dict(saved[1])
    pair(*data[0], close=CLOSE)


def test_assignments_between_steps(rng) -> None:
    """A parameter that is changed, or replaced, is the one that is trained."""
    pair = Pair(chain, nn.CrossEntropyLoss())
    pair(*rows(rng), close=CLOSE)
    for step in (pair.native, pair.eager):
        step.model[4].bias[...] = [1.0, -2.0, 0.5]
        step.model[1].running_mean[...] = 0.25
    pair(*rows(rng), close=CLOSE)
    for step in (pair.native, pair.eager):
        step.model.float()
        step.optimizer.load_state_dict(step.optimizer.state_dict())
    x, y = rows(rng)
    pair(x.astype(np.float32), y, close=1e-4)


def test_predictions_follow_the_steps(rng) -> None:
    """A compiled forward of the same model is never stale."""
    model = chain()
    step = js.train_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters()))
    predict = js.jit(model)
    x, y = rows(rng)
    for _ in range(3):
        step(x, y)
        model.eval()
        np.testing.assert_allclose(predict(x), model(x), 1e-10, 1e-12)
        model.train()


class Centred(nn.Module):
    """Its maximum over the batch asks for the batch size itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Any) -> Any:
        y = self.linear(x)
        return y - F.amax(y, 0)


def test_a_model_that_needs_the_batch_size_has_a_program_for_each() -> None:
    pair = Pair(lambda: Centred().double(), nn.MSELoss())
    for seed, n in enumerate((5, 7, 3, 5)):
        rng = np.random.default_rng(seed)
        pair(rng.normal(size=(n, 3)), rng.normal(size=(n, 4)), close=1e-12)
    info = pair.native.cache_info()
    assert (info.misses, info.hits) == (3, 1)
    assert "compiled for this batch size" in str(pair.native.explain())

"""A training step: PyTorch's numbers, and nothing changed where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq import nn, optim
from jitseq.errors import (
    DtypeError,
    JitseqError,
    RangeError,
    ShapeError,
    UnsupportedError,
)
from jitseq.nn.functional.arguments import OptionError
from jitseq.optim import OptimizerError

STEPS = 4


@pytest.fixture(autouse=True, params=["eager", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs on both backends."""
    monkeypatch.setenv("JITSEQ_BACKEND", request.param)
    name: str = request.param
    return name


def classifier() -> nn.Sequential:
    js.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def samples(rng: Any, count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, 4)), rng.integers(0, 3, count)


def step_of(model: Any, **options: Any) -> js.TrainStep:
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return js.train_step(model, nn.CrossEntropyLoss(), optimizer, **options)


def everything(step: js.TrainStep) -> list[np.ndarray]:
    """Copies of parameters, buffers and the optimizer's state."""
    state = step.optimizer.state_dict()["state"]
    own = [array for name in sorted(state) for array in state[name].values()]
    return [*step.model.state_dict().values(), *own]


def torch_twin(model: Any) -> Any:
    torch = pytest.importorskip("torch")
    twin = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    ).double()
    state = {k: torch.from_numpy(v) for k, v in model.state_dict().items()}
    twin.load_state_dict(state)
    return twin


OPTIMIZERS: dict[str, Callable[[Any, Any], Any]] = {
    "SGD": lambda o, p: o.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda o, p: o.Adam(p, 0.05),
    "AdamW": lambda o, p: o.AdamW(p, 0.05, amsgrad=True),
    "RMSprop": lambda o, p: o.RMSprop(p, 0.01, momentum=0.5),
    "Adagrad": lambda o, p: o.Adagrad(p, 0.1),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip_norm", [None, 0.3, 1e3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_pytorchs(
    name: str, clip_norm: float | None, accumulate: int, rng: Any
) -> None:
    torch = pytest.importorskip("torch")
    model = classifier()
    twin = torch_twin(model)
    step = js.train_step(
        model,
        nn.CrossEntropyLoss(),
        OPTIMIZERS[name](optim, model.parameters()),
        accumulate=accumulate,
        clip_norm=clip_norm,
    )
    criterion = torch.nn.CrossEntropyLoss()
    reference = OPTIMIZERS[name](torch.optim, twin.parameters())
    for call in range(1, STEPS * accumulate + 1):
        x, y = samples(rng)
        loss = criterion(twin(torch.from_numpy(x)), torch.from_numpy(y))
        torch.autograd.backward(loss / accumulate)
        if call % accumulate == 0:
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
            reference.step()
            reference.zero_grad()
        assert step(x, y) == pytest.approx(loss.item(), rel=1e-10)
        assert step.accumulated == call % accumulate
        for key, expected in twin.state_dict().items():
            value = model.state_dict()[key]
            np.testing.assert_allclose(value, expected.numpy(), rtol=1e-9, atol=1e-12)


def test_batch_norm_buffers_are_pytorchs(rng: Any) -> None:
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    twin = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).double()
    twin.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()})
    reference = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    step = step_of(model)
    for _ in range(3):
        x, y = samples(rng)
        reference.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            twin(torch.from_numpy(x)), torch.from_numpy(y)
        )
        torch.autograd.backward(loss)
        reference.step()
        assert step(x, y) == pytest.approx(loss.item(), rel=1e-10)
    for key, expected in twin.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[key], expected.numpy(), rtol=1e-9, atol=1e-12
        )


def test_gradients_of_the_user_are_left_alone(rng: Any) -> None:
    model = classifier()
    mine = np.full((6, 4), 3.0)
    model[0].weight.grad = mine
    step_of(model)(*samples(rng))
    assert model[0].weight.grad is mine
    assert model[0].bias.grad is None


def test_frozen_and_left_out_parameters_stay(rng: Any) -> None:
    model = classifier()
    model[0].weight.requires_grad_(False)
    before = model.state_dict()
    held = [p for p in model.parameters() if p is not model[2].bias]
    step = js.train_step(model, nn.CrossEntropyLoss(), optim.Adam(held))
    step(*samples(rng))
    moved = [k for k, v in model.state_dict().items() if (v != before[k]).any()]
    assert moved == ["0.bias", "2.weight"]


def test_several_inputs_and_functions(rng: Any) -> None:
    left, right = nn.Linear(4, 1).double(), nn.Linear(2, 1).double()

    def model(a: Any, b: Any) -> Any:
        return left(a) + right(b)

    optimizer = optim.Adam([*left.parameters(), *right.parameters()], 0.1)
    step = js.train_step(model, nn.MSELoss(), optimizer)
    a, b = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
    y = a[:, :1] - b[:, 1:]
    losses = [step(a, b, y) for _ in range(60)]
    assert losses[-1] < losses[0] / 10


def test_tensors_and_lists_are_taken(rng: Any) -> None:
    torch = pytest.importorskip("torch")
    x, y = samples(rng)
    first, second, third = (step_of(classifier()) for _ in range(3))
    loss = first(x, y)
    assert isinstance(loss, float)
    assert second(torch.from_numpy(x), torch.from_numpy(y)) == loss
    assert third(x.tolist(), y.tolist()) == loss


def test_a_schedule_counts_from_the_next_step(rng: Any) -> None:
    model = classifier()
    step = step_of(model)
    step.optimizer.param_groups[0]["lr"] = 0.0
    before = model.state_dict()
    step(*samples(rng))
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_loss_that_is_not_finite_is_returned(rng: Any) -> None:
    model = classifier()
    x, y = samples(rng)
    x[0, 0] = np.nan
    assert np.isnan(step_of(model)(x, y))
    assert np.isnan(model[2].weight.numpy()).any()


@pytest.mark.parametrize("change", ["model", "parameter"])
def test_other_models_parameters_are_named(change: str, rng: Any) -> None:
    model, other = classifier(), nn.Linear(2, 2)
    if change == "model":
        held: list[Any] = [*model.named_parameters()]
        held.append(("theirs", other.weight))
        with pytest.raises(OptimizerError, match="parameter 4 of group 0") as caught:
            js.train_step(model, nn.CrossEntropyLoss(), optim.SGD(held))
        assert caught.value.facts["name"] == "theirs"
        return
    step = step_of(model)
    model[0].weight = nn.Parameter(np.zeros((6, 4)))
    before = everything(step)
    with pytest.raises(OptimizerError, match="parameter 0 of group 0 is not a param"):
        step(*samples(rng))
    assert_same(everything(step), before)


def test_nothing_to_train_is_refused() -> None:
    model = classifier().requires_grad_(False)
    with pytest.raises(OptimizerError, match="no parameter of the optimizer requires"):
        step_of(model)


def test_a_function_that_reads_no_parameter_is_refused() -> None:
    optimizer = optim.SGD(classifier().parameters())
    step = js.train_step(lambda x: x * 2.0, nn.MSELoss(), optimizer)
    with pytest.raises(OptimizerError, match="reads no parameter of the optimizer"):
        step(np.ones(3), np.ones(3))


def test_state_of_another_dtype_is_refused(rng: Any) -> None:
    model = classifier().float()
    step = step_of(model)
    x, y = samples(rng)
    step(x.astype(np.float32), y)
    model.double()
    with pytest.raises(OptimizerError, match=r"0\.weight no longer fits its state"):
        step(x, y)
    step.optimizer.load_state_dict(step.optimizer.state_dict())
    assert np.isfinite(step(x, y))


def mean_of(*arrays: Any) -> Any:
    return nn.functional.mse_loss(*arrays, reduction="none")


Arrays = tuple[Any, ...]
BAD: dict[str, tuple[Callable[[Any, Any], Arrays], type[Exception], str]] = {
    "dtype": (lambda x, y: (x.astype(np.float32), y), DtypeError, "different dtypes"),
    "integers": (lambda x, y: (x.astype(np.int64), y), DtypeError, "int64"),
    "label dtype": (lambda x, y: (x, y + 0.5), DtypeError, "class labels are"),
    "features": (lambda x, y: (x[:, :3], y), ShapeError, "linear"),
    "batch": (lambda x, y: (x, y[:-1]), ShapeError, r"numbers of samples(.|\n)*\[6\]"),
    "empty": (lambda x, y: (x[:0], y[:0]), ShapeError, "x is empty"),
    "empty y": (lambda x, y: (x, y[:0]), ShapeError, "y is empty"),
    "label": (lambda x, y: (x, y + 1), RangeError, "label 3 is out of range"),
    "missing": (lambda x, y: (x,), TypeError, "got 1 arrays"),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", BAD)
def test_refused_steps_change_nothing(case: str, accumulate: int, rng: Any) -> None:
    change, error, message = BAD[case]
    model = classifier()
    step = step_of(model, accumulate=accumulate)
    x, y = samples(rng)
    y[0] = 2
    for _ in range(2 * accumulate - 1):
        step(x, y)
    before = everything(step)
    with pytest.raises(error, match=message):
        step(*change(x, y))
    assert_same(everything(step), before)
    assert step.accumulated == accumulate - 1


def test_a_failed_update_changes_no_buffer(
    rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    step = step_of(model, backend="eager")
    x, y = samples(rng)
    step(x, y)
    before = everything(step)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(step.optimizer, "rule", fail)
    with pytest.raises(MemoryError):
        step(x, y)
    assert_same(everything(step), before)


def test_a_loss_of_several_numbers_is_refused(rng: Any) -> None:
    model = classifier()
    optimizer = optim.SGD(model.parameters())
    step = js.train_step(model, mean_of, optimizer)
    with pytest.raises(ShapeError, match="the loss must be one number"):
        step(rng.normal(size=(5, 4)), rng.normal(size=(5, 3)))
    pair = js.train_step(model, lambda out, y: (out, y), optimizer)
    with pytest.raises(ShapeError, match="the loss must be one number"):
        pair(rng.normal(size=(5, 4)), rng.normal(size=(5, 3)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"accumulate": 0}, OptionError, "accumulate"),
        ({"accumulate": True}, OptionError, "accumulate"),
        ({"clip_norm": -1.0}, OptimizerError, "clip_norm"),
        ({"clip_norm": "1e"}, OptimizerError, "clip_norm"),
        ({"backend": "gpu"}, UnsupportedError, "no backend 'gpu'"),
        ({"disable_passes": ["none"]}, JitseqError, "no optional pass"),
    ],
)
def test_bad_options(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = classifier()
    with pytest.raises(error, match=message):
        step_of(model, **options)


def test_parts_of_pytorch_are_refused_with_a_hint() -> None:
    torch = pytest.importorskip("torch")
    model, loss = classifier(), nn.CrossEntropyLoss()
    twin = torch_twin(model)
    optimizer = optim.SGD(model.parameters())
    for target in (twin, js.jit(twin)):
        with pytest.raises(UnsupportedError, match="from_torch"):
            js.train_step(target, loss, optimizer)
    with pytest.raises(UnsupportedError, match=r"jitseq\.nn\.MSELoss"):
        js.train_step(model, torch.nn.MSELoss(), optimizer)
    with pytest.raises(OptimizerError, match=r"jitseq\.optim"):
        js.train_step(model, loss, torch.optim.SGD(twin.parameters(), 0.1))


def test_a_compiled_model_is_trained_itself() -> None:
    model = classifier()
    optimizer = optim.SGD(model.parameters())
    step = js.train_step(js.jit(model), nn.CrossEntropyLoss(), optimizer)
    assert step.model is model


def assert_same(arrays: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, other)

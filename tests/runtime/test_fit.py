"""`fit`: the loop that users write, with its order and its reports."""

from __future__ import annotations

import builtins
import signal
import threading
from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq import nn, optim
from jitseq.errors import RangeError, ShapeError, UnsupportedError
from jitseq.nn.functional.arguments import OptionError
from jitseq.optim import OptimizerError, lr_scheduler

COUNT = 50


@pytest.fixture(autouse=True, params=["eager", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs on both backends."""
    monkeypatch.setenv("JITSEQ_BACKEND", request.param)
    name: str = request.param
    return name


def classifier() -> nn.Sequential:
    js.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def samples(count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points whose class is the largest of three sums."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    return x, (x @ np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -1, 0]])).argmax(1)


def train(model: Any = None, **options: Any) -> js.History:
    model = classifier() if model is None else model
    x, y = options.pop("data", samples())
    arguments: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(),
        "epochs": 3,
        "batch_size": 16,
        "progress": False,
    }
    arguments |= options
    if "optimizer" not in arguments:
        arguments["optimizer"] = optim.Adam(model.parameters(), 0.02)
    return js.fit(model, x, y, **arguments)


def test_it_learns_and_reports() -> None:
    model = classifier()
    history = train(model, epochs=30, validation=samples(40, seed=1))
    assert len(history) == 30
    assert history.columns == (
        "epoch", "loss", "val_loss", "val_accuracy", "lr", "seconds",
    )  # fmt: skip
    assert history["loss"][-1] < history["loss"][0] / 2
    x, y = samples(40, seed=1)
    right = (np.asarray(model(x)).argmax(1) == y).mean()
    assert history[-1]["val_accuracy"] == pytest.approx(right)
    loss = float(nn.CrossEntropyLoss()(model(x), y))
    assert history[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert not history.interrupted


def test_it_is_the_loop_over_shuffled_batches() -> None:
    """The same steps written out, ragged last batch included."""
    x, y = samples()
    model, twin = classifier(), classifier()
    optimizer = optim.Adam(twin.parameters(), 0.02)
    step = js.train_step(twin, nn.CrossEntropyLoss(), optimizer)
    rng = np.random.default_rng(7)
    means = []
    for _ in range(2):
        order = rng.permutation(COUNT)
        parts = [order[i : i + 16] for i in range(0, COUNT, 16)]
        assert len(parts[-1]) == 2
        means.append(sum(step(x[part], y[part]) * len(part) for part in parts) / COUNT)
    history = train(model, epochs=2, seed=7)
    assert history["loss"] == means
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, twin.state_dict()[key])


def test_seed_and_shuffle() -> None:
    first, second, other = train(), train(), train(seed=1)
    assert first["loss"] == second["loss"] != other["loss"]
    ordered = train(shuffle=False, seed=1)
    assert ordered["loss"] == train(shuffle=False, seed=2)["loss"]


def test_accumulated_batches_make_the_larger_step() -> None:
    """Without shuffling, four batches of 4 are one of 16."""
    data = samples(48)
    model, twin = classifier().double(), classifier().double()
    data = (data[0].astype(np.float64), data[1])
    train(model, data=data, shuffle=False, batch_size=4, accumulate=4)
    train(twin, data=data, shuffle=False, batch_size=16)
    for key, value in model.state_dict().items():
        np.testing.assert_allclose(value, twin.state_dict()[key], rtol=1e-9)


def test_modes_are_restored() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh())
    model[2].eval()
    seen = []

    def loss(out: Any, y: Any) -> Any:
        seen.append([module.training for module in model])
        return nn.functional.cross_entropy(out, y)

    train(model, epochs=1, validation=samples(20), loss=loss)
    assert [module.training for module in model] == [True, True, False]
    assert [True] * 3 in seen and [False] * 3 in seen
    x, y = samples()
    with pytest.raises(RangeError):
        train(model.eval(), data=(x, y + 1))
    assert not any(module.training for module in model.modules())


def test_schedules_step_once_an_epoch() -> None:
    model = classifier()
    optimizer = optim.SGD(model.parameters(), 0.4)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    history = train(model, optimizer=optimizer, scheduler=schedule)
    assert history["lr"] == [0.4, 0.2, 0.1]


@pytest.mark.parametrize("validated", [True, False])
def test_a_plateau_is_one_of_the_validation_loss(validated: bool) -> None:
    seen = []

    class Plateau(lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics: Any) -> None:
            seen.append(metrics)

    model = classifier()
    optimizer = optim.SGD(model.parameters(), 0.1)
    history = train(
        model,
        optimizer=optimizer,
        scheduler=Plateau(optimizer),
        validation=samples(20) if validated else None,
    )
    assert seen == history["val_loss" if validated else "loss"]


def test_targets_that_are_no_classes_have_no_accuracy() -> None:
    x, _ = samples()
    model = nn.Sequential(nn.Linear(4, 4))
    data = (x, x)
    history = train(model, data=data, validation=data, loss=nn.MSELoss())
    assert history.columns == ("epoch", "loss", "val_loss", "lr", "seconds")


def test_ignored_labels_do_not_count_as_wrong() -> None:
    x, y = samples()
    model = classifier()
    right = (np.asarray(model(x)).argmax(1) == y)[:10].mean()
    y[10:] = -100
    history = train(
        model,
        data=(x, y),
        validation=(x, y),
        epochs=1,
        optimizer=optim.SGD(model.parameters(), 0.0),
    )
    assert history["val_accuracy"] == [pytest.approx(right)]


def test_several_inputs_are_a_tuple() -> None:
    left, right = nn.Linear(4, 3), nn.Linear(4, 3)

    def model(a: Any, b: Any) -> Any:
        return left(a) - right(b)

    x, y = samples()
    history = train(
        model,
        data=((x, x[:, ::-1].copy()), y),
        optimizer=optim.Adam([*left.parameters(), *right.parameters()], 0.02),
        validation=((x, x), y),
    )
    assert history["loss"][-1] < history["loss"][0]


def test_bad_arguments() -> None:
    x, y = samples()
    with pytest.raises(ShapeError, match=r"same number of samples(.|\n)*\[49\]"):
        train(data=(x, y[1:]))
    with pytest.raises(ShapeError, match="validation x and validation y"):
        train(validation=(x, y[1:]))
    with pytest.raises(ShapeError, match="same number of samples"):
        train(data=(x[:0], y[:0]))
    for options in ({"epochs": 0}, {"batch_size": 0}, {"batch_size": 1.5}):
        with pytest.raises(OptionError, match=next(iter(options))):
            train(**options)
    model, other = classifier(), optim.SGD(classifier().parameters())
    with pytest.raises(OptimizerError, match="another optimizer"):
        train(model, scheduler=lr_scheduler.StepLR(other, 1))
    with pytest.raises(OptimizerError, match="float is not a schedule"):
        train(model, scheduler=0.1)


def test_torch_modules_are_refused() -> None:
    torch = pytest.importorskip("torch")
    optimizer = optim.SGD(classifier().parameters())
    with pytest.raises(UnsupportedError, match="from_torch"):
        train(torch.nn.Linear(4, 3), optimizer=optimizer)


class StopAfter(lr_scheduler.StepLR):
    """Presses Ctrl-C ``presses`` times during one epoch."""

    def __init__(self, optimizer: Any, epoch: int, presses: int = 1) -> None:
        self.presses, self.epoch = 0, epoch
        super().__init__(optimizer, 100)
        self.presses = presses

    def step(self) -> None:
        super().step()
        if self.last_epoch == self.epoch:
            for _ in range(self.presses):
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_training_between_steps() -> None:
    model = classifier().eval()
    optimizer = optim.SGD(model.parameters(), 0.1)
    handler = signal.getsignal(signal.SIGINT)
    history = train(
        model, optimizer=optimizer, scheduler=StopAfter(optimizer, 2), epochs=9
    )
    assert len(history) == 2
    assert history.interrupted
    assert repr(history).endswith("interrupted")
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_is_raised() -> None:
    model = classifier()
    optimizer = optim.SGD(model.parameters(), 0.1)
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer=optimizer, scheduler=StopAfter(optimizer, 2, 2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_may_train() -> None:
    found: list[js.History] = []
    thread = threading.Thread(target=lambda: found.append(train()))
    thread.start()
    thread.join()
    assert found[0]["loss"] == train()["loss"]


# Progress


def test_lines_without_tqdm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("tqdm"):
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    history = train(progress=True, validation=samples())
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert f"loss {history[2]['loss']:.4g}" in lines[2]
    assert f"val_accuracy {history[2]['val_accuracy']:.2%}" in lines[2]


def test_bars_with_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    history = train(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 3/3: 100%" in captured.err
    assert "4/4" in captured.err
    assert f"loss={history[2]['loss']:.4g}" in captured.err


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    train()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""

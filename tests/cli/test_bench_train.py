"""The training benchmark: every contestant makes the same step, and wrong ones fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import train
from benchmarks.table import Row
from benchmarks.train_jax import from_jax, to_jax
from benchmarks.train_peers import TRAIN_PEERS, prepare_jitseq
from benchmarks.train_task import Task, make_task, update_error
from benchmarks.zoo import ENTRIES, ZOO, Entry
from jitseq import nn
from jitseq.cli import main

SMALL = [e for e in ENTRIES if e.input_shape[-1] < 100 and e.name != "vgg11_bn"]
PEERS = [peer for peer in TRAIN_PEERS if peer.name != "torch.compile"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_peers_make_the_same_step(entry: Entry, peer: Any) -> None:
    if peer.missing() is not None:
        pytest.skip(peer.missing())
    task = make_task(entry, 3, dropout=False)
    if peer.uncovered(task) is not None:
        pytest.skip(peer.uncovered(task))
    own, other = prepare_jitseq(task, 1, "eager"), peer.prepare(task, 1)
    start = own.state()
    for _ in range(2):
        assert other.step() == pytest.approx(own.step(), rel=1e-4)
        assert update_error(other.state(), own.state(), start) < 1e-3


def test_a_task_has_no_softmax_and_trains() -> None:
    task = make_task(ZOO["mlp_bn"], 2)
    model = task.model()
    assert model.training
    assert not any(isinstance(layer, nn.Softmax) for layer in model)
    assert task.is_random
    assert not make_task(ZOO["mlp_bn"], 2, dropout=False).is_random
    assert task.y.shape == (2,)


@pytest.mark.parametrize(
    ("name", "loss", "shape"),
    [
        ("lenet5", "cross_entropy", (4,)),
        ("tiny", "mse", (4, 1)),
        ("docs_conv", "mse", (4, 64, 20, 20)),
    ],
)
def test_losses_and_targets(name: str, loss: str, shape: tuple[int, ...]) -> None:
    task = make_task(ZOO[name], 4)
    assert (task.loss, task.y.shape) == (loss, shape)


def test_an_autoencoder_learns_its_input() -> None:
    task = make_task(ZOO["autoencoder"], 2)
    assert task.y is task.x


def test_update_errors() -> None:
    start = {"w": np.zeros(4), "b": np.zeros(2)}
    expected = {"w": np.full(4, 2.0), "b": np.zeros(2)}
    assert update_error(expected, expected, start) == 0
    wrong = expected | {"w": np.full(4, 3.0)}
    assert update_error(wrong, expected, start) == pytest.approx(0.5, rel=1e-2)
    noise = expected | {"b": np.full(2, 1e-7)}
    assert update_error(noise, expected, start) < 1e-4
    for other in ({"w": np.zeros(4)}, expected | {"b": np.zeros(3)}):
        assert update_error(other, expected, start) == np.inf
    assert update_error(expected | {"b": np.full(2, np.nan)}, expected, start) == np.inf


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d", "Linear"])
def test_weights_go_to_jax_and_back(kind: str, rng: Any) -> None:
    value = rng.normal(size=(2, 3) if kind == "Linear" else (2, 3, 4, 5))
    np.testing.assert_array_equal(from_jax(to_jax(value, kind), kind), value)


def test_layers_that_jax_leaves_out_are_named() -> None:
    (jax,) = (peer for peer in TRAIN_PEERS if peer.name == "jax")
    reason = jax.uncovered(make_task(ZOO["named_cnn"], 1))
    assert reason is not None and "Dropout" in reason
    assert jax.uncovered(make_task(ZOO["cnn32"], 1)) is None


def test_it_writes_the_table_and_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    arguments = ["--train", "--models", "tiny", "--batches", "2,5", "--peers", "none"]
    assert main(["bench", *arguments, "--rounds", "2", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "median µs a step" in text
    assert text.count("\ntiny") == 2
    record = json.loads(file.read_text())
    assert [row["batch"] for row in record["rows"]] == [2, 5]
    assert "jax" in record["versions"]
    assert all(row["errors"]["jitseq"] < 1e-4 for row in record["rows"])


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_wrong_updates_fail(
    error: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Row("tiny", 2, {"eager": 1.0, "jitseq": 1.0}, {"jitseq": error})
    monkeypatch.setattr(train, "measure", lambda *_, **__: wrong)
    assert train.main(["--models", "tiny", "--batches", "2", "--peers", "none"]) == 1
    assert "updates disagree: tiny" in capsys.readouterr().out


def test_errors_are_those_of_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(ZOO["tiny"], 4)
    steppers = train.contestants(task, [], 1)
    assert train.first_step_errors(steppers)["jitseq"] < 1e-4
    fresh = train.contestants(task, [], 1)
    fresh["jitseq"].step()
    assert train.first_step_errors(fresh)["jitseq"] > 0.1


def test_large_models_run_on_request_only() -> None:
    options = train.parser().parse_args([])
    rows = [(entry.name, batch) for entry, batch in train.races(options)]
    assert ("chain224", 64) in rows and ("vgg11_bn", 16) in rows
    assert not any(name == "mobilenet_v1" for name, _ in rows)
    asked = train.parser().parse_args(["--models", "mobilenet_v1"])
    assert [batch for _, batch in train.races(asked)] == [16]


@pytest.mark.parametrize("text", ["0", "a", "4,-1"])
def test_bad_batches_are_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        train.parser().parse_args(["--batches", text])


def test_tasks_are_the_same_every_time() -> None:
    first, second = (make_task(ZOO["cnn32"], 3) for _ in range(2))
    assert isinstance(first, Task)
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.y, second.y)

"""The zoo, its twins for the peers, and the table that compares them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench
from benchmarks.export import to_onnx, to_torch
from benchmarks.peers import PEERS
from benchmarks.table import Row
from benchmarks.timing import median_seconds
from benchmarks.zoo import ENTRIES, ZOO, Entry
from jitseq import nn
from jitseq.cli import main
from jitseq.errors import UnsupportedError

TABLE = bench.table_for("cpu", PEERS, 1e-4)
SMALL = [entry for entry in ENTRIES if entry.input_shape[-1] < 100]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_models_are_the_same_every_time(entry: Entry) -> None:
    first, second = entry.build(), entry.build()
    assert not first.training
    state = second.state_dict()
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tiny", 241),
        ("lenet5", 61706),
        ("vgg11_bn", 9231114),
        ("mobilenet_v1", 4231976),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    model = ZOO[name].build()
    assert sum(np.asarray(p).size for p in model.parameters()) == parameters


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_torch_twin_computes_the_same(entry: Entry) -> None:
    torch = pytest.importorskip("torch")
    model, x = entry.build(), entry.sample(2)
    with torch.no_grad():
        output = to_torch(model)(torch.from_numpy(x)).numpy()
    assert bench.relative_error(output, np.asarray(model(x))) < 1e-5


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_onnx_twin_computes_the_same_at_any_batch(entry: Entry) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = entry.build()
    session = runtime.InferenceSession(
        to_onnx(model, entry.input_shape), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        x = entry.sample(batch)
        (output,) = session.run(None, {"x": x})
        assert bench.relative_error(output, np.asarray(model(x))) < 1e-5


def test_layers_without_a_twin_are_refused() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(UnsupportedError, match="GELU is not exported"):
        to_onnx(nn.Sequential(nn.GELU()), (3,))


def test_every_contestant_is_called_and_timed() -> None:
    called: dict[str, int] = {"first": 0, "second": 0}

    def count(name: str) -> None:
        called[name] += 1

    medians = median_seconds({name: partial(count, name) for name in called}, rounds=3)
    assert set(medians) == set(called)
    assert all(calls > 3 for calls in called.values())
    assert all(seconds > 0 for seconds in medians.values())


def test_the_clock_runs_from_idle_to_idle() -> None:
    """What calls have started is waited for before the clock starts and stops."""
    log: list[str] = []
    median_seconds(
        {"a": partial(log.append, "a")},
        rounds=1,
        begin=lambda name: log.append(f"begin {name}"),
        settle=partial(log.append, "settle"),
    )
    assert log[:4] == ["begin a", "settle", "a", "settle"]
    sample = log[len(log) - log[::-1].index("begin a") - 1 :]
    assert sample[:4] == ["begin a", "a", "settle", "a"]
    assert sample[-2:] == ["a", "settle"]
    assert sample.count("settle") == 2


def test_ratio_compares_with_the_fastest_peer() -> None:
    row = Row("m", 1, {"eager": 1.0, "jitseq": 2.0, "torch": 6.0, "openvino": 3.0})
    assert row.ratio(["torch", "openvino", "onnxruntime"]) == 1.5
    assert row.ratio(["torch"]) == 3.0
    assert Row("m", 1, {"eager": 1.0, "jitseq": 2.0}).ratio(["torch"]) is None


def test_lines_are_aligned_and_fit() -> None:
    row = Row("mobilenet_v1", 64, {"eager": 12.3, "jitseq": 0.5, "torch": 9.9})
    assert len(TABLE.line(row)) == len(TABLE.header()) <= 100


def test_summary_names_the_worst_row() -> None:
    rows = [
        Row("a", 1, {"jitseq": 1.0, "torch": 4.0}, {"jitseq": 1e-7}),
        Row("b", 8, {"jitseq": 1.0, "torch": 1.0}, {"jitseq": 2e-7, "torch": 0.0}),
    ]
    text = "\n".join(TABLE.summary(rows))
    assert "geometric mean 2.00 × the fastest peer" in text
    assert "ahead in 1 of 2" in text
    assert "1.00 (b, batch 8)" in text
    assert "2.0e-07 (jitseq, b, batch 8)" in text


@pytest.mark.parametrize("error", [1e-3, np.nan, np.inf])
def test_one_error_rejects_a_row(error: float) -> None:
    good = Row("a", 1, {"jitseq": 1.0}, {"jitseq": 1e-5, "torch": 1e-5})
    assert TABLE.accepts(good)
    assert not TABLE.accepts(Row("a", 1, {}, {"jitseq": 1e-5, "torch": error}))


@pytest.mark.parametrize(
    ("output", "error"),
    [([1.0, 4.5], 0.125), ([1.0, np.nan], np.inf), ([1.0], np.inf)],
)
def test_relative_error(output: list[float], error: float) -> None:
    assert bench.relative_error(np.array(output), np.array([1.0, 4.0])) == error


def test_bench_writes_the_table_and_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    arguments = ["--models", "tiny", "--batch", "1", "5", "--peers", "none"]
    assert main(["bench", *arguments, "--rounds", "2", "--json", str(file)]) == 0
    assert capsys.readouterr().out.count("\ntiny") == 2
    record = json.loads(file.read_text())
    assert [row["batch"] for row in record["rows"]] == [1, 5]
    assert record["backend"] == "cpu" and record["rows"][0]["ratio"] is None
    assert all(row["errors"]["jitseq"] < 1e-5 for row in record["rows"])


def test_wrong_outputs_fail_the_bench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Row("tiny", 1, {"eager": 1.0, "jitseq": 1.0}, {"jitseq": 0.5})
    monkeypatch.setattr(bench, "measure", lambda *_, **__: wrong)
    assert bench.main(["--models", "tiny", "--batch", "1", "--peers", "none"]) == 1
    assert "outputs disagree: tiny" in capsys.readouterr().out


def test_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--models", "resnet"])
    assert "resnet is not one of tiny" in capsys.readouterr().err

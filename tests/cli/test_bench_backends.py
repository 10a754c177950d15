"""``bench --backend``: the column beside numba, refusals without a GPU, options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jitseq as js
from benchmarks import bench, gpu_bench, gpu_peers, train
from benchmarks.gpu_peers import GPU_PEERS, GpuPeer
from benchmarks.table import Row
from jitseq.cli import main
from jitseq.errors import JitseqError


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that were asked for."""
    asked: list[str] = []
    for name in ("jit", "train_step"):
        function = getattr(js, name)

        def spy(*args: Any, function: Any = function, **options: Any) -> Any:
            asked.append(options["backend"])
            return function(*args, **options)

        monkeypatch.setattr(js, name, spy)
    return asked


# numba


@pytest.mark.parametrize("training", [False, True])
def test_numba_stands_beside_llvm(
    training: bool, used: list[str], capsys: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    arguments = ["--train", "--batches", "3"] if training else ["--batch", "3"]
    arguments += ["--backend", "numba", "--models", "tiny", "--peers", "none"]
    assert main(["bench", *arguments, "--rounds", "2", "--json", str(file)]) == 0
    assert {"numba", "cpu"} <= set(used)
    lines = capsys.readouterr().out.splitlines()
    (header,) = (line for line in lines if line.startswith("model"))
    assert header.split()[2:5] == ["eager", "jitseq", "cpu"]
    assert header.endswith("ratio to cpu")
    assert any("× cpu, ahead in" in line for line in lines)
    record = json.loads(file.read_text())
    (row,) = record["rows"]
    assert record["backend"] == "numba"
    assert set(row["seconds"]) == {"eager", "jitseq", "cpu"}
    assert set(row["errors"]) == {"jitseq", "cpu"}
    assert row["to cpu"] == row["seconds"]["cpu"] / row["seconds"]["jitseq"]


def test_llvm_has_no_column_beside_itself() -> None:
    table = bench.table_for("cpu", [], 1e-4)
    assert table.columns == ("eager", "jitseq")
    assert list(table.ratios) == ["ratio"]


def test_unknown_backend_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--backend", "rocm"])
    assert "invalid choice: 'rocm'" in capsys.readouterr().err


# refusals


@pytest.mark.parametrize("training", [[], ["--train"], ["--profile"]])
def test_no_gpu_is_one_line(training: list[str], capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu_bench, "refusal", lambda: "the device is out")
    assert main(["bench", "--backend", "cuda", *training]) == 1
    captured = capsys.readouterr()
    assert captured.err == "bench --backend cuda: the device is out\n"
    assert captured.out == ""


def fake_torch(cuda: str | None, found: bool) -> Any:
    return SimpleNamespace(
        __version__="9.9",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(is_available=lambda: found),
    )


def refuse(*_: Any, **__: Any) -> None:
    raise JitseqError("no driver", hint="install one")


@pytest.mark.parametrize(
    ("simulator", "version", "torch", "reason"),
    [
        ("1", "9.9", fake_torch("12.8", True), "NUMBA_ENABLE_CUDASIM=1"),
        ("0", None, None, "PyTorch, whose tensors hold the inputs, is not installed"),
        ("0", "9.9", fake_torch(None, False), "torch 9.9 has no CUDA"),
        ("0", "9.9", fake_torch("12.8", False), "PyTorch finds no GPU"),
        ("0", "9.9", fake_torch("12.8", True), "no driver; install one"),
    ],
)
def test_reasons(
    simulator: str, version: str, torch: Any, reason: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", simulator)
    monkeypatch.setattr(gpu_bench, "installed_version", lambda _: version)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(js, "jit", refuse)
    found = gpu_bench.refusal()
    assert found is not None and found.startswith(reason) and "\n" not in found


def test_a_gpu_is_accepted(monkeypatch: Any) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    monkeypatch.setattr(gpu_bench, "installed_version", lambda _: "9.9")
    monkeypatch.setitem(sys.modules, "torch", fake_torch("12.8", True))
    monkeypatch.setattr(js, "jit", lambda *_, **__: None)
    assert gpu_bench.refusal() is None


def test_peers_say_what_they_lack(monkeypatch: Any) -> None:
    versions: dict[str, str | None] = {"torch": "9.9", "triton": None}
    monkeypatch.setattr(gpu_peers, "installed_version", versions.get)
    assert GpuPeer("torch").missing() is None
    peer = GpuPeer("torch.compile", compiled=True)
    assert peer.missing() == "triton is not installed"
    versions["triton"] = "3"
    monkeypatch.setattr(gpu_peers, "has_c_compiler", lambda: False)
    assert peer.missing() == "no C compiler was found"


# options and columns


def test_rows_of_the_cuda_bench(capsys: Any) -> None:
    parse = gpu_bench.parser().parse_args
    rows = [(e.name, b) for e, b in gpu_bench.races(parse([]))]
    assert [batch for name, batch in rows if name == "tiny"] == [1, 64, 256]
    assert ("mobilenet_v1", 256) in rows and ("mlp_bn", 1) in rows
    rows = [(e.name, b) for e, b in gpu_bench.races(parse(["--train", "--quick"]))]
    assert {name for name, _ in rows} == set(bench.QUICK_MODELS)
    assert capsys.readouterr().out == ""
    chosen = parse(["--train", "--models", "mlp_bn", "--batches", "1,2"])
    assert [batch for _, batch in gpu_bench.races(chosen)] == [2]
    assert "without mlp_bn, batch 1" in capsys.readouterr().out
    on_request = [e.name for e, _ in gpu_bench.races(parse(["--train"]))]
    assert "mobilenet_v1" not in on_request


def test_peers_have_columns_in_float32_and_tf32() -> None:
    table = gpu_bench.table_for(training=False)
    assert table.columns[:4] == ("jitseq", "torch", "torch.compile", "torch graphs")
    assert len(table.columns) == 1 + len(GPU_PEERS)
    exact, rounded = table.ratios.values()
    assert not set(exact) & set(rounded)
    assert all(("TF32" in peer.name) == peer.tf32 for peer in GPU_PEERS)
    assert {peer.name for peer in GPU_PEERS if peer.tf32} == set(rounded)
    row = Row("m", 1, {"jitseq": 2.0, "torch": 4.0, "torch TF32": 1.0})
    assert (row.ratio(exact), row.ratio(rounded)) == (2.0, 0.5)
    assert len(table.line(row)) == len(table.header())


@pytest.mark.parametrize("training", [False, True])
def test_tf32_is_held_to_less(training: bool) -> None:
    table = gpu_bench.table_for(training)
    close = train.TOLERANCE if training else bench.TOLERANCE
    assert table.accepts(Row("m", 1, {}, {"torch TF32": 10 * close, "jitseq": close}))
    assert not table.accepts(Row("m", 1, {}, {"torch": 10 * close}))
    assert not table.accepts(Row("m", 1, {}, {"torch TF32": 1.0}))

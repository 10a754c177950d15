"""The race on a GPU and its profiles, as far as they run without one.

torch's "cpu" stands for the device, and a capture only calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench, gpu_bench, gpu_peers
from benchmarks.gpu_bench import Place
from benchmarks.gpu_peers import GPU_PEERS, GpuPeer
from benchmarks.gpu_profile import profile_text
from benchmarks.train_peers import prepare_jitseq
from benchmarks.train_task import make_task, update_error
from benchmarks.zoo import ZOO
from jitseq.cli import main
from jitseq.codegen.numba_cuda.shim import simulated
from jitseq.errors import JitseqError
from jitseq.runtime.report import KernelTime, Peaks, Profile

HOST = Place("cpu", "cpu")
PLAIN = [peer for peer in GPU_PEERS if not peer.compiled]


@pytest.fixture
def torch_alone() -> Iterator[Any]:
    """torch, whose switches for TF32 and cuDNN are put back afterwards."""
    torch = pytest.importorskip("torch")
    cublas, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cublas.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield torch
    cublas.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.fixture
def called_only(monkeypatch: pytest.MonkeyPatch, torch_alone: Any) -> Any:
    """A capture that runs what the real one does, and then calls instead of replays."""

    def capture(run: Callable[[], Any], restore: Any = None) -> Callable[[], Any]:
        for _ in range(gpu_peers.WARM_UPS):
            run()
        if restore is not None:
            restore()
        return run

    monkeypatch.setattr(gpu_peers, "captured", capture)
    return torch_alone


# the race, with torch's "cpu" as its device


@pytest.mark.parametrize("peer", PLAIN, ids=lambda peer: peer.name)
@pytest.mark.parametrize("name", ["tiny", "cnn32"])
def test_peers_infer_the_same(name: str, peer: GpuPeer, called_only: Any) -> None:
    model, x = ZOO[name].build(), ZOO[name].sample(3)
    output = peer.infer(model, x, "cpu")()
    assert isinstance(output, called_only.Tensor) and not output.requires_grad
    assert bench.relative_error(output, np.asarray(model(x))) < 1e-5


@pytest.mark.parametrize("peer", PLAIN, ids=lambda peer: peer.name)
@pytest.mark.parametrize("name", ["tiny", "mlp_bn", "autoencoder"])
def test_peers_train_the_same(name: str, peer: GpuPeer, called_only: Any) -> None:
    """After a capture too: its warm-up steps leave no trace, in no momentum either."""
    task = make_task(ZOO[name], 3, dropout=False)
    own, other = prepare_jitseq(task, 1, "eager"), peer.train(task, "cpu")
    start = own.state()
    assert update_error(other.state(), start, {k: 0 * v for k, v in start.items()}) == 0
    for _ in range(2):
        assert other.step() == pytest.approx(own.step(), rel=1e-4)
        assert update_error(other.state(), own.state(), start) < 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_compiled_peers(training: bool, called_only: Any, monkeypatch: Any) -> None:
    """What torch.compile is given computes the whole call, or the loss."""
    given: list[Any] = []
    monkeypatch.setattr(called_only, "compile", lambda f: given.append(f) or f)
    task = make_task(ZOO["tiny"], 3)
    (peer,) = (p for p in GPU_PEERS if p.name == "compile graphs")
    if training:
        loss = peer.train(task, "cpu").step()
        expected = prepare_jitseq(task, 1, "eager").step()
        assert loss == pytest.approx(expected, rel=1e-5)
    else:
        model = ZOO["tiny"].build()
        output = peer.infer(model, task.x, "cpu")()
        assert bench.relative_error(output, np.asarray(model(task.x))) < 1e-5
    assert len(given) == 1


@pytest.mark.parametrize("training", [False, True])
def test_every_call_has_its_precision(
    training: bool, called_only: Any, capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    """In the race, TF32 is on in front of the contestants that are named after it."""
    file = tmp_path / "rows.json"
    seen: set[tuple[str, bool, bool]] = set()
    choose = gpu_bench.choose_precision

    def spy(name: str) -> None:
        choose(name)
        backends = called_only.backends
        matmul, cudnn = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        seen.add((name, matmul, cudnn))

    monkeypatch.setattr(gpu_bench, "choose_precision", spy)
    names = ",".join(peer.name for peer in PLAIN)
    arguments = ["--models", "tiny", "--batch", "4", "--rounds", "2", "--peers", names]
    arguments += ["--json", str(file)] + ["--train"] * training
    options = gpu_bench.parser().parse_args(arguments)
    assert gpu_bench.run(options, HOST) == 0
    raced = {"jitseq", *(peer.name for peer in PLAIN)}
    expected = {(name, "TF32" in name, "TF32" in name) for name in raced}
    assert {item for item in seen if item[0] != "eager"} == expected
    (row,) = json.loads(file.read_text())["rows"]
    assert set(row["seconds"]) == set(row["errors"]) == raced
    assert row["ratio"] > 0 and row["to TF32"] > 0
    assert "× TF32, ahead in" in capsys.readouterr().out


@pytest.mark.parametrize("training", [False, True])
def test_simulated_kernels_give_the_same(
    training: bool, torch_alone: Any, capsys: Any
) -> None:
    """The cuda backend itself in the race, and the profile of its kernels."""
    if not simulated():
        pytest.skip("on a device, tests/gpu runs the benchmark")
    place = Place("cpu", "cuda")
    arguments = ["--models", "tiny", "--batch", "2", "--rounds", "1", "--peers", "none"]
    options = gpu_bench.parser().parse_args([*arguments, *["--train"] * training])
    assert gpu_bench.run(options, place) == 0
    gpu_bench.print_profiles(options, place)
    assert "linear + relu" in capsys.readouterr().out


def test_wrong_outputs_fail(called_only: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu_bench, "expected_outputs", lambda model, x: 1 + model(x))
    arguments = ["--models", "tiny", "--batch", "4", "--rounds", "1", "--peers", "none"]
    assert gpu_bench.run(gpu_bench.parser().parse_args(arguments), HOST) == 1
    assert "outputs disagree: tiny" in capsys.readouterr().out


def test_expected_outputs_come_in_blocks() -> None:
    model, x = ZOO["mlp"].build(), ZOO["mlp"].sample(gpu_bench.BLOCK + 3)
    np.testing.assert_allclose(gpu_bench.expected_outputs(model, x), model(x), 1e-5)


def test_results_must_stay_on_the_device() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(3)
    np.testing.assert_array_equal(gpu_bench.on_host(x, HOST), np.ones(3))
    with pytest.raises(JitseqError, match="came back as Tensor on cpu"):
        gpu_bench.on_host(x, Place())
    with pytest.raises(JitseqError, match="came back as ndarray"):
        gpu_bench.on_host(np.ones(3), Place())


def test_order_of_a_capture(monkeypatch: Any) -> None:
    """Warm-ups on a side stream, restore, capture; a replay runs the graph alone."""
    torch = pytest.importorskip("torch")
    log: list[str] = []

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            log.append("replay")

    class Capture(nullcontext):
        def __enter__(self) -> None:
            log.append("capture")

        def __exit__(self, *_: Any) -> None:
            log.append("end")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: Capture())

    def run() -> int:
        log.append("run")
        return len(log)

    replay = gpu_peers.captured(run, lambda: log.append("restore"))
    warm = ["side waits for main", *["run"] * gpu_peers.WARM_UPS, "main waits for side"]
    assert log == [*warm, "restore", "capture", "run", "end"]
    result = replay()
    assert log[-2:] == ["end", "replay"]
    assert result == replay() == len(warm) + 3


# profiles


def test_shares_of_the_roofline() -> None:
    """One kernel at half of the arithmetic, one at a quarter of the bandwidth."""
    kernels = (
        KernelTime("k0", ("conv2d", "relu"), "0", 2e-6, 1_000_000, 1),
        KernelTime("k1", ("copy",), "1", 2e-6, 0, 50_000),
        KernelTime("k2", ("linear",), "2", 0.0, 1, 1),
    )
    peaks = Peaks(gflops=1000.0, cache_gbytes=np.nan, memory_gbytes=100.0)
    text = profile_text(Profile(kernels, peaks)).splitlines()
    assert text[1].split() == [
        "conv2d", "+", "relu", "2.00", "50.0%", "500", "50.0%", "0", "0.0%", "50.0%",
        "0",
    ]  # fmt: skip
    assert text[2].split() == [
        "copy", "2.00", "50.0%", "0", "0.0%", "25", "25.0%", "25.0%", "1",
    ]  # fmt: skip
    last = "total 4.00 µs, 37.5% of the roofline of 1.0 TFLOP/s and 100 GB/s"
    assert text[3] == last
    assert len({line.rindex("%") for line in text[1:3]}) == 1


@pytest.mark.parametrize("training", [False, True])
def test_profiles_print_every_kernel(training: bool, capsys: Any) -> None:
    pytest.importorskip("torch")
    arguments = ["--models", "tiny", "--batch", "2", *["--train"] * training]
    options = gpu_bench.parser().parse_args([*arguments, "--profile"])
    gpu_bench.print_profiles(options, HOST)
    text = capsys.readouterr().out
    assert "tiny, batch 2" in text and "linear + relu" in text
    assert ("linear_weight_grad" in text) == training


def test_main_prints_profiles(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(gpu_bench, "refusal", lambda: None)
    monkeypatch.setattr(gpu_bench, "device_name", lambda _: "a device")
    monkeypatch.setattr(
        gpu_bench, "profile_of", lambda *_: Profile((), Peaks(1.0, 1.0, 1.0))
    )
    monkeypatch.setattr(Place, "release", lambda _: None)
    arguments = ["--backend", "cuda", "--models", "tiny", "--batch", "3", "--profile"]
    assert main(["bench", *arguments]) == 0
    assert "tiny, batch 3" in capsys.readouterr().out

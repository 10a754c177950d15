"""Calls on a device: batch sizes, graphs, failures, reports, the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_support import captured, in_simulator, sample, small, where_cuda_runs

import jitseq as js
from jitseq import nn, optim
from jitseq.errors import DeviceError, UnsupportedError
from jitseq.runtime import cache
from jitseq.runtime.cuda import executable, frame
from jitseq.runtime.cuda.device import current_device

pytestmark = where_cuda_runs
__all__ = ["captured"]


# batch sizes and graphs


def test_one_program_for_many_batch_sizes() -> None:
    model = small()
    compiled = js.jit(model, backend="cuda")
    for n in (3, 1, 7, 3, 2, 5, 4, 6, 3):
        x = sample(n)
        np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)
    assert compiled.cache_info().misses == 1


def test_memory_is_kept_for_the_latest_sizes_only() -> None:
    compiled = js.jit(small(), backend="cuda").prepare(sample(1))
    program = compiled._for((sample(1),))
    for n in (1, 2, 3, 4, 1, 5):
        compiled(sample(n))
    assert list(program.bound._frames) == [3, 4, 1, 5]


def test_results_of_calls_are_apart() -> None:
    compiled, model = js.jit(small(), backend="cuda"), small()
    inputs = [sample(2) for _ in range(5)]
    for x, found in zip(inputs, [compiled(x) for x in inputs], strict=True):
        np.testing.assert_allclose(found, model(x), 1e-5, 1e-6)


def test_the_third_call_of_a_size_captures(captured: list[int]) -> None:
    model = small()
    compiled = js.jit(model, backend="cuda")
    for n, graphs in ((2, 0), (2, 0), (3, 0), (2, 1), (2, 1), (3, 1), (3, 2), (3, 2)):
        x = sample(n)
        np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)
        assert len(captured) == graphs


def test_new_values_of_parameters_reach_a_graph(captured: list[int]) -> None:
    model = small()
    compiled = js.jit(model, backend="cuda")
    for scale in (1.0, 2.0, 3.0, 4.0, 5.0):
        model[0].weight[...] = np.full((3, 4), scale / 10)
        x = sample(2)
        np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)
    assert len(captured) == 1


def test_a_graph_is_not_replayed_where_memory_has_moved(captured: list[int]) -> None:
    """Values that are computed from parameters get new memory with each version."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    compiled = js.jit(model, backend="cuda")
    for scale in (1.0, 2.0):
        model[0].weight[...] = np.full((3, 4), scale / 10)
        for _ in range(4):
            x = sample(2)
            np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)
    assert len(captured) == 2


def test_graphs_can_be_switched_off(
    captured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JITSEQ_CUDA_GRAPHS", "0")
    compiled = js.jit(small(), backend="cuda")
    for _ in range(5):
        compiled(sample(2))
    assert captured == []


def test_a_training_step_is_captured(captured: list[int]) -> None:
    js.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    optimizer = optim.Adam(model.parameters(), 0.05)
    step = js.train_step(model, nn.MSELoss(), optimizer, backend="cuda")
    js.manual_seed(0)
    other = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    optimizer = optim.Adam(other.parameters(), 0.05)
    eager = js.train_step(other, nn.MSELoss(), optimizer, backend="eager")
    x, y = sample(3), np.zeros((3, 3), np.float32)
    losses: list[list[float]] = [[], []]
    for found, run in zip(losses, (step, eager), strict=True):
        js.manual_seed(5)
        found += [run(x, y) for _ in range(6)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(captured) == 1


# failures


@pytest.fixture
def full_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def allocate(size: int) -> Any:
        raise DeviceError("out of device memory")

    with monkeypatch.context() as context:
        context.setattr(current_device(), "allocate", allocate)
        yield


def test_a_call_without_memory_changes_nothing(full_device: None) -> None:
    model = small()
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step = js.train_step(model, nn.MSELoss(), optimizer, backend="cuda")
    before = [p.numpy().copy() for p in model.parameters()]
    versions = [p.version for p in model.parameters()]
    with pytest.raises(DeviceError, match="out of device memory"):
        step(sample(2), np.zeros((2, 3), np.float32))
    for parameter, value in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), value)
    assert [p.version for p in model.parameters()] == versions


def test_a_larger_batch_without_memory_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small()
    compiled, x = js.jit(model, backend="cuda"), sample(2)
    compiled(x)
    with monkeypatch.context() as context:
        device = current_device()

        def allocate(size: int) -> Any:
            raise DeviceError("out of device memory")

        context.setattr(device, "allocate", allocate)
        with pytest.raises(DeviceError):
            compiled(sample(3))
        np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)
    x = sample(3)
    np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)


def test_a_batch_beyond_32_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "MOST_ITEMS", 16)
    compiled = js.jit(small(), backend="cuda")
    with pytest.raises(UnsupportedError, match="too large for one call"):
        compiled(sample(50))


def test_calls_of_several_threads() -> None:
    model = small()
    compiled = js.jit(model, backend="cuda")
    inputs = [sample(n % 3 + 1) for n in range(12)]
    found: dict[int, Any] = {}

    def work(first: int) -> None:
        for i in range(first, len(inputs), 3):
            found[i] = compiled(inputs[i])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, x in enumerate(inputs):
        np.testing.assert_allclose(found[i], model(x), 1e-5, 1e-6)


# looking inside, and the disk


def test_source_and_report() -> None:
    compiled, x = js.jit(small(), backend="cuda"), sample(2)
    report = compiled.explain(x)
    assert report.backend == "cuda" and "scratch an image" in str(report)
    text = compiled.source(x)
    assert all(f"def {kernel.name}(" in text for kernel in report.kernels)
    assert "thread" in compiled.source(x, form="program")
    with pytest.raises(UnsupportedError, match="source form 'llvm'"):
        compiled.source(x, form="llvm")


def test_a_profile_changes_nothing() -> None:
    model = small()
    optimizer = optim.SGD(model.parameters(), 0.1)
    step = js.train_step(model, nn.MSELoss(), optimizer, backend="cuda")
    x, y = sample(2), np.zeros((2, 3), np.float32)
    step(x, y)
    before = [p.numpy().copy() for p in model.parameters()]
    profile = step.profile(x, y, repeats=2)
    assert len(profile.kernels) == len(step.explain().kernels)
    assert sum(kernel.seconds for kernel in profile.kernels) > 0
    assert current_device().name in str(profile)
    for parameter, value in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), value)


def test_a_warm_start_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))
    executable._loaded.clear()
    x, kept = sample(2), []
    for origin in ("compiled", "memory", "disk"):
        if origin == "disk":
            executable._loaded.clear()
            monkeypatch.setattr(executable, "compile_grids", None)
        compiled = js.jit(small(), backend="cuda")
        kept.append(compiled)
        np.testing.assert_allclose(compiled(x), small()(x), 1e-5, 1e-6)
        assert compiled._programs.latest().code.origin == origin
    assert len(list(tmp_path.iterdir())) == 1


def test_an_entry_that_cannot_be_loaded_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_warned", set())
    executable._loaded.clear()
    x = sample(2)
    js.jit(small(), backend="cuda")(x)
    executable._loaded.clear()
    whole, calls = current_device().load, []

    def load(kernels: Any) -> Any:
        calls.append(len(kernels))
        if len(calls) == 1:
            raise DeviceError("not for this driver")
        return whole(kernels)

    monkeypatch.setattr(current_device(), "load", load)
    with pytest.warns(RuntimeWarning, match="unreadable cache entry"):
        found = js.jit(small(), backend="cuda")(x)
    assert len(calls) == 2
    np.testing.assert_allclose(found, small()(x), 1e-5, 1e-6)


@in_simulator
def test_memory_that_was_never_written_is_seen() -> None:
    device = current_device()
    memory = device.allocate(64)
    host = np.zeros(64, np.uint8)
    device.run([device.download(host, memory.address)])
    assert np.isnan(host.view(np.float32)).all()

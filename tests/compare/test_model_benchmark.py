"""`js.benchmark`: contestants are compared before they are timed, and refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import benchmarks.peers
import jitseq as js
from jitseq import nn, optim
from jitseq.compare import benchmark as benchmarking
from jitseq.compare import contestants


def model() -> nn.Sequential:
    js.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((4, 6), dtype=np.float32)


# contestants


def test_backends_are_timed_in_order(x) -> None:
    result = js.benchmark(model(), x, backend=("numba", "cpu"), rounds=4, threads=1)
    assert list(result.seconds) == ["numba", "cpu", "eager"]
    assert all(len(timing.samples) == 4 for timing in result.timings.values())
    assert result.errors["eager"] == 0 and result.errors["cpu"] < 1e-5
    assert "× numba" in str(result) and "one call" in str(result)


@pytest.mark.parametrize("library", ["torch", "onnxruntime", "openvino", "jax"])
def test_libraries_compute_the_same(library, x) -> None:
    pytest.importorskip(library)
    if library in ("onnxruntime", "openvino"):
        pytest.importorskip("onnx")
    compiled = js.jit(model())
    call = contestants.inference_call(library, compiled, [x], 1)
    np.testing.assert_allclose(np.asarray(call()), compiled(x), rtol=1e-4, atol=1e-5)


def test_images_keep_their_axes_in_jax(rng) -> None:
    pytest.importorskip("jax")
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    images = rng.standard_normal((2, 2, 6, 8), dtype=np.float32)
    call = contestants.inference_call("jax", js.jit(layers), [images], 1)
    np.testing.assert_allclose(np.asarray(call()), layers(images), rtol=1e-4, atol=1e-5)


def test_torch_modules_run_themselves(x) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    module = torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.ReLU()).eval()
    result = js.benchmark(module, x, against=("torch",), rounds=4, threads=1)
    assert list(result.seconds) == ["cpu", "torch"]
    assert torch.get_num_threads() == threads


def test_a_wrong_contestant_is_refused_before_timing(monkeypatch, x) -> None:
    real = contestants.inference_call

    def wrong(name: str, *args: Any) -> Callable[[], Any]:
        call = real(name, *args)
        return (lambda: call() * 1.001) if name == "numba" else call

    def timing(*args: Any, **options: Any) -> None:
        pytest.fail("timed what computes something else")

    monkeypatch.setattr(benchmarking, "inference_call", wrong)
    monkeypatch.setattr(benchmarking, "sampled_seconds", timing)
    with pytest.raises(js.JitseqError, match="numba computes something else"):
        js.benchmark(model(), x, against=("numba",), rounds=4, threads=1)


@pytest.mark.parametrize("found", [np.zeros((4, 2)), np.full((4, 3), np.nan)])
def test_other_shapes_and_nan_are_refused(found, monkeypatch, x) -> None:
    monkeypatch.setattr(
        benchmarking,
        "inference_call",
        lambda name, *args: lambda: found if name == "cpu" else np.ones((4, 3)),
    )
    with pytest.raises(js.JitseqError, match="cpu computes something else"):
        js.benchmark(model(), x, rounds=4, threads=1)


def test_missing_packages_are_named(monkeypatch, x) -> None:
    monkeypatch.setattr(benchmarks.peers, "installed_version", lambda package: None)
    with pytest.raises(
        js.JitseqError, match="torch cannot run: torch is not installed"
    ):
        js.benchmark(model(), x, against=("torch",), rounds=4)
    with pytest.raises(js.JitseqError, match="jax cannot run: jax is not installed"):
        js.benchmark(model(), x, against=("jax",), rounds=4)


@pytest.fixture
def without_benchmarks(monkeypatch) -> Iterator[None]:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="benchmarks")

    monkeypatch.setattr(importlib, "import_module", absent)
    yield


def test_an_installation_without_benchmarks(without_benchmarks, x) -> None:
    with pytest.raises(js.JitseqError, match="is not installed beside jitseq"):
        js.benchmark(model(), x, against=("onnxruntime",), rounds=4)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"against": ("tensorflow",)}, "cannot run 'tensorflow'"),
        ({"backend": "gpu"}, "cannot run 'gpu'"),
        ({"rounds": 3}, "3 rounds tell no quartiles"),
    ],
)
def test_options_are_checked(options, error, x) -> None:
    with pytest.raises(js.JitseqError, match=error):
        js.benchmark(model(), x, **{"rounds": 4, **options})


def test_models_that_change_or_draw_are_refused(x) -> None:
    for layer in (nn.BatchNorm1d(6), nn.Dropout(0.5)):
        training = nn.Sequential(layer, nn.Linear(6, 2)).train()
        with pytest.raises(js.UnsupportedError, match="changes the model's buffers"):
            js.benchmark(training, x, rounds=4)


def test_libraries_need_a_sequential_of_one_input(x) -> None:
    pytest.importorskip("torch")
    with pytest.raises(js.UnsupportedError, match=r"torch runs an nn\.Sequential"):
        js.benchmark(lambda x, y: x + y, x, x, against=("torch",), rounds=4)


# training steps


def adam(params: Any) -> optim.Adam:
    return optim.Adam(params, lr=0.01, betas=(0.8, 0.9))


def test_training_steps_leave_the_model_alone(x, rng) -> None:
    own = nn.Sequential(nn.Dropout(0.5), *model()).eval()
    state = {name: np.array(value) for name, value in own.state_dict().items()}
    result = js.benchmark(
        own, x, rng.integers(0, 3, 4), train=(nn.CrossEntropyLoss(), adam), rounds=4,
        threads=1,
    )  # fmt: skip
    assert list(result.seconds) == ["cpu", "eager"] and result.what == "training step"
    assert result.errors["cpu"] < 1e-3
    assert own[0].p == 0.5 and not own.training
    for name, value in own.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize("loss", [nn.MSELoss(reduction="sum"), nn.HuberLoss(delta=0.3)])
def test_torch_trains_with_the_same_loss_and_rule(loss, x, rng) -> None:
    pytest.importorskip("torch")
    y = rng.standard_normal((4, 3), dtype=np.float32)
    arguments = js.jit(model()), [x, y], loss, adam, 1, False
    own = contestants.stepper("eager", *arguments)
    torch = contestants.stepper("torch", *arguments)
    for _ in range(3):
        assert torch.step() == pytest.approx(own.step(), rel=1e-4)
    for name, value in own.state().items():
        np.testing.assert_allclose(torch.state()[name], value, rtol=1e-3, atol=1e-5)


def test_what_trains_differently_is_refused(monkeypatch, x, rng) -> None:
    real = contestants.stepper

    def wrong(name: str, *args: Any) -> contestants.Stepper:
        step = real(name, *args)
        if name != "cpu":
            return step
        return contestants.Stepper(lambda: step.step() * 1.1, step.state)

    monkeypatch.setattr(benchmarking, "stepper", wrong)
    with pytest.raises(js.JitseqError, match="cpu trains differently"):
        js.benchmark(model(), x, x[:, :3], train=(nn.MSELoss(), adam), rounds=4)


def test_training_needs_a_module_and_known_libraries(x) -> None:
    pair = (nn.MSELoss(), adam)
    with pytest.raises(js.UnsupportedError, match=r"trains an nn\.Module"):
        js.benchmark(lambda x: x, x, x, train=pair, rounds=4)
    with pytest.raises(js.UnsupportedError, match="cannot train with 'openvino'"):
        js.benchmark(model(), x, x, train=pair, against=("openvino",), rounds=4)

"""Compiled calls in training mode: eager results, buffers, masks, and few programs."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.errors import RangeError
from jitseq.nn import functional as F
from jitseq.runtime.programs import KEPT_PROGRAMS

BATCHES = (5, 1, 96, 7, 200)
CLOSE = {"float32": 1e-4, "float64": 1e-12}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two threads": {"threads": 2},
    "static batch": {"dynamic_batch": False},
    "no optional pass": {
        "disable_passes": (
            "fold_batchnorm", "simplify", "fuse", "segment", "reuse_memory",
        )
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))


def network(dtype: str = "float64", momentum: float | None = 0.1) -> nn.Sequential:
    js.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5, momentum=momentum), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(45, 6),
        nn.BatchNorm1d(6, momentum=momentum), nn.Dropout(0.5),
    ).to(dtype)  # fmt: skip


def dense() -> nn.Sequential:
    js.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double()


def close(got: Any, expected: Any, rel: float = 1e-12) -> None:
    """Within ``rel`` of the largest element."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape and got.dtype == expected.dtype
    bound = rel * np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def same_state(a: Any, b: Any, rel: float = 1e-12) -> None:
    for value, other in zip(
        a.state_dict().values(), b.state_dict().values(), strict=True
    ):
        close(value, other, rel)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", OPTIONS)
def test_calls_are_those_of_eager_mode(
    name: str, momentum: float | None, dtype: str, rng: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Same masks, same results, same running statistics, one program for all sizes."""
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 1)
    ours, twin = network(dtype, momentum), network(dtype, momentum)
    compiled = js.jit(ours, **OPTIONS[name])
    batches = [n for n in BATCHES if n > 1]
    for seed, n in enumerate(batches):
        x = rng.normal(size=(n, 2, 6, 6)).astype(dtype)
        js.manual_seed(seed)
        expected = twin(x)
        js.manual_seed(seed)
        got = compiled(x)
        np.testing.assert_array_equal(got == 0, expected == 0)
        close(got, expected, CLOSE[dtype])
        same_state(ours, twin, CLOSE[dtype])
    programs = len(batches) if name == "static batch" else 1
    assert compiled.cache_info().misses == programs


def test_a_call_draws_as_many_keys_as_an_eager_one(rng: Any) -> None:
    ours, x = network(), rng.normal(size=(5, 2, 6, 6))
    compiled = js.jit(ours)
    js.manual_seed(3)
    ours(x), ours(x)
    expected = F.dropout(np.ones(100))
    js.manual_seed(3)
    compiled(x), compiled(x)
    np.testing.assert_array_equal(F.dropout(np.ones(100)), expected)


def test_flags_that_flip_compile_twice(rng: Any) -> None:
    ours, twin = network(), network()
    compiled, x = js.jit(ours), rng.normal(size=(5, 2, 6, 6))
    for training in (True, False) * 4:
        ours.train(training), twin.train(training)
        js.manual_seed(1)
        expected = twin(x)
        js.manual_seed(1)
        close(compiled(x), expected)
    same_state(ours, twin)
    info = compiled.cache_info()
    assert (info.hits, info.misses, info.disk_hits, info.compilations) == (6, 2, 0, 2)


def test_few_programs_are_kept(rng: Any) -> None:
    ours = nn.Sequential(*(nn.Dropout(0.1 * i) for i in range(1, 4)))
    compiled, x = js.jit(ours), rng.normal(size=(5, 4))
    for _ in range(2):
        for flags in range(8):
            for bit, layer in enumerate(ours):
                layer.train(bool(flags >> bit & 1))
            compiled(x)
    (kept,) = compiled._programs._kept.values()
    assert len(kept.programs) == KEPT_PROGRAMS
    assert compiled.cache_info().misses == 16


@pytest.mark.parametrize("name", ["running_mean", "num_batches_tracked"])
def test_a_replaced_buffer_leaves_no_stale_program(name: str, rng: Any) -> None:
    ours = nn.Sequential(nn.BatchNorm1d(3, momentum=None)).double()
    compiled, x = js.jit(ours), rng.normal(size=(5, 3))
    compiled(x)
    old = getattr(ours[0], name)
    before = np.array(old)
    replaced = nn.Buffer(np.zeros(old.shape, old.dtype))
    setattr(ours[0], name, replaced)
    twin = nn.Sequential(nn.BatchNorm1d(3, momentum=None)).double()
    twin.load_state_dict(ours.state_dict())
    for _ in range(2):
        compiled(x), twin(x)
    same_state(ours, twin)
    np.testing.assert_array_equal(old, before)
    assert getattr(ours[0], name) is replaced


def test_another_momentum_is_seen(rng: Any) -> None:
    ours, twin = dense(), dense()
    compiled, x = js.jit(ours), rng.normal(size=(5, 4))
    for momentum in (0.1, 0.7, None, 0.1):
        ours[1].momentum = twin[1].momentum = momentum
        compiled(x), twin(x)
        same_state(ours, twin)


def test_assigned_buffers_and_parameters_count_at_once(rng: Any) -> None:
    ours, twin = dense(), dense()
    compiled, x = js.jit(ours), rng.normal(size=(5, 4))
    for value in (1.0, 2.0):
        for model in (ours, twin):
            model[1].running_mean[...] = value
            model[0].weight[...] = value
        compiled(x), twin(x)
        same_state(ours, twin)


def test_one_value_a_channel_is_refused_and_changes_nothing(rng: Any) -> None:
    ours = dense()
    compiled = js.jit(ours)
    compiled(rng.normal(size=(5, 4)))
    before = ours.state_dict()
    js.manual_seed(1)
    expected = F.dropout(np.ones(50))
    js.manual_seed(1)
    with pytest.raises(js.ShapeError, match="more than 1 value per channel"):
        compiled(rng.normal(size=(1, 4)))
    np.testing.assert_array_equal(F.dropout(np.ones(50)), expected)
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_an_empty_batch_is_computed_eagerly() -> None:
    ours = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    assert js.jit(ours)(np.ones((0, 4), np.float32)).shape == (0, 3)


def test_results_that_read_buffers_before_and_after(rng: Any) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3).double()

        def forward(self, x: Any) -> Any:
            before = x - self.norm.running_mean
            y = self.norm(x)
            return y, before, x - self.norm.running_mean, self.norm.running_var * 2

    ours, twin = Both(), Both()
    compiled = js.jit(ours)
    for n in (4, 7, 300):
        x = rng.normal(size=(n, 3)) + 3
        for got, expected in zip(compiled(x), twin(x), strict=True):
            close(got, expected)
        same_state(ours, twin)


def test_a_layer_that_is_called_twice_counts_twice(rng: Any) -> None:
    ours, twin = nn.BatchNorm1d(3).double(), nn.BatchNorm1d(3).double()
    compiled = js.jit(lambda x: ours(ours(x) * 2.0))
    for n in (4, 7):
        x = rng.normal(size=(n, 3)) + 1
        close(compiled(x), twin(twin(x) * 2.0))
    same_state(ours, twin)
    assert int(ours.num_batches_tracked.numpy()) == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_several_threads_lose_no_update(
    threads: int, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 1)
    ours, twin = nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None)
    ours, twin = ours.double(), twin.double()
    compiled = js.jit(ours, threads=threads)
    batches = [rng.normal(size=(n, 3)) + n for n in (20, 30, 40, 50)] * 5
    expected = [twin(x) for x in batches]
    got: list[Any] = [None] * len(batches)

    def work(first: int) -> None:
        for i in range(first, len(batches), 4):
            got[i] = compiled(batches[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for value, other in zip(got, expected, strict=True):
        close(value, other)
    same_state(ours, twin, 1e-9)
    assert compiled.cache_info().misses == 1


# Looking inside


def test_profiles_and_intermediates_change_no_buffer(rng: Any) -> None:
    ours, x = network(), rng.normal(size=(5, 2, 6, 6))
    compiled = js.jit(ours)
    compiled.prepare(x)
    before = ours.state_dict()
    compiled.profile(x, repeats=1)
    js.manual_seed(1)
    found = compiled.intermediates(x)
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    js.manual_seed(1)
    close(found["8"], ours(x))
    assert "dropout" in str(compiled.explain(x))


# Losses


def test_a_compiled_loss_with_labels(rng: Any) -> None:
    ours, loss = network(), nn.CrossEntropyLoss(label_smoothing=0.1)
    twin = network()
    compiled = js.jit(lambda x, y: loss(ours(x), y))
    for seed, n in enumerate((5, 96, 7)):
        x, y = rng.normal(size=(n, 2, 6, 6)), rng.integers(0, 6, n)
        js.manual_seed(seed)
        expected = loss(twin(x), y)
        js.manual_seed(seed)
        close(compiled(x, y), expected)
        same_state(ours, twin)
    assert compiled.cache_info().compilations == 1


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("pixels", [(), (4,), (2, 3)])
def test_labels_of_every_integer_dtype(pixels: Any, dtype: str, rng: Any) -> None:
    loss = nn.CrossEntropyLoss(ignore_index=2)
    compiled = js.jit(lambda x, y: loss(x * 2.0, y))
    for n in (5, 30):
        x = rng.normal(size=(n, 6, *pixels))
        y = rng.integers(0, 6, (n, *pixels)).astype(dtype)
        close(compiled(x, y), loss(x * 2.0, y))
    assert compiled.cache_info().compilations == 1


def test_labels_out_of_range_are_refused_and_change_nothing(rng: Any) -> None:
    ours, loss = dense(), nn.CrossEntropyLoss()
    compiled = js.jit(lambda x, y: loss(ours(x), y))
    x, y = rng.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
    compiled(x, y)
    before = ours.state_dict()
    with pytest.raises(RangeError, match="label 3 is out of range"):
        compiled(x, y + 1)
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    "function",
    [lambda x, y: x * y, lambda x, y: (x * 2, y), lambda x, y: x * 2],
    ids=["computed with", "returned", "not read"],
)
def test_other_integers_are_refused(function: Any) -> None:
    x, y = np.ones((3, 2)), np.ones((3, 2), np.int64)
    with pytest.raises(js.JitseqError):
        js.jit(function)(x, y)


# PyTorch


def test_a_compiled_torch_model_trains_its_own_statistics(rng: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)
    ours = torch.nn.Sequential(*layers).double()
    twin = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).double()
    twin.load_state_dict(ours.state_dict())
    compiled = js.jit(ours)
    for training in (True, True, False, True):
        ours.train(training), twin.train(training)
        x = torch.from_numpy(rng.normal(size=(6, 4)))
        close(compiled(x).numpy(), twin(x).detach().numpy())
        for value, other in zip(ours.state_dict().values(), twin.state_dict().values()):
            close(value.numpy(), other.numpy())
    assert compiled.cache_info().compilations == 2

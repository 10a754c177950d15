"""Every model of the zoo, compiled, against float64, eager mode and PyTorch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from error_bound import Uncertain, analyse, assert_within

import jitseq as js
from benchmarks.export import to_torch
from benchmarks.zoo import ZOO

LARGE = {"vgg11_bn": (1, 7, 16), "chain224": (1, 2), "mobilenet_v1": (1, 2)}
SMALL = tuple(name for name in ZOO if name not in LARGE)
BATCHES = (1, 2, 7, 64)
DTYPES = ("float32", "float64")


@cache
def model_of(name: str, dtype: str):
    return ZOO[name].build().to(dtype)


def batches_of(name: str, dtype: str) -> tuple[int, ...]:
    batches = LARGE.get(name, BATCHES)
    return batches[-1:] if name in LARGE and dtype == "float64" else batches


@cache
def case(name: str, batch: int, dtype: str) -> tuple[np.ndarray, list[Uncertain]]:
    """Inputs, and what the model makes of them in float64."""
    x = ZOO[name].sample(batch, seed=batch).astype(dtype)
    return x, analyse(model_of(name, dtype), [x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ZOO)
def test_compiled(name, dtype) -> None:
    """One program for all batch sizes, on one thread."""
    model = model_of(name, dtype)
    compiled = js.jit(model, threads=1)
    for batch in batches_of(name, dtype):
        x, expected = case(name, batch, dtype)
        assert_within(compiled(x), expected, dtype)
    assert compiled.cache_info().misses == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ZOO)
def test_eager(name, dtype) -> None:
    """The eager call, which no trace or pass has seen, is held to the same bound."""
    x, expected = case(name, batches_of(name, dtype)[-1], dtype)
    assert_within(model_of(name, dtype)(x), expected, dtype)


@pytest.mark.parametrize("name", SMALL)
def test_avx2_code(name, monkeypatch) -> None:
    monkeypatch.setenv("JITSEQ_TARGET", "x86-64-v3")
    compiled = js.jit(model_of(name, "float32"), threads=1)
    for batch in (1, 7):
        x, expected = case(name, batch, "float32")
        assert_within(compiled(x), expected, "float32")


@pytest.mark.parametrize("name", ZOO)
def test_two_threads(name) -> None:
    """Within the bound, and the same bits again at the next call."""
    x, expected = case(name, batches_of(name, "float32")[-1], "float32")
    compiled = js.jit(model_of(name, "float32"), threads=2)
    first, second = compiled(x), compiled(x)
    assert_within(first, expected, "float32")
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ZOO)
def test_same_as_torch(name, dtype) -> None:
    """PyTorch with the same state is within the bound around the same values."""
    torch = pytest.importorskip("torch")
    x, expected = case(name, batches_of(name, dtype)[-1], dtype)
    twin = to_torch(model_of(name, dtype)).to(getattr(torch, dtype))
    with torch.inference_mode():
        assert_within(twin(torch.from_numpy(x)).numpy(), expected, dtype)

"""Sums and means over a symbolic batch: one program for all batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq.nn import functional as F

BATCHES = (5, 1, 96, 7, 200)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))


REDUCTIONS = {
    "sum": lambda x: F.sum(x),
    "mean": lambda x: F.mean(x),
    "sum over the batch": lambda x: F.sum(x, 0),
    "mean over the batch": lambda x: F.mean(x, 0),
    "mean over two": lambda x: F.mean(x, (0, 2)),
    "sum, kept": lambda x: F.sum(x, (0, 1), keepdim=True),
    "mean, kept": lambda x: F.mean(x, (0, -1), keepdim=True),
    "used again": lambda x: x - F.mean(x, 0),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_the_batch(
    name: str, threads: int, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 1)
    function = REDUCTIONS[name]
    compiled = js.jit(function, threads=threads)
    for n in BATCHES:
        x = rng.normal(size=(n, 5, 4))
        for _ in range(2):
            got, expected = compiled(x), function(x)
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, 0, 1e-12 * np.abs(x).sum())
    assert compiled.cache_info().compilations == 1

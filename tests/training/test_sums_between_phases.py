"""A sum over the batch that kernels on images read with nothing in between.

Threads must have added the sums of their shares by then.
"""

from __future__ import annotations

import numpy as np
import pytest

import jitseq as js
from jitseq import nn, optim
from jitseq.nn import functional as F
from jitseq.runtime import shares

X = np.random.default_rng(0).standard_normal((64, 6))
Y = np.random.default_rng(1).standard_normal((64, 6))


def loss(x, y):
    scale = F.mse_loss(x, y, reduction="sum")
    return F.l1_loss(F.tanh(x * scale * 0.01), y, reduction="sum")


@pytest.fixture(autouse=True)
def small_calls_use_threads(monkeypatch) -> None:
    monkeypatch.setattr(shares, "THREADING_FLOPS", 0)


def test_a_forward_pass_reads_the_sum_of_all_shares() -> None:
    compiled = js.trace(loss, X, Y, threads=2)
    np.testing.assert_allclose(compiled(X, Y), loss(X, Y), rtol=1e-12)


def test_a_step_reads_the_sums_of_all_shares() -> None:
    def losses(**options) -> list[float]:
        js.manual_seed(0)
        model = nn.Linear(6, 6).double()
        optimizer = optim.SGD(model.parameters(), lr=1e-3)
        step = js.train_step(model, loss, optimizer, **options)
        return [step(X, Y) for _ in range(3)]

    expected = losses(backend="eager")
    np.testing.assert_allclose(losses(threads=1), expected, rtol=1e-11)
    np.testing.assert_allclose(losses(threads=2), expected, rtol=1e-11)

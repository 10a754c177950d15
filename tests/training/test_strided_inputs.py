"""Arrays that kernels cannot read as they are train as their contiguous copies do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import jitseq as js
from jitseq import nn, optim

X = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)


def columns(array: np.ndarray) -> np.ndarray:
    """The same numbers as every second column of a larger array."""
    wide = np.full((len(array), 2 * array.shape[1]), np.nan, array.dtype)
    wide[:, ::2] = array
    return wide[:, ::2]


def unaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = memory.view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "columns": columns,
    "transposed": lambda array: array.T.copy().T,
    "backwards": lambda array: array[::-1].copy()[::-1],
    "unaligned": unaligned,
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
}


def losses(x: np.ndarray, y: np.ndarray) -> list[float]:
    js.manual_seed(0)
    model = nn.Linear(5, 3)
    step = js.train_step(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    return [step(x, y) for _ in range(3)]


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_read_as_they_look(name) -> None:
    view = VIEWS[name]
    expected = losses(X, Y)
    assert losses(view(X), Y) == expected
    assert losses(X, view(Y)) == expected


def test_views_of_labels_are_read_as_they_look() -> None:
    def first_loss(labels: np.ndarray) -> float:
        js.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        return js.train_step(model, nn.CrossEntropyLoss(), optimizer)(X, labels)

    labels = np.arange(12) % 3
    assert first_loss(np.repeat(labels, 2)[::2]) == first_loss(labels)

"""What tests of training steps share: models beside their copies, and what differs.

A function that makes a model enters; two steps on equal copies of it leave, one
compiled and one eager, whose losses, parameters, buffers and optimizer states are
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jitseq as js
from jitseq import optim

Arrays = Sequence[np.ndarray]
MakeOptimizer = Callable[[Any], optim.Optimizer]


def momentum(parameters: Any) -> optim.Optimizer:
    """Its state after one step is the gradient itself."""
    return optim.SGD(parameters, 1e-3, momentum=0.9)


def everything(step: js.TrainStep) -> dict[str, np.ndarray]:
    """Copies of parameters, buffers and the optimizer's arrays, by name."""
    found = {name: np.array(v) for name, v in step.model.state_dict().items()}
    for number, arrays in step.optimizer.state_dict()["state"].items():
        for name, array in arrays.items():
            found[f"{number}.{name}"] = np.array(array)
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Bit by bit."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


def assert_close(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], close: float
) -> None:
    """Errors of at most ``close`` times the largest number of their kind.

    Parameters, buffers and each kind of state have sizes of their own; within a kind
    a gradient that is zero but for cancellation is measured by the others.
    """
    assert list(found) == list(expected)
    sizes: dict[str, float] = {}
    for name, value in expected.items():
        finite = np.abs(value[np.isfinite(value)], dtype=np.float64)
        kind = name.rpartition(".")[2]
        sizes[kind] = max(sizes.get(kind, 1e-300), finite.max(initial=0.0))
    for name, value in expected.items():
        atol = close * sizes[name.rpartition(".")[2]]
        np.testing.assert_allclose(
            found[name], value, rtol=close, atol=atol, err_msg=name
        )


class Pair:
    """A compiled step and an eager one on copies of a model."""

    def __init__(
        self,
        make: Callable[[], Any],
        loss: Callable[[Any, Any], Any],
        optimizer: MakeOptimizer = momentum,
        eager: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.native, self.eager = (
            js.train_step(model, loss, optimizer(model.parameters()), **chosen)
            for model, chosen in (
                (make(), {"backend": "cpu", **options}),
                (make(), {"backend": "eager", **(eager or {})}),
            )
        )
        self.copy_state()

    def copy_state(self) -> None:
        """Give the eager copy the compiled one's parameters, buffers and state."""
        self.eager.model.load_state_dict(self.native.model.state_dict())
        self.eager.optimizer.load_state_dict(self.native.optimizer.state_dict())

    def __call__(self, *arrays: np.ndarray, close: float, seed: int = 0) -> float:
        """One step of each, compared; returns the loss."""
        losses = []
        for step in (self.native, self.eager):
            js.manual_seed(seed)
            losses.append(step(*arrays))
        first, second = losses
        np.testing.assert_allclose(first, second, rtol=close, atol=close)
        assert_close(everything(self.native), everything(self.eager), close)
        return first


def on_two_threads(monkeypatch: Any) -> None:
    """Let every call that may use two threads use them, however small it is."""
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 0)

"""What is trained in the training benchmark: zoo models, their losses and targets.

A zoo entry and a batch size enter; a `Task` leaves. Invariant: a task gives every
contestant the same layers with the same values, the same arrays and the same rule,
stochastic gradient descent with momentum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.zoo import Entry
from jitseq import nn

RATE, MOMENTUM = 0.01, 0.9

CLASSES = ("mlp", "mlp_bn", "lenet5", "cnn32", "vgg11_bn", "mobilenet_v1")
"""Models whose output are scores of classes; the others learn an array."""

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """One training step: ``loss`` is "cross_entropy" or "mse", the mean of either.

    ``dropout`` says whether layers drop elements; two contestants then draw different
    masks, and cannot agree.
    """

    entry: Entry
    x: np.ndarray
    y: np.ndarray
    loss: str
    dropout: bool = True

    def model(self) -> nn.Sequential:
        """The zoo's model in training mode, without a softmax in front of the loss."""
        found = self.entry.build()
        layers = dict(found.named_children())
        if self.loss == "cross_entropy" and isinstance(found[-1], nn.Softmax):
            layers.popitem()
        model = nn.Sequential()
        for name, layer in layers.items():
            if isinstance(layer, nn.Dropout) and not self.dropout:
                layer.p = 0.0
            model.add_module(name, layer)
        return model.train()

    @property
    def is_random(self) -> bool:
        """Whether steps draw random numbers."""
        return any(
            isinstance(m, nn.Dropout) and m.p > 0 for m in self.model().modules()
        )


def make_task(entry: Entry, batch: int, dropout: bool = True) -> Task:
    """Random classes, or random targets; an autoencoder's target is its input."""
    x = entry.sample(batch)
    out = np.asarray(entry.build()(x[:1])).shape[1:]
    rng = np.random.default_rng(1)
    if entry.name in CLASSES:
        return Task(entry, x, rng.integers(0, out[0], batch), "cross_entropy", dropout)
    y = rng.standard_normal((batch, *out), dtype=np.float32)
    return Task(entry, x, x if entry.name == "autoencoder" else y, "mse", dropout)


def update_error(state: State, expected: State, start: State) -> float:
    """How far the updates of one step are from those expected, relative to them.

    The largest over all parameters of ``‖Δ - Δe‖ / (‖Δe‖ + ‖all Δe‖ / 1000)``: where
    the exact gradient is zero, as of a bias in front of a batch-norm, rounding is all
    there is. Infinite for other names, shapes, or NaN.
    """
    if state.keys() != expected.keys():
        return float("inf")
    updates = {name: expected[name] - start[name] for name in expected}
    floor = norm(*updates.values()) / 1000
    worst = 0.0
    for name, update in updates.items():
        if state[name].shape != update.shape:
            return float("inf")
        error = norm(state[name] - expected[name]) / (norm(update) + floor)
        worst = max(worst, error) if error == error else float("inf")
    return worst


def norm(*arrays: np.ndarray) -> float:
    """The L2 norm of all elements together."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))

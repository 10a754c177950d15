"""``jitseq demo``: a trained CNN on the handwritten digits, eager beside compiled.

Nothing enters; the accuracy of both, the largest difference between them, their
times, and the fused kernels leave as text. Invariant: times are medians of
interleaved calls in this process, so that both contestants see the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from jitseq import nn

ROUNDS = 15
CALLS = 5


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("demo", help="classify digits, eager and compiled")
    parser.set_defaults(run=run)


def digits_cnn() -> nn.Sequential:
    """The classifier of 1×8×8 digits, with its trained weights, in eval mode."""
    from jitseq import datasets

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(1, 16, 3, padding=1)
    layers["relu1"] = nn.ReLU()
    layers["pool1"] = nn.MaxPool2d(2)
    layers["conv2"] = nn.Conv2d(16, 32, 3, padding=1)
    layers["relu2"] = nn.ReLU()
    layers["pool2"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(128, 10)
    layers["softmax"] = nn.Softmax(dim=1)
    model = nn.Sequential(layers)
    model.load_state_dict(datasets.digits_cnn_weights())
    model.eval()
    return model


def run(options: argparse.Namespace) -> int:
    import jitseq as js
    from jitseq import datasets

    digits = datasets.digits()
    images = np.concatenate([digits.test_x, digits.train_x])
    labels = np.concatenate([digits.test_y, digits.train_y])
    model = digits_cnn()
    compiled = js.jit(model)
    print(model)
    expected, outputs = np.asarray(model(images)), np.asarray(compiled(images))

    print(f"\naccuracy on {len(images)} digits ({len(digits.test_y)} of them unseen)")
    for name, scores in (("eager", expected), ("compiled", outputs)):
        right = scores.argmax(axis=1) == labels
        unseen = right[: len(digits.test_y)]
        print(f"  {name:<9} {right.mean():7.2%}   unseen {unseen.mean():7.2%}")
    print(f"  largest difference {np.abs(expected - outputs).max():.1e}")

    print("\nmedian µs a call")
    for batch in (images[:1], images):
        eager, native = interleaved_medians(model, compiled, batch)
        print(
            f"  batch {len(batch):<5} eager {eager * 1e6:10,.1f}   "
            f"compiled {native * 1e6:10,.1f}   {eager / native:6.1f} times faster"
        )
    print(f"\n{compiled.explain(images)}")
    return 0


def interleaved_medians(
    first: Callable[[Any], Any], second: Callable[[Any], Any], x: np.ndarray
) -> tuple[float, float]:
    """Median seconds of one call of each, taken in turns after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for round in range(ROUNDS + 1):
        for call, samples in zip((first, second), times, strict=True):
            start = time.perf_counter()
            for _ in range(CALLS):
                call(x)
            if round > 0:
                samples.append((time.perf_counter() - start) / CALLS)
    return statistics.median(times[0]), statistics.median(times[1])

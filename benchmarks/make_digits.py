"""Writes the two files of `jitseq/datasets`: the digits, and weights of a small CNN.

scikit-learn's copy of the UCI digits enters; ``digits.npz`` (uint8 images 0..16 and
labels, shuffled and split by a fixed seed) and ``digits_cnn.npz`` (a state_dict, from
training with PyTorch on the training split only) leave. Needed only to make them
again: ``python -m benchmarks.make_digits`` with scikit-learn and torch installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from jitseq import datasets

DIRECTORY = Path(datasets.__file__).parent
TEST_IMAGES = 360
EPOCHS = 120


def write_digits() -> None:
    """Shuffle once, split, and store as bytes."""
    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.images))
    images = source.images.astype(np.uint8)[order]
    labels = source.target.astype(np.uint8)[order]
    np.savez_compressed(
        DIRECTORY / "digits.npz",
        train_x=images[TEST_IMAGES:],
        train_y=labels[TEST_IMAGES:],
        test_x=images[:TEST_IMAGES],
        test_y=labels[:TEST_IMAGES],
    )


def make_model() -> torch.nn.Sequential:
    """The twin of `jitseq.cli.demo.digits_cnn`, without its softmax."""
    layers = torch.nn.Sequential()
    layers.add_module("conv1", torch.nn.Conv2d(1, 16, 3, padding=1))
    layers.add_module("relu1", torch.nn.ReLU())
    layers.add_module("pool1", torch.nn.MaxPool2d(2))
    layers.add_module("conv2", torch.nn.Conv2d(16, 32, 3, padding=1))
    layers.add_module("relu2", torch.nn.ReLU())
    layers.add_module("pool2", torch.nn.MaxPool2d(2))
    layers.add_module("flatten", torch.nn.Flatten())
    layers.add_module("linear", torch.nn.Linear(32 * 2 * 2, 10))
    return layers


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The batch moved by up to one pixel, to make the training set less small."""
    dy, dx = (int(step) for step in torch.randint(-1, 2, (2,)))
    return torch.roll(x, (dy, dx), dims=(2, 3))


def train(model: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> None:
    steps = EPOCHS * (len(x) // 64 + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x)), 64):
            optimizer.zero_grad()
            outputs = model(shifted(x[batch]))
            loss = torch.nn.functional.cross_entropy(outputs, y[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def main() -> None:
    write_digits()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = datasets.digits()
    model = make_model()
    train(model, torch.from_numpy(digits.train_x), torch.from_numpy(digits.train_y))
    with torch.no_grad():
        predictions = model(torch.from_numpy(digits.test_x)).argmax(1).numpy()
    print(f"test accuracy {(predictions == digits.test_y).mean():.4f}")
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez_compressed(DIRECTORY / "digits_cnn.npz", **state)


if __name__ == "__main__":
    main()

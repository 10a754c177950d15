"""The shipped digits: whole, split without overlap, and fit for the shipped weights."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import datasets
from jitseq.cli.demo import digits_cnn


def test_shapes_dtypes_and_range() -> None:
    digits = datasets.digits()
    assert digits.train_x.shape == (1437, 1, 8, 8)
    assert digits.test_x.shape == (360, 1, 8, 8)
    assert digits.train_y.shape == (1437,)
    assert digits.test_y.shape == (360,)
    for images in (digits.train_x, digits.test_x):
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (0.0, 1.0)
    for labels in (digits.train_y, digits.test_y):
        assert labels.dtype == np.int64
        assert set(labels.tolist()) == set(range(10))


def test_no_test_image_is_in_the_training_set() -> None:
    digits = datasets.digits()
    train = {image.tobytes() for image in digits.train_x}
    assert not train & {image.tobytes() for image in digits.test_x}


def test_calls_are_independent_and_equal() -> None:
    first = datasets.digits()
    first.train_x[...] = -1.0
    second = datasets.digits()
    assert second.train_x.min() == 0.0
    np.testing.assert_array_equal(first.test_x, second.test_x)


def test_images_are_those_of_scikit_learn() -> None:
    source = pytest.importorskip("sklearn.datasets").load_digits()
    digits = datasets.digits()
    images = np.concatenate([digits.test_x, digits.train_x]).reshape(-1, 64) * 16
    labels = np.concatenate([digits.test_y, digits.train_y])
    ours = sorted(zip(images.astype(int).tolist(), labels.tolist()))
    theirs = sorted(zip(source.data.astype(int).tolist(), source.target.tolist()))
    assert ours == theirs


def test_shipped_weights_classify_unseen_digits() -> None:
    digits = datasets.digits()
    predictions = digits_cnn()(digits.test_x).argmax(axis=1)
    assert (predictions == digits.test_y).mean() >= 0.985

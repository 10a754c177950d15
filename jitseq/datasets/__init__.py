"""Small data sets shipped in the package, as NumPy arrays.

Nothing enters, arrays leave; every call returns new arrays with the same content.

The handwritten digits: E. Alpaydin and C. Kaynak (1998), "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository, doi:10.24432/C50P49, licence
CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). These are the 1797 images
that scikit-learn bundles, in a fixed shuffled order; ``digits_cnn.npz`` holds weights
of a small CNN trained on the training split. ``benchmarks/make_digits.py`` wrote both.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any, NamedTuple

import numpy as np

BRIGHTEST = 16


class Digits(NamedTuple):
    """Images float32 ``N, 1, 8, 8`` in [0, 1], labels int64 ``N`` in 0..9."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def digits() -> Digits:
    """The UCI handwritten digits: 1437 training and 360 test images, a fixed split.

    >>> digits().train_x.shape
    (1437, 1, 8, 8)
    """
    stored = _load("digits.npz")
    return Digits(
        _images(stored["train_x"]),
        stored["train_y"].astype(np.int64),
        _images(stored["test_x"]),
        stored["test_y"].astype(np.int64),
    )


def digits_cnn_weights() -> dict[str, np.ndarray]:
    """A state_dict (float32) for the CNN of ``python -m jitseq demo``."""
    return _load("digits_cnn.npz")


def _load(name: str) -> dict[str, np.ndarray]:
    with as_file(files(__name__) / name) as path, np.load(path) as stored:
        return dict(stored)


def _images(stored: np.ndarray) -> np.ndarray:
    scaled: np.ndarray[Any, Any] = stored[:, None].astype(np.float32) / BRIGHTEST
    return scaled

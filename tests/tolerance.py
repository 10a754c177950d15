"""How close a result must be to a float64 reference: one table for all tests."""

from __future__ import annotations

import numpy as np

EPS = {"float32": 2.0**-23, "float64": 2.0**-52}

ULPS = 32
"""Rounding errors of a value that a few operations produced, beside long sums."""


def assert_close(result, reference, magnitude=None, terms: int = 1) -> None:
    """Compare with a float64 ``reference``; NaN and infinities must match.

    The bound is ``ULPS + terms / 2`` times eps times ``magnitude``: for a sum of n
    products that is ``Σ|a||b|``, where any order of adding is within n·eps/2 (Higham
    2002, Accuracy and Stability, section 3.1); else the reference's own size. For
    whole models see `error_bound`.
    """
    result = np.asarray(result)
    reference = np.asarray(reference, np.float64)
    assert result.shape == reference.shape, (result.shape, reference.shape)
    size = np.abs(reference) if magnitude is None else np.asarray(magnitude, np.float64)
    size = np.maximum(size, np.abs(reference))
    finite = np.isfinite(reference)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(reference))
    np.testing.assert_array_equal(
        result[np.isinf(reference)], reference[np.isinf(reference)]
    )
    bound = (ULPS + terms / 2) * EPS[result.dtype.name] * (size + 1e-3)
    error = np.abs(np.where(finite, result.astype(np.float64) - reference, 0.0))
    worst = np.max(
        np.where(finite, error / np.where(finite, bound, 1.0), 0.0), initial=0.0
    )
    assert worst <= 1.0, f"error is {worst:.2f} times the bound"

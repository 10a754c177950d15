"""Two arrays beside each other, and each beside its float64 value.

Arrays of two backends and what they should be enter; a `LayerDifference` leaves.
Invariant: NaN equals NaN and an infinity itself; any other pair in which one is not
finite is infinitely far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jitseq.compare.difference import LayerDifference
from jitseq.compare.points import Point
from jitseq.compare.rounding import LIKELY, Uncertain
from jitseq.ir.types import type_of

NEAR_OVERFLOW = 0.999
"""Of the largest number: what is beyond may be finite in one backend only."""


def largest(array: np.ndarray) -> float:
    """The largest finite value, without its sign; 0 where there is none."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def apart(output: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; infinite where one only is not finite."""
    finite = np.isfinite(expected)
    same = np.array_equal(output[~finite], expected[~finite], equal_nan=True)
    if not same or not np.isfinite(output[finite]).all():
        return np.inf
    return float(np.abs(output[finite] - expected[finite]).max(initial=0.0))


def compared(
    point: Point,
    found: Sequence[np.ndarray],
    judged: Sequence[Uncertain],
    bound: tuple[float, float] | None,
) -> LayerDifference:
    """The record of a point.

    Args:
        point: what it is.
        found: the arrays of two backends, of one shape.
        judged: their float64 values and deviations, in the same order.
        bound: relative and absolute tolerance between the two; rounding when None.
    """
    a, b = (array.astype(np.float64) for array in found)
    info = np.finfo(found[0].dtype)
    with np.errstate(all="ignore"):
        gap = np.where(_same(a, b), 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.inf, gap)
        size = np.maximum(np.abs(a), np.abs(b))
        relative = np.where(gap > 0, gap / size, 0.0)
        relative = np.where(np.isnan(relative), np.inf, relative)
        if bound is None:
            allowed = [LIKELY * x.error + info.tiny for x in judged]
            pairs = zip((a, b), judged, allowed, strict=True)
            shares = [_share(x, y.value, tol, info) for x, y, tol in pairs]
            shares = [np.where(_same(a, b) & ~np.isfinite(a), 0.0, s) for s in shares]
        else:
            rtol, atol = bound
            allowed = [atol + rtol * size] * 2
            share = np.where(gap > 0, gap / allowed[0], 0.0)
            shares = [np.where(np.isfinite(gap), share, np.inf)] * 2
    worst = int(np.max(shares[1], initial=0.0) > np.max(shares[0], initial=0.0))
    at = np.unravel_index(int(np.argmax(shares[worst])), a.shape)
    return LayerDifference(
        point.path,
        point.ops,
        point.quantity,
        str(type_of(found[0])),
        point.backward,
        float(gap.max(initial=0.0)),
        float(relative.max(initial=0.0)),
        (float(shares[0].max(initial=0.0)), float(shares[1].max(initial=0.0))),
        tuple(int(i) for i in at),
        (float(a[at]), float(b[at])),
        float(judged[worst].value[at]),
        float(allowed[worst][at]),
    )


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    equal: np.ndarray = (a == b) | (np.isnan(a) & np.isnan(b))
    return equal


def _share(
    found: np.ndarray, expected: np.ndarray, tolerance: np.ndarray, info: Any
) -> np.ndarray:
    """Errors in units of the tolerance; infinite for a wrong NaN or infinity."""
    error = np.where(_same(found, expected), 0.0, np.abs(found - expected))
    share = np.where((error > 0) & np.isfinite(tolerance), error / tolerance, 0.0)
    share = np.where(np.isfinite(error), share, np.inf)
    overflows = np.abs(expected) >= NEAR_OVERFLOW * float(info.max)
    return np.where(overflows, 0.0, share)

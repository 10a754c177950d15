"""Windows along the axes of an image, and pooling over them with NumPy.

Positions come in as `AxisWindows`; only positions inside the input are listed, so
padding costs nothing and averages need no mask.
"""

from __future__ import annotations

import numpy as np

from jitseq.ir.compute import AxisWindows


def pool_axis(
    x: np.ndarray, axis: int, windows: AxisWindows, combine: np.ufunc, neutral: float
) -> np.ndarray:
    """Combine the window of each output position along one axis of ``x``.

    Whole, evenly spaced windows are strided views, combined one after the other.
    Ragged ones are gathered; an extra ``neutral`` element stands at position ``size``
    for the entries that a short window lacks.
    """
    if windows.uniform is not None:
        window, stride = windows.uniform
        last = stride * (len(windows.start) - 1) + 1
        parts = (_along(x, axis, slice(t, t + last, stride)) for t in range(window))
    else:
        shape = list(x.shape)
        shape[axis] = 1
        size = x.shape[axis]
        extended = np.concatenate([x, np.full(shape, neutral, x.dtype)], axis)
        start, count = np.array(windows.start), np.array(windows.count)
        parts = (
            extended.take(np.where(t < count, start + windows.step * t, size), axis)
            for t in range(max(windows.count))
        )
    result = np.array(next(parts))
    for part in parts:
        combine(result, part, out=result)
    return result


def _along(x: np.ndarray, axis: int, part: slice) -> np.ndarray:
    return x[(slice(None),) * axis + (part,)]


def pool_max(x: np.ndarray, rows: AxisWindows, cols: AxisWindows) -> np.ndarray:
    """Maximum over the windows of ``[N, C, H, W]``; NaN wins."""
    with np.errstate(all="ignore"):
        x = pool_axis(x, 2, rows, np.maximum, -np.inf)
        return pool_axis(x, 3, cols, np.maximum, -np.inf)


def pool_average(
    x: np.ndarray, rows: AxisWindows, cols: AxisWindows, divisor: int | None = None
) -> np.ndarray:
    """Sum over the windows, over ``divisor`` or the product of the axes' divisors."""
    with np.errstate(all="ignore"):
        x = pool_axis(x, 2, rows, np.add, 0.0)
        x = pool_axis(x, 3, cols, np.add, 0.0)
        divisors = np.multiply.outer(rows.divisor, cols.divisor).astype(x.dtype)
        x /= divisors if divisor is None else divisor
    return x

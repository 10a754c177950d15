"""Pooling to a given output size.

Output i of an axis covers ``floor(i H / OH) <= row < ceil((i + 1) H / OH)``; windows
overlap where OH does not divide H. Gradients are those of
`jitseq.ir.ops.pool_grad`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from jitseq.ir.compute import AxisWindows, Window
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.checks import require_at_least, require_images, result_type
from jitseq.ir.ops.pool_grad import register_average_gradient, register_max_gradient
from jitseq.ir.ops.windows import pool_average, pool_max
from jitseq.ir.types import TensorType

Pair = tuple[int, int]


@lru_cache(maxsize=1024)
def adaptive_windows(size: int, outputs: int) -> AxisWindows:
    """The windows of one axis, each divided by its own length."""
    starts = tuple(index * size // outputs for index in range(outputs))
    ends = (-(-(index + 1) * size // outputs) for index in range(outputs))
    counts = tuple(end - start for start, end in zip(starts, ends))
    return AxisWindows(starts, counts, 1, counts)


def _infer(op: str, x: TensorType, output_size: Pair) -> TensorType:
    require_images(op, x)
    require_at_least(op, 1, output_size=output_size)
    return result_type(op, x, (x.shape[0], x.shape[1], *output_size))


def infer_adaptive_avg_pool2d(x: TensorType, *, output_size: Pair) -> TensorType:
    """``[N, C, H, W]`` → ``[N, C, *output_size]``."""
    return _infer("adaptive_avg_pool2d", x, output_size)


def infer_adaptive_max_pool2d(x: TensorType, *, output_size: Pair) -> TensorType:
    """``[N, C, H, W]`` → ``[N, C, *output_size]``."""
    return _infer("adaptive_max_pool2d", x, output_size)


def _windows(
    shape: tuple[Any, ...], output_size: Pair
) -> tuple[AxisWindows, AxisWindows]:
    rows, cols = output_size
    return adaptive_windows(shape[2], rows), adaptive_windows(shape[3], cols)


def adaptive_avg_pool2d(x: np.ndarray, *, output_size: Pair) -> np.ndarray:
    return pool_average(x, *_windows(x.shape, output_size))


def adaptive_max_pool2d(x: np.ndarray, *, output_size: Pair) -> np.ndarray:
    return pool_max(x, *_windows(x.shape, output_size))


def average_window(x: TensorType, *, output_size: Pair) -> Window:
    return Window("avg", *_windows(x.shape, output_size))


def max_window(x: TensorType, *, output_size: Pair) -> Window:
    return Window("max", *_windows(x.shape, output_size))


EXAMPLES = (
    Example(((2, 3, 7, 9),), {"output_size": (1, 1)}),
    Example(((1, 17, 8, 6),), {"output_size": (4, 3)}),
    Example(((2, 3, 7, 10),), {"output_size": (3, 4)}),
    Example(((2, 2, 3, 5),), {"output_size": (5, 7)}),
)

register(
    Op(
        "adaptive_avg_pool2d",
        infer_adaptive_avg_pool2d,
        adaptive_avg_pool2d,
        lambda types, attrs: average_window(types[0], **attrs),
        examples=EXAMPLES,
        vjp=register_average_gradient(
            "adaptive_avg_pool2d", average_window, infer_adaptive_avg_pool2d, *EXAMPLES
        ),
    )
)
register(
    Op(
        "adaptive_max_pool2d",
        infer_adaptive_max_pool2d,
        adaptive_max_pool2d,
        lambda types, attrs: max_window(types[0], **attrs),
        examples=EXAMPLES,
        vjp=register_max_gradient(
            "adaptive_max_pool2d", max_window, infer_adaptive_max_pool2d, *EXAMPLES
        ),
    )
)

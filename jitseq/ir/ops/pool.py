"""Max and average pooling with fixed windows.

Window y covers rows ``y sh - ph + t dh`` for t < KH that lie inside the input.
``max_pool2d`` takes their maximum; its cotangent goes to the first maximum (NaN
counts as larger than any number). ``avg_pool2d`` sums and divides; each element of
a window receives the cotangent over the same divisor. Gradients are in
`jitseq.ir.ops.pool_grad`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import AxisWindows, Window
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.checks import require_at_least, require_images, result_type
from jitseq.ir.ops.pool_grad import register_average_gradient, register_max_gradient
from jitseq.ir.ops.windows import pool_average, pool_max
from jitseq.ir.types import TensorType

Pair = tuple[int, int]


def output_extent(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """Windows along one axis; below 1 if the kernel does not fit.

    With ``ceil_mode`` a last window may hang over the end, if it starts inside of
    the input or the padding before it.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


@lru_cache(maxsize=1024)
def axis_windows(
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> AxisWindows:
    """The windows along one axis, clipped to the input.

    The divisor counts positions up to the end of the padding, which a ``ceil_mode``
    window may pass, or only those inside the input.
    """
    starts, counts, divisors = [], [], []
    for index in range(
        output_extent(size, kernel, stride, padding, dilation, ceil_mode)
    ):
        begin = index * stride - padding
        reads = [p for t in range(kernel) if 0 <= (p := begin + t * dilation) < size]
        starts.append(reads[0] if reads else 0)
        counts.append(len(reads))
        padded = min(begin + kernel, size + padding) - begin
        divisors.append(padded if count_include_pad else len(reads))
    return AxisWindows(tuple(starts), tuple(counts), dilation, tuple(divisors))


def _infer(
    op: str,
    x: TensorType,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> TensorType:
    require_images(op, x)
    require_at_least(op, 1, kernel=kernel, stride=stride, dilation=dilation)
    require_at_least(op, 0, padding=padding)
    facts = {"input": x, "kernel": kernel, "padding": padding, "dilation": dilation}
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ShapeError(
            f"{op}: padding may be at most half of the kernel",
            facts=facts,
            hint="pad the input with nn.ZeroPad2d or nn.ConstantPad2d instead",
        )
    rows, cols = (
        output_extent(x.shape[a + 2], kernel[a], stride[a], padding[a], dilation[a],
                      ceil_mode)
        for a in (0, 1)
    )  # fmt: skip
    if rows < 1 or cols < 1:
        raise ShapeError(
            f"{op}: the window is larger than the padded input",
            facts=facts,
            hint="use a smaller kernel, or a larger input",
        )
    return result_type(op, x, (x.shape[0], x.shape[1], rows, cols))


def infer_max_pool2d(
    x: TensorType,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> TensorType:
    """``[N, C, H, W]`` → ``[N, C, OH, OW]``."""
    result = _infer("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)
    if all(d == 1 or p == 0 for d, p in zip(dilation, padding)) and not ceil_mode:
        return result
    windows = _max_windows(x, kernel, stride, padding, dilation, ceil_mode)
    if any(0 in axis.count for axis in windows):
        raise ShapeError(
            "max_pool2d: a window would hold nothing but padding",
            facts={"input": x, "kernel": kernel, "padding": padding},
            hint="use less dilation or less padding",
        )
    return result


def _max_windows(
    x: TensorType,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> tuple[AxisWindows, AxisWindows]:
    rows, cols = (
        axis_windows(x.shape[a + 2], kernel[a], stride[a], padding[a], dilation[a],
                     ceil_mode)
        for a in (0, 1)
    )  # fmt: skip
    return rows, cols


def max_pool2d(x: np.ndarray, **attrs: Any) -> np.ndarray:
    """Rows, then columns."""
    return pool_max(x, *_max_windows(_type(x), **attrs))


def _type(x: np.ndarray) -> TensorType:
    return TensorType(x.dtype.name, x.shape)


def max_window(x: TensorType, **attrs: Any) -> Window:
    return Window("max", *_max_windows(x, **attrs))


def compute_max_pool2d(types: tuple[TensorType, ...], attrs: Any) -> Window:
    return max_window(types[0], **attrs)


def infer_avg_pool2d(
    x: TensorType,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> TensorType:
    """``[N, C, H, W]`` → ``[N, C, OH, OW]``."""
    if divisor_override == 0:
        raise ShapeError(
            "avg_pool2d: divisor_override must not be 0",
            facts={"input": x},
            hint="None divides by the size of the window",
        )
    return _infer("avg_pool2d", x, kernel, stride, padding, (1, 1), ceil_mode)


def _avg_windows(
    x: TensorType,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[AxisWindows, AxisWindows, int | None]:
    rows, cols = (
        axis_windows(x.shape[a + 2], kernel[a], stride[a], padding[a], 1, ceil_mode,
                     count_include_pad)
        for a in (0, 1)
    )  # fmt: skip
    return rows, cols, divisor_override


def avg_pool2d(x: np.ndarray, **attrs: Any) -> np.ndarray:
    """Rows, then columns, then one division."""
    return pool_average(x, *_avg_windows(_type(x), **attrs))


def average_window(x: TensorType, **attrs: Any) -> Window:
    return Window("avg", *_avg_windows(x, **attrs))


def compute_avg_pool2d(types: tuple[TensorType, ...], attrs: Any) -> Window:
    return average_window(types[0], **attrs)


def _max_example(
    x: tuple[int, ...],
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> Example:
    attrs = {
        "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation,
        "ceil_mode": ceil_mode,
    }  # fmt: skip
    return Example((x,), attrs)


def _avg_example(
    x: tuple[int, ...],
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Example:
    attrs = {
        "kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad, "divisor_override": divisor_override,
    }  # fmt: skip
    return Example((x,), attrs)


MAX_EXAMPLES = (
    _max_example((2, 3, 8, 6), (2, 2), (2, 2)),
    _max_example((1, 5, 9, 7), (2, 2), (2, 2)),
    _max_example((2, 3, 9, 7), (3, 3), (2, 2), (1, 1)),
    _max_example((1, 2, 7, 8), (3, 2), (1, 2), (1, 0)),
    _max_example((2, 4, 7, 10), (2, 3), (2, 3), ceil_mode=True),
    _max_example((1, 3, 5, 5), (2, 2), (3, 3), (1, 1), ceil_mode=True),
    _max_example((2, 2, 11, 9), (3, 2), (2, 1), (1, 1), (2, 3)),
    _max_example((1, 17, 4, 4), (4, 4), (4, 4)),
)
register(
    Op(
        "max_pool2d",
        infer_max_pool2d,
        max_pool2d,
        compute_max_pool2d,
        examples=MAX_EXAMPLES,
        vjp=register_max_gradient(
            "max_pool2d", max_window, infer_max_pool2d, *MAX_EXAMPLES
        ),
    )
)
AVERAGE_EXAMPLES = (
    _avg_example((2, 3, 8, 6), (2, 2), (2, 2)),
    _avg_example((1, 5, 9, 7), (3, 2), (2, 1)),
    _avg_example((2, 3, 9, 7), (3, 3), (2, 2), (1, 1)),
    _avg_example((2, 3, 9, 7), (3, 3), (2, 2), (1, 1), False, False),
    _avg_example((2, 2, 8, 11), (3, 4), (2, 3), (1, 2), True),
    _avg_example((2, 2, 8, 11), (3, 4), (2, 3), (1, 2), True, False),
    _avg_example((1, 3, 6, 7), (3, 3), (2, 2), (0, 1), True, True, 5),
    _avg_example((1, 17, 7, 7), (7, 7), (7, 7)),
)
register(
    Op(
        "avg_pool2d",
        infer_avg_pool2d,
        avg_pool2d,
        compute_avg_pool2d,
        examples=AVERAGE_EXAMPLES,
        vjp=register_average_gradient(
            "avg_pool2d", average_window, infer_avg_pool2d, *AVERAGE_EXAMPLES
        ),
    )
)

"""Pooling over windows of rows and columns.

Image batches ``(N, C, H, W)`` or single images ``(C, H, W)`` enter; the same channels
with fewer rows and columns leave. Option values are checked here, sizes by the ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitseq.errors import UnsupportedError
from jitseq.ir.tracer import apply
from jitseq.nn.functional.arguments import (
    Array,
    IntPair,
    OptionError,
    integer,
    pair,
    with_batch,
    without_batch,
)


def max_pool2d(
    input: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array:
    """The largest element of each window; NaN wins. Padding is never the largest.

    ``stride`` is the kernel's size where it is not given. Raises `UnsupportedError`
    for ``return_indices``, `OptionError` for options that do not fit.
    """
    refuse_indices(return_indices, "max_pool2d")
    x, single = with_batch(input, "max_pool2d")
    kernel = pair(kernel_size, "max_pool2d: kernel_size", 1)
    dilations = pair(dilation, "max_pool2d: dilation", 1)
    y = apply(
        "max_pool2d",
        x,
        kernel=kernel,
        stride=_stride(stride, kernel, "max_pool2d"),
        padding=_padding(padding, kernel, "max_pool2d"),
        dilation=dilations,
        ceil_mode=bool(ceil_mode),
    )
    return without_batch(y, single)


def avg_pool2d(
    input: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The sum of each window divided by its size, or by ``divisor_override``.

    Without ``count_include_pad`` only positions inside the input count. Raises
    `OptionError` for options that do not fit.
    """
    x, single = with_batch(input, "avg_pool2d")
    kernel = pair(kernel_size, "avg_pool2d: kernel_size", 1)
    if divisor_override is not None:
        divisor_override = integer(divisor_override, "avg_pool2d: divisor_override")
        if divisor_override == 0:
            raise OptionError("avg_pool2d: divisor_override must not be zero")
    y = apply(
        "avg_pool2d",
        x,
        kernel=kernel,
        stride=_stride(stride, kernel, "avg_pool2d"),
        padding=_padding(padding, kernel, "avg_pool2d"),
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )
    return without_batch(y, single)


def adaptive_avg_pool2d(
    input: Array, output_size: int | Sequence[int | None] | None
) -> Array:
    """Averages over windows that divide the input into ``output_size`` parts.

    Window ``i`` of ``n`` covers rows ``floor(i·H/n)`` to ``ceil((i+1)·H/n)``; ``None``
    keeps the input's extent.
    """
    return _adaptive("adaptive_avg_pool2d", input, output_size)


def adaptive_max_pool2d(
    input: Array,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Array:
    """Maxima over the windows of `adaptive_avg_pool2d`."""
    refuse_indices(return_indices, "adaptive_max_pool2d")
    return _adaptive("adaptive_max_pool2d", input, output_size)


def _adaptive(op: str, input: Array, output_size: Any) -> Array:
    x, single = with_batch(input, op)
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,)
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    if len(sizes) == 2:
        sizes = tuple(
            extent if size is None else size for size, extent in zip(sizes, x.shape[2:])
        )
    y = apply(op, x, output_size=pair(sizes, f"{op}: output_size", 1))
    return without_batch(y, single)


def refuse_indices(return_indices: bool, op: str) -> None:
    """Raise `UnsupportedError` when indices are asked for."""
    if return_indices:
        raise UnsupportedError(
            f"{op}: return_indices is not covered",
            hint="leave return_indices out; the maxima alone are returned",
        )


def _stride(
    stride: IntPair | None, kernel: tuple[int, int], op: str
) -> tuple[int, int]:
    return kernel if stride is None else pair(stride, f"{op}: stride", 1)


def _padding(padding: IntPair, kernel: tuple[int, int], op: str) -> tuple[int, int]:
    sizes = pair(padding, f"{op}: padding")
    if any(2 * size > extent for size, extent in zip(sizes, kernel)):
        raise OptionError(
            f"{op}: padding must be at most half of the window",
            facts={"padding": sizes, "window": kernel},
        )
    return sizes

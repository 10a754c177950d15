"""Convolution of images.

``y[n, o, y, x] = b[o] + Σ_{i, ky, kx} w[o, i, ky, kx]
    * x[n, i, y sh + ky dh - top, x sw + kx dw - left]``, zero outside of the input,
with i over the channels of o's group. With g the cotangent of y, dx is the transposed
convolution of g with w, ``dw[o, i, ky, kx] = Σ_{n, y, x} g[n, o, y, x] x[n, i, …]`` at
the same positions (both in `jitseq.ir.ops.conv_grad`), and
``db[o] = Σ_{n, y, x} g[n, o, y, x]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from jitseq.errors import ShapeError
from jitseq.ir.compute import Contraction, Phase, Tap
from jitseq.ir.graph import Node
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import (
    require_at_least,
    require_images,
    require_vector,
    result_type,
)
from jitseq.ir.types import TensorType, require_float

Pair = tuple[int, int]
Quad = tuple[int, int, int, int]

BLOCK_BYTES = 2**22
"""Unrolled windows are made for as many images at a time as this holds, so that the
matrix product finds them in cache."""


def infer_conv2d(
    x: TensorType,
    w: TensorType,
    *bias: TensorType,
    stride: Pair,
    padding: Quad,
    dilation: Pair,
    groups: int,
) -> TensorType:
    """``[N, C, H, W]``, weight ``[O, C/groups, KH, KW]``, bias ``[O]`` → ``[N, O, …]``.

    ``padding`` is (top, bottom, left, right). The output has
    ``(H + top + bottom - dh (KH - 1) - 1) // sh + 1`` rows.
    """
    require_images("conv2d", x)
    require_float(x, w, *bias, op="conv2d")
    require_weight("conv2d", x, w, groups)
    require_at_least("conv2d", 1, stride=stride, dilation=dilation)
    require_at_least("conv2d", 0, padding=padding)
    outputs, group_channels = w.shape[:2]
    facts = {"input": x, "weight": w, "groups": groups}
    if x.shape[1] != group_channels * groups:
        raise ShapeError(
            f"conv2d: input has {x.shape[1]} channels, "
            f"weight expects {group_channels * groups}",
            facts={"input": x, "weight": w},
            hint=f"Conv2d(in_channels={x.shape[1]}, …), "
            "or check the order of the input's axes",
        )
    if outputs % groups:
        raise ShapeError(
            f"conv2d: {outputs} output channels cannot be split into {groups} groups",
            facts=facts,
            hint="out_channels must be a multiple of groups",
        )
    for given in bias:
        require_vector("conv2d", "bias", outputs, given)
    size = _output_size(x, w, stride, padding, dilation)
    return result_type("conv2d", x, (x.shape[0], outputs, *size))


def require_weight(op: str, x: TensorType, w: TensorType, groups: int) -> None:
    """Raise unless ``w`` is a non-empty kernel and the channels split into groups."""
    if w.ndim != 4 or min(w.shape) < 1:
        raise ShapeError(
            f"{op}: expects a weight of 4 dimensions, none of them empty",
            facts={"input": x, "weight": w},
            hint="kernel_size is one number or a pair of numbers from 1 upwards",
        )
    if groups < 1 or x.shape[1] % groups:
        raise ShapeError(
            f"{op}: {x.shape[1]} channels cannot be split into {groups} groups",
            facts={"input": x, "weight": w, "groups": groups},
            hint="in_channels must be a multiple of groups",
        )


def _output_size(
    x: TensorType, w: TensorType, stride: Pair, padding: Quad, dilation: Pair
) -> Pair:
    padded = (x.shape[2] + sum(padding[:2]), x.shape[3] + sum(padding[2:]))
    kernel = tuple(d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:]))
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        raise ShapeError(
            f"conv2d: kernel of {kernel[0]} × {kernel[1]} with its dilation is larger "
            f"than the padded input of {padded[0]} × {padded[1]}",
            facts={"input": x, "weight": w, "padding": padding, "dilation": dilation},
            hint="use a smaller kernel, more padding, or a larger input",
        )
    rows, cols = ((p - k) // s + 1 for p, k, s in zip(padded, kernel, stride))
    return rows, cols


def pad_images(x: np.ndarray, padding: Quad) -> np.ndarray:
    """Zeros around each image, (top, bottom, left, right); ``x`` itself for none."""
    if not any(padding):
        return x
    top, bottom, left, right = padding
    *outer, rows, cols = x.shape
    result = np.zeros((*outer, rows + top + bottom, cols + left + right), x.dtype)
    result[..., top : top + rows, left : left + cols] = x
    return result


def image_blocks(images: int, bytes_each: int) -> Iterator[slice]:
    """Slices over the batch of about `BLOCK_BYTES` each, at least one image."""
    step = max(1, BLOCK_BYTES // max(1, bytes_each))
    for start in range(0, images, step):
        yield slice(start, start + step)


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    *bias: np.ndarray,
    stride: Pair,
    padding: Quad,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """Windows unrolled into a matrix; depthwise kernels tap by tap instead."""
    with np.errstate(all="ignore"):
        padded = pad_images(x, padding)
        windows = unrolled(padded, w.shape[2:], stride, dilation)
        multiply = _multiply_taps if w.shape[1] == 1 and groups > 1 else _multiply
        result = multiply(windows, w, groups)
        if bias:
            result += bias[0][:, None, None]
    return result


def unrolled(
    x: np.ndarray, kernel: tuple[int, ...], stride: Pair, dilation: Pair
) -> np.ndarray:
    """A view of all windows of padded images, ``[N, C, KH, KW, OH, OW]``."""
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel))
    view = sliding_window_view(x, span, axis=(2, 3))
    view = view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return view.transpose(0, 1, 4, 5, 2, 3)


def _multiply(windows: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """``[N, C, KH, KW, OH, OW]`` times ``[O, C/groups, KH, KW]`` in each group."""
    images, size = windows.shape[0], windows.shape[4:]
    matrices = w.reshape(groups, len(w) // groups, -1)
    shape = (images, *matrices.shape[:2], size[0] * size[1])
    result = np.empty(shape, windows.dtype)
    bytes_each = windows.itemsize * windows[:1].size
    for block in image_blocks(images, bytes_each):
        part = result[block]
        columns = windows[block].reshape(len(part), groups, -1, shape[-1])
        np.matmul(matrices, columns, out=part)
    return result.reshape(images, len(w), *size)


def _multiply_taps(windows: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """The same where each group has one input channel: a sum of scaled images."""
    images, channels, *kernel, rows, cols = windows.shape
    scales = w.reshape(channels, -1, *kernel, 1, 1)
    result = np.zeros((images, *scales.shape[:2], rows, cols), windows.dtype)
    for block in image_blocks(images, windows.itemsize * result[:1].size):
        part = result[block]
        product = np.empty_like(part)
        for ky, kx in np.ndindex(*kernel):
            image = windows[block, :, None, ky, kx]
            part += np.multiply(image, scales[:, :, ky, kx], out=product)
    return result.reshape(images, len(w), rows, cols)


def compute_conv2d(types: tuple[TensorType, ...], attrs: Any) -> Contraction:
    """One phase: every output is reached by the same taps."""
    x, w = types[:2]
    padding, dilation = attrs["padding"], attrs["dilation"]
    size = _output_size(x, w, attrs["stride"], padding, dilation)
    origin, kernel = (padding[0], padding[2]), (w.shape[2], w.shape[3])
    in_size = (x.shape[2], x.shape[3])
    return Contraction(
        groups=attrs["groups"],
        in_channels=x.shape[1],
        out_channels=w.shape[0],
        in_size=in_size,
        out_size=size,
        phases=(conv_phase(in_size, size, kernel, attrs["stride"], origin, dilation),),
        weight_axes="oihw",
        has_bias=len(types) == 3,
    )


def conv_phase(
    in_size: Pair, size: Pair, kernel: Pair, stride: Pair, origin: Pair, dilation: Pair
) -> Phase:
    """Output y reads input ``y sh + ky dh - top``; ``origin`` is (top, left)."""
    taps = (
        Tap(ky * dilation[0] - origin[0], kx * dilation[1] - origin[1], ky, kx)
        for ky, kx in np.ndindex(*kernel)
    )
    return with_useful_taps(Phase((0, 0), (1, 1), size, stride, ()), taps, in_size)


def with_useful_taps(phase: Phase, taps: Iterator[Tap], in_size: Pair) -> Phase:
    """The phase with those taps that read at least one position of the input."""

    def reads(offset: int, axis: int) -> bool:
        last = offset + phase.stride[axis] * (phase.count[axis] - 1)
        return last >= 0 and offset < in_size[axis]

    useful = tuple(tap for tap in taps if reads(tap.dy, 0) and reads(tap.dx, 1))
    return Phase(phase.start, phase.step, phase.count, phase.stride, useful)


def conv2d_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    x, w, *bias = node.inputs
    top, _, left, _ = node.attrs["padding"]
    options = {key: node.attrs[key] for key in ("stride", "dilation", "groups")}
    options["origin"] = (top, left)
    return (
        emit("conv2d_input_grad", g, w, input_size=x.type.shape[2:], **options),
        emit("conv2d_weight_grad", x, g, kernel=w.type.shape[2:], **options),
        *(emit("channel_sum", g, axis=1) for _ in bias),
    )


def _example(
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Pair = (1, 1),
    padding: Quad = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: bool = True,
) -> Example:
    attrs = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
    }  # fmt: skip
    return Example((x, w, (w[0],)) if bias else (x, w), attrs)


register(
    Op(
        "conv2d",
        infer_conv2d,
        conv2d,
        compute_conv2d,
        examples=(
            _example((2, 3, 9, 7), (5, 3, 3, 3), padding=(1, 1, 1, 1)),
            _example((1, 1, 8, 8), (4, 1, 5, 5), bias=False),
            _example((3, 2, 11, 6), (17, 2, 3, 2), (2, 1), (1, 0, 0, 1)),
            _example((2, 4, 7, 7), (6, 4, 1, 1)),
            _example((1, 4, 6, 9), (3, 4, 1, 1), stride=(2, 2), bias=False),
            _example((2, 2, 12, 13), (3, 2, 3, 3), (1, 2), (2, 2, 3, 3), (2, 3)),
            _example((2, 6, 8, 5), (4, 3, 3, 3), padding=(1, 1, 1, 1), groups=2),
            _example((2, 6, 9, 9), (6, 1, 3, 3), (1, 1), (1, 1, 1, 1), groups=6),
            _example((1, 3, 10, 7), (6, 1, 3, 5), (2, 2), (1, 1, 2, 2), groups=3),
            _example((2, 5, 8, 8), (5, 1, 3, 3), dilation=(2, 2), groups=5, bias=False),
            _example((2, 3, 2, 2), (4, 3, 3, 3), padding=(1, 1, 1, 1)),
            _example((1, 2, 1, 1), (3, 2, 3, 3), padding=(1, 1, 1, 1)),
            _example((2, 16, 6, 6), (33, 16, 3, 3), padding=(1, 1, 1, 1)),
        ),
        vjp=conv2d_vjp,
    )
)

"""Transposed convolution, the gradient of a convolution to its input.

Input pixel i adds to output ``y = i s + k d - p`` with weight index k, in each axis:
``out[n, o, y, x] = b[o] + Σ x[n, c, i, j] w[c, o, ky, kx]`` over all (i, j, ky, kx)
that hit (y, x). With g the cotangent, dx is the convolution of g with w,
``dw[c, o, ky, kx] = Σ x[n, c, i, j] g[n, o, i sh + ky dh - ph, …]``, the weight
gradient of that convolution, and db[o] = Σ g.

Gather form, for one axis. Write ``y = a + s q`` with the residue ``0 <= a < s``. Tap k
reaches y from ``i = (y + p - k d) / s = q + (a + p - k d) / s``, which exists when s
divides ``a + p - k d``. All y of one residue therefore share their taps, each with the
constant offset ``(a + p - k d) / s`` and input stride 1: one phase for each residue of
each axis. A residue that no tap reaches keeps its phase, for the bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

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
from jitseq.ir.ops.conv import Pair, image_blocks, require_weight, with_useful_taps
from jitseq.ir.types import TensorType, require_float


def infer_conv_transpose2d(
    x: TensorType,
    w: TensorType,
    *bias: TensorType,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> TensorType:
    """``[N, C, H, W]``, weight ``[C, O/groups, KH, KW]``, bias ``[O]`` → ``[N, O, …]``.

    The output has ``(H - 1) sh - 2 ph + dh (KH - 1) + output_padding + 1`` rows.
    """
    op = "conv_transpose2d"
    require_images(op, x)
    require_float(x, w, *bias, op=op)
    require_weight(op, x, w, groups)
    require_at_least(op, 1, stride=stride, dilation=dilation)
    require_at_least(op, 0, padding=padding, output_padding=output_padding)
    if x.shape[1] != w.shape[0]:
        raise ShapeError(
            f"{op}: input has {x.shape[1]} channels, weight expects {w.shape[0]}",
            facts={"input": x, "weight": w},
            hint=f"ConvTranspose2d(in_channels={x.shape[1]}, …), "
            "or check the order of the input's axes",
        )
    for extra, s, d in zip(output_padding, stride, dilation):
        if extra >= max(s, d):
            raise ShapeError(
                f"{op}: output_padding {extra} must be smaller than stride or dilation",
                facts={"stride": stride, "dilation": dilation},
                hint="output_padding only chooses among the sizes that the stride "
                "leaves open",
            )
    outputs = w.shape[1] * groups
    for given in bias:
        require_vector(op, "bias", outputs, given)
    size = _output_size(x, w, stride, padding, output_padding, dilation)
    return result_type(op, x, (x.shape[0], outputs, *size))


def _output_size(
    x: TensorType,
    w: TensorType,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
) -> Pair:
    rows, cols = (
        (x.shape[a + 2] - 1) * stride[a]
        - 2 * padding[a]
        + dilation[a] * (w.shape[a + 2] - 1)
        + output_padding[a]
        + 1
        for a in (0, 1)
    )
    if rows < 1 or cols < 1:
        raise ShapeError(
            f"conv_transpose2d: the output would have {rows} × {cols} pixels",
            facts={"input": x, "weight": w, "padding": padding},
            hint="use less padding, or a larger kernel",
        )
    return rows, cols


def conv_transpose2d(
    x: np.ndarray,
    w: np.ndarray,
    *bias: np.ndarray,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    size = _output_size(_type(x), _type(w), stride, padding, output_padding, dilation)
    result = spread(x, w, size, stride, padding, dilation, groups)
    if bias:
        with np.errstate(all="ignore"):
            result += bias[0][:, None, None]
    return result


def _type(x: np.ndarray) -> TensorType:
    return TensorType(x.dtype.name, x.shape)


def spread(
    x: np.ndarray,
    w: np.ndarray,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """One matrix product for all taps, whose planes are then added where they land."""
    images, channels, rows, cols = x.shape
    kernel = w.shape[2:]
    outputs = w.shape[1] * groups
    reach = (
        (x.shape[a + 2] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1
        for a in (0, 1)
    )
    room = tuple(max(r, p + s) for r, p, s in zip(reach, padding, size))
    matrices = w.reshape(groups, channels // groups, -1).transpose(0, 2, 1)
    pixels = x.reshape(images, groups, channels // groups, rows * cols)
    full = np.zeros((images, outputs, *room), x.dtype)
    bytes_each = x.itemsize * outputs * kernel[0] * kernel[1] * rows * cols
    with np.errstate(all="ignore"):
        for block in image_blocks(images, bytes_each):
            products = np.matmul(matrices, pixels[block])
            planes = products.reshape(-1, outputs, *kernel, rows, cols)
            _add_planes(full[block], planes, stride, dilation)
    top, left = padding
    inside = full[:, :, top : top + size[0], left : left + size[1]]
    return np.ascontiguousarray(inside)


def _add_planes(
    full: np.ndarray, planes: np.ndarray, stride: Pair, dilation: Pair
) -> None:
    """Add the plane of tap (ky, kx) to ``full``, from (ky dh, kx dw) in strides."""
    kernel, (rows, cols) = planes.shape[2:4], planes.shape[4:]
    for ky, kx in np.ndindex(*kernel):
        y, x = ky * dilation[0], kx * dilation[1]
        target = full[
            :,
            :,
            y : y + (rows - 1) * stride[0] + 1 : stride[0],
            x : x + (cols - 1) * stride[1] + 1 : stride[1],
        ]
        target += planes[:, :, ky, kx]


def compute_conv_transpose2d(types: tuple[TensorType, ...], attrs: Any) -> Contraction:
    """One phase for each residue of the output position modulo the stride."""
    x, w = types[:2]
    options = dict(attrs)
    groups = options.pop("groups")
    size = _output_size(x, w, **options)
    del options["output_padding"]
    return transposed(x, w, size, groups, len(types) == 3, **options)


def transposed(
    x: TensorType,
    w: TensorType,
    size: Pair,
    groups: int,
    has_bias: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Contraction:
    """The record of a transposed convolution whose output has ``size``."""
    return Contraction(
        groups=groups,
        in_channels=x.shape[1],
        out_channels=w.shape[1] * groups,
        in_size=(x.shape[2], x.shape[3]),
        out_size=size,
        phases=tuple(_phases(x, w, size, stride, padding, dilation)),
        weight_axes="iohw",
        has_bias=has_bias,
    )


def _phases(
    x: TensorType,
    w: TensorType,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Iterator[Phase]:
    for start in np.ndindex(min(stride[0], size[0]), min(stride[1], size[1])):
        count = tuple(-(-(size[a] - start[a]) // stride[a]) for a in (0, 1))
        phase = Phase(start, stride, (count[0], count[1]), (1, 1), ())
        taps = (
            Tap(dy, dx, ky, kx)
            for ky, dy in _axis_taps(0, start, w, stride, padding, dilation)
            for kx, dx in _axis_taps(1, start, w, stride, padding, dilation)
        )
        yield with_useful_taps(phase, taps, (x.shape[2], x.shape[3]))


def _axis_taps(
    axis: int, start: Pair, w: TensorType, stride: Pair, padding: Pair, dilation: Pair
) -> list[Pair]:
    """Each k that reaches the residue, with its offset ``(a + p - k d) / s``."""
    reach = start[axis] + padding[axis]
    steps = [reach - k * dilation[axis] for k in range(w.shape[axis + 2])]
    s = stride[axis]
    return [(k, step // s) for k, step in enumerate(steps) if step % s == 0]


def conv_transpose2d_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    """dx is a convolution; output_padding may leave it more rows than x has."""
    (g,) = cotangents
    x, w, *bias = node.inputs
    top, left = node.attrs["padding"]
    extra = node.attrs["output_padding"]
    options = {key: node.attrs[key] for key in ("stride", "dilation", "groups")}
    quad = (top, max(0, top - extra[0]), left, max(0, left - extra[1]))
    dx = emit("conv2d", g, w, padding=quad, **options)
    for axis in (2, 3):
        size = x.type.shape[axis]
        if dx.type.shape[axis] != size:
            dx = emit("slice", dx, dim=axis, start=0, stop=size)
    options["origin"] = (top, left)
    return (
        dx,
        emit("conv2d_weight_grad", g, x, kernel=w.type.shape[2:], **options),
        *(emit("channel_sum", g, axis=1) for _ in bias),
    )


def _example(
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: bool = True,
) -> Example:
    attrs = {
        "stride": stride, "padding": padding, "output_padding": output_padding,
        "dilation": dilation, "groups": groups,
    }  # fmt: skip
    return Example((x, w, (w[1] * groups,)) if bias else (x, w), attrs)


register(
    Op(
        "conv_transpose2d",
        infer_conv_transpose2d,
        conv_transpose2d,
        compute_conv_transpose2d,
        examples=(
            _example((2, 3, 4, 5), (3, 4, 3, 3), padding=(1, 1)),
            _example((1, 4, 5, 3), (4, 6, 2, 2), stride=(2, 2)),
            _example((2, 3, 4, 4), (3, 5, 3, 3), (2, 2), (1, 1), (1, 1)),
            _example((3, 2, 3, 4), (2, 3, 2, 3), stride=(3, 2), bias=False),
            _example((1, 2, 4, 3), (2, 2, 1, 1), stride=(3, 3)),
            _example((2, 4, 4, 5), (4, 3, 3, 2), (2, 1), (1, 0), groups=2),
            _example((2, 5, 5, 5), (5, 1, 4, 4), (2, 2), (1, 1), groups=5),
            _example((1, 2, 4, 6), (2, 3, 3, 3), (2, 3), (2, 1), (1, 2), (2, 2)),
            _example((2, 17, 1, 1), (17, 9, 4, 4), bias=False),
            _example((1, 1, 2, 2), (1, 1, 2, 2), (5, 1), (0, 1)),
            _example((2, 2, 3, 3), (2, 3, 2, 2), (1, 2), (0, 1), (2, 1), (3, 2)),
        ),
        vjp=conv_transpose2d_vjp,
    )
)

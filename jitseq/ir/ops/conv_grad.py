"""The gradients of a convolution to its input and to its weight.

With g the cotangent of y, ``origin`` the (top, left) padding, all in one axis each:
``dx[n, i, h] = Σ_{o, k} g[n, o, y] w[o, i, k]`` over the pairs ``y s + k d - p = h``, a
transposed convolution of given output size, in gather form by its phases; and
``dw[o, i, k] = Σ_{n, y} g[n, o, y] x[n, i, y s + k d - p]``, zero outside of x. A
transposed convolution's weight gradient is the same op with x and g exchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Contraction, WeightGradient
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.checks import (
    require_at_least,
    require_images,
    require_same_dim,
    result_type,
)
from jitseq.ir.ops.conv import (
    Pair,
    conv_phase,
    image_blocks,
    pad_images,
    require_weight,
    unrolled,
)
from jitseq.ir.ops.conv_transpose import spread, transposed
from jitseq.ir.types import TensorType, require_float


def infer_conv2d_input_grad(
    g: TensorType,
    w: TensorType,
    *,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    groups: int,
    input_size: Pair,
) -> TensorType:
    """``[N, O, …]``, weight ``[O, C/groups, KH, KW]`` → ``[N, C, *input_size]``."""
    op = "conv2d_input_grad"
    require_images(op, g)
    require_float(g, w, op=op)
    require_weight(op, g, w, groups)
    require_at_least(op, 1, stride=stride, dilation=dilation, input_size=input_size)
    require_same_dim(op, g.shape[1], w.shape[0], {"cotangent": g, "weight": w})
    return result_type(op, g, (g.shape[0], w.shape[1] * groups, *input_size))


def conv2d_input_grad(
    g: np.ndarray,
    w: np.ndarray,
    *,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    groups: int,
    input_size: Pair,
) -> np.ndarray:
    return spread(g, w, input_size, stride, origin, dilation, groups)


def compute_conv2d_input_grad(types: tuple[TensorType, ...], attrs: Any) -> Contraction:
    g, w = types
    return transposed(
        g,
        w,
        size=attrs["input_size"],
        groups=attrs["groups"],
        has_bias=False,
        stride=attrs["stride"],
        padding=attrs["origin"],
        dilation=attrs["dilation"],
    )


def infer_conv2d_weight_grad(
    x: TensorType,
    g: TensorType,
    *,
    kernel: Pair,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    groups: int,
) -> TensorType:
    """``[N, C, H, W]``, cotangent ``[N, O, OH, OW]`` → ``[O, C/groups, *kernel]``."""
    op = "conv2d_weight_grad"
    require_images(op, x)
    require_images(op, g)
    require_float(x, g, op=op)
    require_at_least(op, 1, kernel=kernel, stride=stride, dilation=dilation)
    facts: dict[str, object] = {"input": x, "cotangent": g, "groups": groups}
    require_same_dim(op, x.shape[0], g.shape[0], facts)
    if groups < 1 or x.shape[1] % groups or g.shape[1] % groups:
        raise ShapeError(
            f"{op}: the channels cannot be split into {groups} groups",
            facts=facts,
            hint="both channel counts must be multiples of groups",
        )
    return result_type(op, x, (g.shape[1], x.shape[1] // groups, *kernel))


def conv2d_weight_grad(
    x: np.ndarray,
    g: np.ndarray,
    *,
    kernel: Pair,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """The forward op's windows as a matrix, times the cotangent, image by image."""
    images, outputs, *size = g.shape
    channels = x.shape[1]
    reach = (
        (n - 1) * s + d * (k - 1) + 1
        for n, s, d, k in zip(size, stride, dilation, kernel)
    )
    span = tuple(reach)
    missing = (max(0, span[a] - origin[a] - x.shape[a + 2]) for a in (0, 1))
    bottom, right = missing
    padded = pad_images(x, (origin[0], bottom, origin[1], right))
    windows = unrolled(padded[:, :, : span[0], : span[1]], kernel, stride, dilation)
    taps = channels // groups * kernel[0] * kernel[1]
    rows = g.reshape(images, groups, outputs // groups, size[0] * size[1])
    result = np.zeros((groups, outputs // groups, taps), x.dtype)
    with np.errstate(all="ignore"):
        for block in image_blocks(images, x.itemsize * windows[:1].size):
            columns = windows[block].reshape(-1, groups, taps, size[0] * size[1])
            result += (rows[block] @ columns.swapaxes(2, 3)).sum(axis=0)
    return result.reshape(outputs, channels // groups, *kernel)


def compute_conv2d_weight_grad(
    types: tuple[TensorType, ...], attrs: Any
) -> WeightGradient:
    """The products of the convolution that maps x to g's size."""
    x, g = types
    in_size, size = (x.shape[2], x.shape[3]), (g.shape[2], g.shape[3])
    phase = conv_phase(
        in_size, size, attrs["kernel"], attrs["stride"], attrs["origin"],
        attrs["dilation"],
    )  # fmt: skip
    forward = Contraction(
        groups=attrs["groups"],
        in_channels=x.shape[1],
        out_channels=g.shape[1],
        in_size=in_size,
        out_size=size,
        phases=(phase,),
        weight_axes="oihw",
        has_bias=False,
    )
    return WeightGradient(forward)


def _options(stride: Pair, origin: Pair, dilation: Pair, groups: int) -> dict[str, Any]:
    return {
        "stride": stride, "origin": origin, "dilation": dilation, "groups": groups,
    }  # fmt: skip


PLAIN = _options((1, 1), (1, 1), (1, 1), 1)
STRIDED = _options((2, 3), (1, 0), (1, 2), 2)
DEPTHWISE = _options((2, 2), (1, 2), (1, 1), 3)

register(
    Op(
        "conv2d_input_grad",
        infer_conv2d_input_grad,
        conv2d_input_grad,
        compute_conv2d_input_grad,
        examples=(
            Example(((2, 5, 9, 7), (5, 3, 3, 3)), {**PLAIN, "input_size": (9, 7)}),
            Example(((1, 6, 4, 2), (6, 2, 3, 2)), {**STRIDED, "input_size": (8, 7)}),
            Example(((1, 6, 5, 4), (6, 1, 3, 5)), {**DEPTHWISE, "input_size": (10, 7)}),
        ),
        derived=True,
    )
)
register(
    Op(
        "conv2d_weight_grad",
        infer_conv2d_weight_grad,
        conv2d_weight_grad,
        compute_conv2d_weight_grad,
        examples=(
            Example(((2, 3, 9, 7), (2, 5, 9, 7)), {**PLAIN, "kernel": (3, 3)}),
            Example(((1, 4, 8, 7), (1, 6, 4, 2)), {**STRIDED, "kernel": (3, 2)}),
            Example(((2, 3, 10, 7), (2, 6, 5, 4)), {**DEPTHWISE, "kernel": (3, 5)}),
        ),
        derived=True,
    )
)

"""Linear maps and convolutions.

Arrays and PyTorch's options enter; the ops ``linear``, ``conv2d`` and
``conv_transpose2d`` with options in full are applied. Channel counts are checked by
the ops, option values here.
"""

from __future__ import annotations

from typing import Any

from jitseq.errors import ShapeError
from jitseq.ir.tracer import apply
from jitseq.nn.functional.arguments import (
    Array,
    IntPair,
    OptionError,
    integer,
    need_number,
    one_of,
    operand,
    pair,
    type_text,
    with_batch,
    without_batch,
)


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """``y[…, o] = Σ_i x[…, i] w[o, i] + b[o]``.

    ``input`` is ``(…, in)``, ``weight`` ``(out, in)``, ``bias`` ``(out,)``. Raises
    `ShapeError` where they do not fit.
    """
    x = operand(input)
    if x.ndim == 1:
        need_number(x.shape[0])
    return apply("linear", x, *_weights(weight, bias))


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Array:
    """``y[n,o,i,j] = Σ x[n, c, sh·i + dh·p - ph, sw·j + dw·q - pw] w[o,c,p,q] + b[o]``.

    ``input`` is ``(N, C, H, W)`` or ``(C, H, W)``, and ``weight`` is
    ``(O, C/groups, KH, KW)``. ``padding`` is a size, ``"valid"``, or ``"same"``
    (with stride 1 only). Raises `ShapeError` for shapes and `OptionError` for options
    that do not fit.
    """
    x, single = with_batch(input, "conv2d")
    kernel = _kernel_size(weight, "conv2d")
    steps = pair(stride, "conv2d: stride", 1)
    dilations = pair(dilation, "conv2d: dilation", 1)
    y = apply(
        "conv2d",
        x,
        *_weights(weight, bias),
        stride=steps,
        padding=conv_padding(padding, kernel, steps, dilations),
        dilation=dilations,
        groups=integer(groups, "conv2d: groups", 1),
    )
    return without_batch(y, single)


def conv_padding(
    padding: str | IntPair,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Rows above and below, columns left and right that a convolution adds.

    ``"same"`` adds ``dilation · (kernel - 1)`` in all, the odd one at the end.
    """
    if not isinstance(padding, str):
        rows, columns = pair(padding, "conv2d: padding")
        return rows, rows, columns, columns
    one_of(padding, "conv2d: padding", ("same", "valid"))
    if padding == "valid":
        return 0, 0, 0, 0
    if stride != (1, 1):
        raise OptionError(
            "conv2d: padding='same' is not supported for strided convolutions",
            facts={"stride": stride},
            hint="give the padding as numbers",
        )
    rows, columns = (d * (k - 1) for d, k in zip(dilation, kernel))
    return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2


def conv_transpose2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
) -> Array:
    """The gradient of `conv2d` with respect to its input, as an operation.

    ``input`` is ``(N, C, H, W)`` or ``(C, H, W)``, and ``weight`` is
    ``(C, O/groups, KH, KW)``. Rows become
    ``(H-1)·stride - 2·padding + dilation·(KH-1) + output_padding + 1``.
    Raises `ShapeError` for shapes and `OptionError` for options that do not fit.
    """
    x, single = with_batch(input, "conv_transpose2d")
    _kernel_size(weight, "conv_transpose2d")
    steps = pair(stride, "conv_transpose2d: stride", 1)
    dilations = pair(dilation, "conv_transpose2d: dilation", 1)
    extra = pair(output_padding, "conv_transpose2d: output_padding")
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, dilations)):
        raise OptionError(
            "conv_transpose2d: output_padding must be smaller than stride or dilation",
            facts={"output_padding": extra, "stride": steps, "dilation": dilations},
        )
    y = apply(
        "conv_transpose2d",
        x,
        *_weights(weight, bias),
        stride=steps,
        padding=pair(padding, "conv_transpose2d: padding"),
        output_padding=extra,
        dilation=dilations,
        groups=integer(groups, "conv_transpose2d: groups", 1),
    )
    return without_batch(y, single)


def _weights(weight: Array, bias: Array | None) -> tuple[Any, ...]:
    return (operand(weight),) if bias is None else (operand(weight), operand(bias))


def _kernel_size(weight: Array, op: str) -> tuple[int, int]:
    weight = operand(weight)
    if weight.ndim != 4:
        raise ShapeError(
            f"{op}: the weight must have 4 dimensions",
            facts={"weight": type_text(weight)},
        )
    return weight.shape[2], weight.shape[3]

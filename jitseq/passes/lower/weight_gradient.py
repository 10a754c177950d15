"""Gradients of weights and biases, summed over the images of a block.

A node ``conv2d_weight_grad(x, g)`` or ``linear_weight_grad(x, g)`` and its layouts
enter; instructions that add to dw, and to the biases' gradients, leave. Invariant:
outputs are memory that was zeroed before the first block; nothing is overwritten.

A convolution's rows are taps and input channels, its vectors run along output
channels. With more than ``FEW_CHANNELS`` input channels a tile lies in one tap, reads
only pixels inside of the image, and needs no halo. With fewer, tiles span taps. A
linear layer's rows are its outputs; its vectors run along its inputs in memory order.
"""

from __future__ import annotations

import math

from jitseq.ir.compute import Contraction, Phase, Tap, WeightGradient
from jitseq.ir.graph import Value
from jitseq.ir.layout import Factors, Layout, coalesce
from jitseq.ir.program import ELEMENT_BYTES
from jitseq.ir.target import Target
from jitseq.ir.types import TensorType
from jitseq.passes.fusion_group import Group, is_depthwise
from jitseq.passes.lower.depthwise_gradient import DepthwiseGradientEmitter
from jitseq.passes.lower.operands import ELEMENTS, Operands
from jitseq.passes.lower.outer_product import Outer, OuterProduct, Place, Row
from jitseq.passes.lower.problem import Walk, image_count
from jitseq.passes.lower.product_loops import OuterProductEmitter

FEW_CHANNELS = 4
"""Input channels of a group up to which tiles span taps: the rows of one tap would be
too few for the loads of a tile to hide behind its products."""

ONE_VECTOR = 16
"""Output channels up to which a tile has few vectors, and more loads a product: tiles
span the taps of up to ``2 · FEW_CHANNELS - 1`` input channels (6 → 16 channels, 5 × 5:
225 instead of 195 GFLOP/s)."""

UNROLLED_ROWS = 56
"""Rows of out up to which tiles span all taps; beyond, only those of one kernel row,
so that the code stays small."""


def weight_gradient_halo(record: WeightGradient) -> tuple[int, int, int, int]:
    """Rows and columns of zeros (top, bottom, left, right) read around x."""
    forward = record.forward
    (phase,) = forward.phases
    if not (_spans_taps(forward) or is_depthwise(forward)):
        return (0, 0, 0, 0)
    halo = [0, 0, 0, 0]
    last = tuple(s * (c - 1) for s, c in zip(phase.stride, phase.count))
    height, width = forward.in_size
    for tap in phase.taps:
        reach = (-tap.dy, last[0] + tap.dy - height + 1,
                 -tap.dx, last[1] + tap.dx - width + 1)  # fmt: skip
        halo = [max(a, b) for a, b in zip(halo, reach)]
    return (halo[0], halo[1], halo[2], halo[3])


def weight_gradient_layout(
    record: WeightGradient, x_layout: Layout, type: TensorType, target: Target
) -> Layout:
    """How dw lies in memory: ``[i][ky][kx][o]``, or ``[o][i]`` for a linear layer.

    Output channels of a convolution are padded to whole vectors. The inputs of a
    linear layer are dense and in the order in which x holds them.
    """
    if record.forward.weight_axes == "oi":
        outputs, inputs = type.shape
        row = _dense(x_layout.dims[-1])
        return Layout((((outputs, inputs),), row), 0, outputs * inputs)
    outputs, inputs, height, width = type.shape
    lanes = target.lanes(ELEMENTS[type.dtype])
    padded = -(-outputs // lanes) * lanes
    strides = (1, height * width * padded, width * padded, padded)
    dims = tuple(((e, s),) for e, s in zip(type.shape, strides))
    return Layout(dims, 0, inputs * height * width * padded)


def lower_weight_gradient(
    group: Group, record: WeightGradient, operands: Operands, target: Target
) -> None:
    """Emit the loops of one weight gradient and of the bias gradients beside it."""
    assert group.anchor is not None
    x, g = group.anchor.inputs
    operands.read(x)
    operands.read(g)
    operands.write(group.output)
    biases = tuple(node.output for node in group.companions)
    if record.forward.weight_axes == "oi":
        _linear(group.output, x, g, biases, operands, target)
    elif is_depthwise(record.forward):
        DepthwiseGradientEmitter(
            group.output, x, g, biases, record.forward, operands, target
        ).emit()
    else:
        _convolution(group.output, x, g, biases, record.forward, operands, target)


def _spans_taps(record: Contraction) -> bool:
    (phase,) = record.phases
    inputs = record.in_channels // record.groups
    outputs = record.out_channels // record.groups
    few = 2 * FEW_CHANNELS if outputs <= ONE_VECTOR else FEW_CHANNELS + 1
    return inputs < few and len(phase.taps) > 1


def _bytes(operands: Operands, value: Value) -> int:
    size = ELEMENT_BYTES[ELEMENTS[value.type.dtype]]
    return operands.layouts[value].size * size


def _pixel_bytes(x: Value, g: Value, pixels: int) -> int:
    """Bytes of x and g for each pixel of g."""
    size = ELEMENT_BYTES[ELEMENTS[x.type.dtype]]
    inner = [
        value.type.inner_shape if value.type.has_batch else value.type.shape[1:]
        for value in (x, g)
    ]
    return max(1, size * sum(map(math.prod, inner)) // max(pixels, 1))


# convolutions


def _convolution(
    dw: Value,
    x: Value,
    g: Value,
    biases: tuple[Value, ...],
    record: Contraction,
    operands: Operands,
    target: Target,
) -> None:
    (phase,) = record.phases
    assert phase.start == (0, 0) and phase.step == (1, 1)
    source, other = operands.layouts[x], operands.layouts[g]
    out = operands.layouts[dw]
    assert out.stride(0) == 1, "vectors of a weight gradient run along the outputs"
    inputs = record.in_channels // record.groups
    outputs = record.out_channels // record.groups
    rows, places = _rows_and_places(record, source, out)
    outer = Outer(
        record.groups, inputs * source.stride(1), outputs * other.stride(1),
        outputs * out.stride(0), outputs,
    )  # fmt: skip
    stride_y, stride_x = phase.stride
    product = OuterProduct(
        images=image_count(operands.builder, source.dims[0][0][0]),
        size=phase.count,
        a=Walk(
            source.stride(0), stride_y * source.stride(2), stride_x * source.stride(3),
            source.offset,
        ),
        b=Walk(other.stride(0), other.stride(2), other.stride(3), other.offset),
        column=other.stride(1),
        columns=outputs,
        outer=(outer,),
        rows=rows,
        places=places,
        out_offset=out.offset,
        pixel_bytes=_pixel_bytes(x, g, phase.count[0] * phase.count[1]),
    )  # fmt: skip
    buffers = (operands.read(x), operands.read(g), operands.write(dw))
    totals = tuple(operands.write(bias) for bias in biases)
    OuterProductEmitter(
        operands.builder, target, product, buffers, totals, _bytes(operands, dw)
    ).emit()


def _rows_and_places(
    record: Contraction, source: Layout, out: Layout
) -> tuple[tuple[Row, ...], tuple[Place, ...]]:
    """What is unrolled in tiles, and what is looped over."""
    (phase,) = record.phases
    channels = range(record.in_channels // record.groups)
    step, out_step = source.stride(1), out.stride(1)

    def shift(tap: Tap) -> int:
        return tap.dy * source.stride(2) + tap.dx * source.stride(3)

    def target(tap: Tap) -> int:
        return tap.ky * out.stride(2) + tap.kx * out.stride(3)

    if not _spans_taps(record):
        rows = tuple(Row(c * step, c * out_step) for c in channels)
        ranges = [(tap, *_inside(phase, tap, record.in_size)) for tap in phase.taps]
        places = tuple(
            Place(shift(tap), target(tap), (*y, *x))
            for tap, y, x in ranges
            if y[0] < y[1] and x[0] < x[1]
        )
        return rows, places
    taps = phase.taps
    lines = [tuple(tap for tap in taps if tap.ky == ky) for ky in _kernel_rows(taps)]
    if len(taps) * len(channels) <= UNROLLED_ROWS or len(lines) == 1:
        lines = [taps]
    first = lines[0]
    zero = first[0]
    rows = tuple(
        Row(
            shift(tap) - shift(zero) + c * step,
            target(tap) - target(zero) + c * out_step,
        )
        for tap in first
        for c in channels
    )
    whole = (0, phase.count[0], 0, phase.count[1])
    return rows, tuple(Place(shift(line[0]), target(line[0]), whole) for line in lines)


def _kernel_rows(taps: tuple[Tap, ...]) -> list[int]:
    return list(dict.fromkeys(tap.ky for tap in taps))


def _inside(
    phase: Phase, tap: Tap, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The outputs for which a tap reads inside of x, by rows and by columns."""

    def axis(offset: int, stride: int, count: int, extent: int) -> tuple[int, int]:
        first = max(0, -(offset // stride))
        return first, min(count, (extent - 1 - offset) // stride + 1)

    return (
        axis(tap.dy, phase.stride[0], phase.count[0], size[0]),
        axis(tap.dx, phase.stride[1], phase.count[1], size[1]),
    )


# linear layers


def _linear(
    dw: Value,
    x: Value,
    g: Value,
    biases: tuple[Value, ...],
    operands: Operands,
    target: Target,
) -> None:
    source, other = operands.layouts[x], operands.layouts[g]
    out = operands.layouts[dw]
    (walk_x, walk_g), size = _leading(source, other)
    images = source.dims[0][0][0] if source.ndim > 1 else 1
    ((outputs, g_step),) = other.dims[-1]
    assert outputs is not None
    assert out.dims[1] == _dense(source.dims[-1]), "rows of dw are in the order of x"
    *runs, (run, step, _) = _memory_runs(source.dims[-1])
    count = image_count(operands.builder, images)
    place = Place(0, 0, (0, size[0], 0, size[1]))
    product = OuterProduct(
        images=count,
        size=size,
        a=walk_g,
        b=walk_x,
        column=step,
        columns=run,
        outer=tuple(Outer(e, 0, b, o) for e, b, o in runs),
        rows=tuple(Row(o * g_step, o * out.stride(0)) for o in range(outputs)),
        places=(place,),
        out_offset=out.offset,
        pixel_bytes=_pixel_bytes(x, g, size[0] * size[1]),
    )
    buffers = (operands.read(g), operands.read(x), operands.write(dw))
    OuterProductEmitter(
        operands.builder, target, product, buffers, (), _bytes(operands, dw)
    ).emit()
    if biases:
        # vectors of the products run along x, so g's totals are a sum of their own
        totals = OuterProduct(
            count, size, walk_x, walk_g, g_step, outputs, (), (), (place,)
        )
        targets = tuple(operands.write(bias) for bias in biases)
        buffers = (operands.read(x), operands.read(g), targets[0])
        OuterProductEmitter(operands.builder, target, totals, buffers, targets).emit()


def _leading(
    source: Layout, other: Layout
) -> tuple[tuple[Walk, Walk], tuple[int, int]]:
    """All dimensions but the last as images of rows and columns."""
    strides = [
        tuple(layout.stride(dim) for dim in range(layout.ndim - 1))
        for layout in (source, other)
    ]
    extents = [source.dims[dim][0][0] for dim in range(source.ndim - 1)]
    axes = list(zip(extents, *strides, strict=True))[1:]
    merged: list[tuple[int, int, int]] = []
    for extent, a, b in axes:
        assert extent is not None
        if merged and merged[-1][1:] == (extent * a, extent * b):
            extent *= merged.pop()[0]
        merged.append((extent, a, b))
    assert len(merged) <= 2, "leading dimensions of a linear layer are dense"
    rows, columns = ([(1, 0, 0)] * 2 + merged)[-2:]
    image = [s[0] if s else 0 for s in strides]
    walks = (
        Walk(image[0], rows[1], columns[1], source.offset),
        Walk(image[1], rows[2], columns[2], other.offset),
    )
    return walks, (rows[0], columns[0])


def _memory_runs(factors: Factors) -> list[tuple[int, int, int]]:
    """``(extent, stride, dense stride)`` in the order of memory, outermost first."""
    fixed = [(e, s) for e, s in coalesce(factors) if e is not None]
    runs: list[tuple[int, int]] = []
    for extent, stride in sorted(fixed, key=lambda factor: -factor[1]):
        if runs and runs[-1][1] == extent * stride:
            extent *= runs.pop()[0]
        runs.append((extent, stride))
    found: list[tuple[int, int, int]] = []
    dense = 1
    for extent, stride in reversed(runs):
        found.append((extent, stride, dense))
        dense *= extent
    return found[::-1]


def _dense(factors: Factors) -> Factors:
    """The same factors in the same order of memory, without gaps."""
    order = sorted(range(len(factors)), key=lambda k: factors[k][1])
    strides = [0] * len(factors)
    step = 1
    for k in order:
        strides[k] = step
        step *= factors[k][0] or 1
    return coalesce(tuple((e, s) for (e, _), s in zip(factors, strides)))

"""Zeros around images, where convolutions read beyond the edges."""

from __future__ import annotations

from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import Layout
from jitseq.ir.program import Affine, Buffer, Type
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.problem import image_count


def clear_halo(operands: Operands, out: Buffer, layout: Layout, lanes: int) -> None:
    """Zero what surrounds the images that a kernel writes."""
    if not any(layout.halo):
        return
    builder = operands.builder
    images = image_count(builder, layout.dims[0][0][0])
    builder.loop("n", 0, images, 1, lambda n: zero_halo(builder, out, layout, n, lanes))


def zero_halo(
    builder: KernelBuilder, buffer: Buffer, layout: Layout, image: Affine, lanes: int
) -> None:
    """Write the zeros around one image; rows' ends and next rows' starts are joined."""
    top, bottom, left, right = layout.halo
    if not any(layout.halo):
        return
    (_, image_stride), (channels, c_stride), (height, y_stride), (width, x_stride) = (
        factors[0] for factors in layout.dims
    )
    assert channels is not None and height is not None and width is not None
    row = y_stride
    planes, step = (1, 0) if c_stride == 1 else (channels, c_stride)
    origin = layout.offset - top * y_stride - left * x_stride
    ends = [
        (0, top * row + left * x_stride),
        ((top + height) * row - right * x_stride, bottom * row + right * x_stride),
    ]

    def plane(index: Affine) -> None:
        base = image * image_stride + index * step + origin
        for start, count in ends:
            _zeros(builder, buffer, base + start, count, lanes)
        between = (left + right) * x_stride
        if height > 1 and between:
            first = (top + 1) * row - right * x_stride
            joint = base + first
            builder.loop(
                "row", 0, height - 1, 1,
                lambda y: _zeros(builder, buffer, joint + y * row, between, lanes),
            )  # fmt: skip

    builder.loop("plane", 0, planes, 1, plane)


def _zeros(
    builder: KernelBuilder, buffer: Buffer, start: Affine, count: int, lanes: int
) -> None:
    if count == 0:
        return
    zero = builder.const(0.0, Type(buffer.element, lanes))
    whole = count // lanes * lanes
    if whole > 8 * lanes:
        builder.loop(
            "i", 0, whole, lanes, lambda i: builder.store(buffer, start + i, zero)
        )
    else:
        for i in range(0, whole, lanes):
            builder.store(buffer, start + i, zero)
    if count > whole:
        builder.store(buffer, start + whole, zero, count - whole)

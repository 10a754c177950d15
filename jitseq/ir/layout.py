"""Where the elements of a value lie in memory.

Each logical dimension is a tuple of factors ``(extent, stride)``, outermost first, so
that reshapes of channels-last images cost nothing: flattening ``[n, C, H, W]`` held as
``n·H·W·C`` gives the second dimension the factors of C, H and W. Strides count
elements. The extent of a symbolic batch is None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jitseq.ir.types import TensorType

Factor = tuple[int | None, int]
Factors = tuple[Factor, ...]


@dataclass(frozen=True)
class Layout:
    """Factors by logical dimension, the first element's offset, elements an image.

    ``halo`` is (top, bottom, left, right) rows and columns of zeros around an image.
    """

    dims: tuple[Factors, ...]
    offset: int
    size: int
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def ndim(self) -> int:
        return len(self.dims)

    def stride(self, dim: int) -> int:
        """The stride of a dimension that is one factor."""
        ((_, stride),) = self.dims[dim]
        return stride

    def is_simple(self, dim: int) -> bool:
        return len(self.dims[dim]) == 1

    @property
    def contiguous(self) -> bool:
        """Whether the logical order is the memory order, without gaps."""
        expected = 1
        for factors in reversed(self.dims):
            for extent, stride in reversed(factors):
                if extent is None:
                    return stride == expected
                if extent != 1 and stride != expected:
                    return False
                expected *= extent
        return True


def extents(type: TensorType) -> tuple[int | None, ...]:
    """The shape, with None for the symbolic batch."""
    inner = type.inner_shape
    return (None, *inner) if type.has_batch else inner


def row_major(type: TensorType) -> Layout:
    """Logical order is memory order."""
    return ordered(type, range(type.ndim))


def ordered(type: TensorType, order: object) -> Layout:
    """Dense, with the dimensions of ``order`` from outermost to innermost."""
    shape = extents(type)
    strides = [0] * len(shape)
    step = 1
    for dim in reversed(list(order)):  # type: ignore[call-overload]
        strides[dim] = step
        step *= shape[dim] if shape[dim] is not None else 1
    dims = tuple(((extent, stride),) for extent, stride in zip(shape, strides))
    return Layout(dims, 0, step)


def channels_last(
    type: TensorType, halo: tuple[int, int, int, int], pad_image: bool = True
) -> Layout:
    """``[n, C, H, W]`` held as ``n·(H+halo)·(W+halo)·C``.

    Images whose distance is a multiple of 4 KiB share cache sets: those get a
    cache line more, when ``pad_image``.
    """
    _, channels, height, width = extents(type)
    assert channels is not None and height is not None and width is not None
    return _image(type, halo, (1, channels), pad_image)


def planar(type: TensorType, halo: tuple[int, int, int, int]) -> Layout:
    """``[n, C, H, W]`` in its logical order, with a halo around each plane."""
    return _image(type, halo, None, True)


def _image(
    type: TensorType,
    halo: tuple[int, int, int, int],
    pixel: tuple[int, int] | None,
    pad_image: bool,
) -> Layout:
    images, channels, height, width = extents(type)
    assert channels is not None and height is not None and width is not None
    top, bottom, left, right = halo
    rows, columns = height + top + bottom, width + left + right
    channel_stride, x_stride = pixel if pixel else (rows * columns, 1)
    y_stride = columns * x_stride
    image = rows * columns * channels
    if pad_image and images != 1 and image % 1024 == 0:
        image += 16
    strides = (image, channel_stride, y_stride, x_stride)
    dims = tuple(((e, s),) for e, s in zip((images, channels, height, width), strides))
    offset = top * y_stride + left * x_stride
    size = image if images is None else image * images
    return Layout(dims, offset, size, halo)


def coalesce(factors: Factors) -> Factors:
    """Merge neighbours that are one run of memory; drop extents of 1."""
    merged: list[Factor] = []
    for extent, stride in factors:
        if extent == 1:
            continue
        if merged and extent is not None and merged[-1][1] == extent * stride:
            outer = merged.pop()[0]
            merged.append((outer * extent if outer is not None else None, stride))
            continue
        merged.append((extent, stride))
    return tuple(merged) or ((1, 0),)


def reshape_layout(layout: Layout, type: TensorType) -> Layout | None:
    """The same memory seen with another shape; None where strides cannot say it.

    Factors are dealt out from the innermost one; a factor is split where a dimension
    takes only a part of it.
    """
    shape = extents(type)
    dims = layout.dims
    batch: tuple[Factors, ...] = ()
    if type.has_batch:
        batch, dims, shape = dims[:1], dims[1:], shape[1:]
    joined = coalesce(tuple(factor for factors in dims for factor in factors))
    flat = [factor for factor in joined if factor[0] != 1]
    result: list[Factors] = []
    for extent in reversed(shape):
        assert extent is not None
        taken = _take(flat, extent)
        if taken is None:
            return None
        result.append(taken)
    return replace(layout, dims=batch + tuple(reversed(result)), halo=(0, 0, 0, 0))


def _take(flat: list[Factor], extent: int) -> Factors | None:
    """Remove factors worth ``extent`` from the end of ``flat``."""
    taken: list[Factor] = []
    while extent > 1:
        inner, stride = flat.pop()
        assert inner is not None
        if extent % inner == 0:
            taken.append((inner, stride))
            extent //= inner
        elif inner % extent == 0:
            taken.append((extent, stride))
            flat.append((inner // extent, stride * extent))
            extent = 1
        else:
            return None
    return coalesce(tuple(reversed(taken)))


def element_count(type: TensorType) -> int:
    """Elements of one image, or of everything without a symbolic batch."""
    return math.prod(type.inner_shape)

"""What kernels ask of the layouts of their tensors, and which ones they prefer.

Nodes, types and layouts enter; halos, answers and layouts leave. Invariant: nothing
here depends on what other kernels need; `layout` weighs that.
"""

from __future__ import annotations

from dataclasses import replace

from jitseq.ir.compute import Contraction, WeightGradient
from jitseq.ir.graph import Node
from jitseq.ir.layout import Layout, coalesce
from jitseq.ir.types import TensorType
from jitseq.passes.fusion_group import compute_of, is_depthwise, is_linear
from jitseq.passes.lower.problem import static_phase
from jitseq.passes.lower.weight_gradient import weight_gradient_halo

Halo = tuple[int, int, int, int]
NO_HALO: Halo = (0, 0, 0, 0)


def needed_halo(node: Node) -> Halo:
    """Rows and columns of zeros that a convolution reads around its input."""
    record = compute_of(node)
    if isinstance(record, WeightGradient):
        return weight_gradient_halo(record)
    if not isinstance(record, Contraction) or is_linear(record):
        return NO_HALO
    height, width = record.in_size
    halo = [0, 0, 0, 0]
    for phase in record.phases:
        if not is_depthwise(record) and static_phase(phase, record.in_size):
            continue
        last = tuple(s * (c - 1) for s, c in zip(phase.stride, phase.count))
        for tap in phase.taps:
            reach = (-tap.dy, last[0] + tap.dy - height + 1,
                     -tap.dx, last[1] + tap.dx - width + 1)  # fmt: skip
            halo = [max(a, b) for a, b in zip(halo, reach)]
    return (halo[0], halo[1], halo[2], halo[3])


def covers(halo: Halo, needed: Halo) -> bool:
    return all(a >= b for a, b in zip(halo, needed))


def is_simple(layout: Layout) -> bool:
    return all(layout.is_simple(dim) for dim in range(layout.ndim))


def is_image(type: TensorType) -> bool:
    return type.ndim == 4


def has_channels_last(type: TensorType, layout: Layout) -> bool:
    """Whether vectors of channels can be loaded."""
    channels, height, width = type.shape[1:]
    return is_simple(layout) and (
        layout.stride(1) == 1 or channels == 1 or (height == 1 and width == 1)
    )


def has_channels_last_rows(type: TensorType, layout: Layout) -> bool:
    """Whether axis 1 of images or rows is contiguous."""
    return is_simple(layout) and layout.stride(1) == 1


def is_last(type: TensorType, layout: Layout) -> bool:
    if not is_simple(layout) or any(layout.halo):
        return True
    return not layout.contiguous


def padded_rows(layout: Layout) -> Layout:
    """Rows whose distance is a multiple of 4 KiB share cache sets: move them apart."""
    ((extent, stride),) = layout.dims[0]
    if layout.ndim != 2 or extent == 1 or stride % 1024:
        return layout
    size = (layout.size // stride) * (stride + 16)
    return replace(layout, dims=(((extent, stride + 16),), layout.dims[1]), size=size)


def dense_like(layout: Layout) -> Layout:
    """The same order of factors without gaps."""
    flat = [
        (d, k, extent)
        for d, factors in enumerate(layout.dims)
        for k, (extent, _) in enumerate(factors)
    ]
    order = sorted(
        flat,
        key=lambda item: (
            layout.dims[item[0]][item[1]][1] if item[2] is not None else 1 << 62
        ),
    )
    strides: dict[tuple[int, int], int] = {}
    step = 1
    for d, k, extent in order:
        strides[(d, k)] = step
        step *= extent or 1
    dims = tuple(
        tuple((extent, strides[(d, k)]) for k, (extent, _) in enumerate(factors))
        for d, factors in enumerate(layout.dims)
    )
    return Layout(
        tuple(coalesce(dim) if len(dim) > 1 else dim for dim in dims), 0, step
    )

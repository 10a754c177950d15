"""Loop nests over aligned views: pointwise kernels and copies.

A `View` is memory seen with the shape of the output. The nest runs over the common
refinement of all views' factors, outermost first by the output's strides, with
vectors along the innermost loop. Where reading and writing run along different axes,
blocks of L×L elements are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import Factors, Layout
from jitseq.ir.program import Affine, Buffer, Reg, Type, affine


@dataclass(frozen=True)
class View:
    """A buffer with a factor list for each dimension of the nest."""

    buffer: Buffer
    offset: int
    dims: tuple[Factors, ...]


def view(buffer: Buffer, layout: Layout) -> View:
    return View(buffer, layout.offset, layout.dims)


def broadcast_view(buffer: Buffer, layout: Layout, target: Layout) -> View:
    """``layout`` seen with the shape of ``target``: absent or unit axes do not move."""
    shift = target.ndim - layout.ndim
    dims: list[Factors] = []
    for d, factors in enumerate(target.dims):
        own = layout.dims[d - shift] if d >= shift else ((1, 0),)
        unit = all(extent == 1 for extent, _ in own)
        dims.append(tuple((extent, 0) for extent, _ in factors) if unit else own)
    return View(buffer, layout.offset, tuple(dims))


@dataclass(frozen=True)
class Axis:
    """One loop of a nest: its extent, and the stride of each view."""

    extent: Affine
    strides: tuple[int, ...]

    @property
    def fixed(self) -> int | None:
        return None if self.extent.terms else self.extent.const


def refine(builder: KernelBuilder, views: Sequence[View]) -> list[Axis]:
    """The loops over all elements, outermost first; ``views[0]`` is the output."""
    axes: list[Axis] = []
    for d in range(len(views[0].dims)):
        axes += _refine_dim(builder, [view.dims[d] for view in views])
    axes = [axis for axis in axes if axis.fixed != 1]
    axes.sort(key=lambda axis: (axis.fixed is not None, -axis.strides[0]))
    merged: list[Axis] = []
    for axis in axes:
        inner = axis.fixed
        if merged and inner is not None:
            outer = merged[-1]
            if all(a == b * inner for a, b in zip(outer.strides, axis.strides)):
                merged[-1] = Axis(outer.extent * inner, axis.strides)
                continue
        merged.append(axis)
    return merged


def _refine_dim(builder: KernelBuilder, dims: Sequence[Factors]) -> list[Axis]:
    """Split factors until all views have the same extents, from the innermost one."""
    if dims[0] and dims[0][0][0] is None:
        return [Axis(affine(builder.count), tuple(factors[0][1] for factors in dims))]
    pending = [list(factors) for factors in dims]
    found: list[Axis] = []
    while any(pending):
        for factors in pending:
            while factors and factors[-1][0] == 1:
                factors.pop()
        if not any(pending):
            break
        extent = min(factors[-1][0] or 1 for factors in pending)
        strides = []
        for factors in pending:
            size, stride = factors.pop()
            assert size is not None and size % extent == 0, "views do not refine"
            strides.append(stride)
            if size != extent:
                factors.append((size // extent, stride * extent))
        found.append(Axis(affine(extent), tuple(strides)))
    return found[::-1]


Body = Callable[[list[Affine], Type, int | None, tuple[int, ...]], None]


def emit_nest(
    builder: KernelBuilder, views: Sequence[View], lanes: int, body: Body
) -> None:
    """Run ``body(offsets, type, valid, lane strides)`` over all elements.

    ``offsets`` are the views' element indices of lane 0.
    """
    axes = refine(builder, views)
    element = views[0].buffer.element
    starts = [affine(view.offset) for view in views]
    _loops(builder, axes, starts, Type(element, lanes), body)


def _loops(
    builder: KernelBuilder, axes: list[Axis], at: list[Affine], type: Type, body: Body
) -> None:
    if not axes:
        body(at, Type(type.element), None, (0,) * len(at))
        return
    axis = axes[0]

    def moved(index: Affine) -> list[Affine]:
        return [a + index * stride for a, stride in zip(at, axis.strides, strict=True)]

    if len(axes) > 1:
        builder.loop(
            "i",
            0,
            axis.extent,
            1,
            lambda i: _loops(builder, axes[1:], moved(i), type, body),
        )
        return
    scalar = Type(type.element)
    if axis.strides[0] != 1:
        builder.loop(
            "i", 0, axis.extent, 1, lambda i: body(moved(i), scalar, None, axis.strides)
        )
        return
    whole = builder.round_down(axis.extent, type.lanes)
    builder.loop(
        "i", 0, whole, type.lanes, lambda i: body(moved(i), type, None, axis.strides)
    )
    if axis.fixed is None:
        builder.loop(
            "i",
            whole,
            axis.extent,
            1,
            lambda i: body(moved(i), scalar, None, axis.strides),
        )
    elif axis.fixed % type.lanes:
        rest = axis.fixed % type.lanes
        body(moved(whole), type, rest, axis.strides)


def emit_copy(builder: KernelBuilder, out: View, source: View, lanes: int) -> None:
    """Copy elements; transposes blocks where the contiguous axes differ."""
    axes = refine(builder, [out, source])
    inner = next((a for a in axes if a.strides[0] == 1), None)
    along = next((a for a in axes if a.strides[1] == 1 and a.strides[0] != 1), None)
    crossing = inner is not None and inner.strides[1] > 1 and along is not None
    if crossing and inner and along and inner.fixed and along.fixed and lanes > 1:
        outer = [axis for axis in axes if axis not in (inner, along)]
        at = [affine(out.offset), affine(source.offset)]
        _transposed(builder, outer, (inner, along), at, (out, source), lanes)
        return

    def body(
        at: list[Affine], type: Type, valid: int | None, strides: tuple[int, ...]
    ) -> None:
        value = builder.gather(source.buffer, at[1], type, strides[1], valid)
        builder.store(out.buffer, at[0], value, valid)

    emit_nest(builder, [out, source], lanes, body)


def _transposed(
    builder: KernelBuilder,
    outer: list[Axis],
    crossing: tuple[Axis, Axis],
    at: list[Affine],
    views: tuple[View, View],
    lanes: int,
) -> None:
    """Blocks of ``lanes × lanes``; the last block overlaps its neighbour."""
    if outer:
        axis = outer[0]

        def inside(i: Affine) -> None:
            moved = [a + i * s for a, s in zip(at, axis.strides, strict=True)]
            _transposed(builder, outer[1:], crossing, moved, views, lanes)

        builder.loop("i", 0, axis.extent, 1, inside)
        return
    inner, along = crossing
    rows, columns = inner.fixed or 1, along.fixed or 1
    type = Type(views[0].buffer.element, lanes)

    def block(i: Affine, j: Affine) -> None:
        i, j = (
            _overlapping(builder, i, rows, lanes),
            _overlapping(builder, j, columns, lanes),
        )
        start = at[1] + i * inner.strides[1] + j
        zero = builder.const(0.0, type)
        loaded: list[Reg] = [
            builder.load(
                views[1].buffer, start + k * inner.strides[1], type, min(columns, lanes)
            )
            if k < rows
            else zero
            for k in range(lanes)
        ]
        turned = builder.transpose(loaded)
        target = at[0] + i + j * along.strides[0]
        for k in range(min(columns, lanes)):
            index = target + k * along.strides[0]
            builder.store(views[0].buffer, index, turned[k], min(rows, lanes))

    builder.loop(
        "j", 0, columns, lanes,
        lambda j: builder.loop("i", 0, rows, lanes, lambda i: block(i, j)),
    )  # fmt: skip


def _overlapping(
    builder: KernelBuilder, index: Affine, extent: int, lanes: int
) -> Affine:
    if extent <= lanes:
        return affine(0)
    if extent % lanes == 0:
        return index
    return builder.minimum_index(index, extent - lanes)


def part(view: View, dim: int, start: int, extent: int) -> View:
    """``extent`` positions of a simple dimension, from ``start``."""
    ((_, stride),) = view.dims[dim]
    dims = (*view.dims[:dim], ((extent, stride),), *view.dims[dim + 1 :])
    return replace(view, offset=view.offset + start * stride, dims=dims)

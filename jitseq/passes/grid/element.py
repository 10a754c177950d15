"""Elements by number: where a thread's element lies in each operand.

A number enters, the place of an element in row-major order; affine indices leave.
Invariant: a division is made only where an operand needs it, and once; dimensions that
lie in memory as one run count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jitseq.ir.graph import Node, Value
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.kernel_builder import Index
from jitseq.ir.layout import Layout
from jitseq.ir.program import Affine, Launch, Reg, Type, affine
from jitseq.passes.grid.lowered import GridOperands
from jitseq.passes.lower.operands import Epilogue

Extents = Sequence[int | None]
"""A shape; the first extent is None where it is the batch."""


class Element:
    """An element of a tensor of ``extents``, none of which is 0, by its number."""

    def __init__(self, builder: GridBuilder, number: Index, extents: Extents) -> None:
        self.builder = builder
        self.number = affine(number)
        self.extents = tuple(extents)
        self._parts: dict[tuple[int, int | None], Affine] = {}

    def at(self, strides: Sequence[int]) -> Affine:
        """``Σ stride · coordinate`` over all dimensions."""
        index = affine(0)
        inner = 1
        for extent, stride in self._runs(strides):
            if stride:
                index = index + self._part(inner, extent) * stride
            inner *= 1 if extent is None else extent
        return index

    def coordinate(self, dim: int) -> Affine:
        """The index along one dimension."""
        return self.at([int(d == dim) for d in range(len(self.extents))])

    def _runs(self, strides: Sequence[int]) -> list[tuple[int | None, int]]:
        """Extent and stride, innermost first, of dimensions that count as one."""
        runs: list[tuple[int | None, int]] = []
        pairs = zip(reversed(self.extents), reversed(strides), strict=True)
        for extent, stride in pairs:
            if extent == 1:
                continue
            known, step = runs[-1] if runs else (None, 0)
            if known is not None and stride == known * step:
                runs[-1] = (None if extent is None else known * extent, step)
            else:
                runs.append((extent, stride))
        return runs

    def _part(self, inner: int, extent: int | None) -> Affine:
        """``number // inner % extent``."""
        if (inner, extent) not in self._parts:
            found = self.builder.quotient(self.number, inner)
            if extent is not None and not self._is_outermost(inner * extent):
                found = self.builder.remainder(found, extent)
            self._parts[(inner, extent)] = found
        return self._parts[(inner, extent)]

    def _is_outermost(self, elements: int) -> bool:
        """Whether no dimension lies outside of the innermost ``elements``."""
        total = 1
        for extent in self.extents:
            if extent is None:
                return False
            total *= extent
        return elements == total


def broadcast_strides(layout: Layout, ndim: int) -> tuple[int, ...]:
    """An operand's stride for each of ``ndim`` dimensions; 0 where it is repeated."""
    strides = [0] * (ndim - layout.ndim)
    for dim in layout.dims:
        ((extent, stride),) = dim
        strides.append(0 if extent == 1 else stride)
    return tuple(strides)


Place = Callable[[Sequence[int]], Affine]
"""Strides by dimension -> the index of an element; `Element.at` is one."""


def apply_at(
    operands: GridOperands,
    nodes: Sequence[Node],
    known: Mapping[Value, Reg],
    type: Type,
    place: Place,
    mask: Reg | None = None,
) -> Reg:
    """The result of pointwise ``nodes`` at a place, given the registers of some values.

    The operands are read where ``mask`` is true (or None).
    """

    def fetch(value: Value, shape: Sequence[object]) -> Reg:
        strides = broadcast_strides(operands.layouts[value], len(shape))
        return operands.load_where(mask, value, place(strides), type)

    return Epilogue(operands.builder, nodes).apply(known, type, fetch)


def each_item(
    builder: GridBuilder, launch: Launch, body: Callable[[Affine], None]
) -> None:
    """``body(number)`` for the items of this thread.

    Neighbouring threads have neighbouring items.
    """
    start = builder.block() * launch.items_per_block + builder.thread()
    total = affine(launch.items)
    if launch.per_image:
        total = affine(builder.count) * launch.items
    whole = not launch.per_image and launch.items % launch.items_per_block == 0
    for first in range(0, launch.items_per_block, launch.threads):
        number = start + first
        if whole:
            body(number)
        else:
            builder.when(builder.below(number, total), partial(body, number))

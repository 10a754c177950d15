"""Sums and means → kernels that walk memory in order.

Enters a `Reduction` of kind ``sum`` or ``mean`` with the layouts of both tensors.
Vectors run along the contiguous axis: where it is reduced, lanes are combined at the
end; where it is not, each lane is a sum of its own. Several sums run at a time, since
one chain of additions would wait for each result, and no chain of float additions is
longer than `CHAIN`. Invariant: a sum over the symbolic batch is added to what the
output holds, because a kernel sees one block of images only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jitseq.ir.compute import Reduction
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Affine, Buffer, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.lower.problem import image_count
from jitseq.passes.lower.sum_operand import Load, SumOperand

CHAIN = 1024
"""Additions to one register before it is put aside: the error of a chain grows with
its length."""

SUMS_AT_ONCE = 8
"""Two additions a cycle, each of which takes up to four, keep eight registers busy."""

EXPECTED_IMAGES = 64


@dataclass(frozen=True)
class Axis:
    """One loop: its extent, its strides in input and output, whether it is summed."""

    count: Affine
    stride: int
    out_stride: int
    reduced: bool

    @property
    def fixed(self) -> int | None:
        return None if self.count.terms else self.count.const

    @property
    def expected(self) -> int:
        """The extent, for a usual number of images."""
        images = sum(c for _, c in self.count.terms)
        return self.count.const + images * EXPECTED_IMAGES


def lower_sum(
    builder: KernelBuilder,
    record: Reduction,
    source: SumOperand,
    out: tuple[Buffer, tuple[int, ...], int],
    target: Target,
) -> None:
    """Add up the elements of ``source`` along ``record.axes``.

    ``out`` is a buffer with its stride for each dimension of the input and its offset.
    """
    layout = source.layout
    extents = [layout.dims[d][0][0] for d in range(layout.ndim)]
    axes = [
        Axis(
            image_count(builder, extent), layout.stride(d), out[1][d], d in record.axes
        )
        for d, extent in enumerate(extents)
        if extent != 1
    ]
    over_batch = any(extents[d] is None for d in record.axes)
    terms = math.prod(extents[d] or 1 for d in record.axes)
    divisor = terms if record.kind == "mean" else 1
    assert divisor == 1 or not over_batch
    summation = _Sum(builder, _merged(axes), source, out[0], target)
    summation.emit(affine(layout.offset), affine(out[2]), divisor, over_batch)


def _merged(axes: Sequence[Axis]) -> list[Axis]:
    """Outermost first; neighbours that are one run of memory become one loop."""
    merged: list[Axis] = []
    for axis in sorted(axes, key=lambda a: (a.fixed is not None, -a.stride)):
        if merged and axis.fixed is not None and merged[-1].reduced == axis.reduced:
            outer = merged[-1]
            joined = (axis.stride * axis.fixed, axis.out_stride * axis.fixed)
            if (outer.stride, outer.out_stride) == joined:
                count = outer.count * axis.fixed
                merged[-1] = Axis(count, axis.stride, axis.out_stride, axis.reduced)
                continue
        merged.append(axis)
    return merged


class _Sum:
    def __init__(
        self,
        builder: KernelBuilder,
        axes: Sequence[Axis],
        source: SumOperand,
        out: Buffer,
        target: Target,
    ) -> None:
        self.b = builder
        self.source = source
        self.out = out
        self.lanes = target.lanes(source.element)
        along = [a for a in axes if a.stride == 1 and (a.reduced or a.out_stride == 1)]
        self.vector = along[0] if along else None
        self.kept = [a for a in axes if not a.reduced and a is not self.vector]
        self.reduced = [a for a in axes if a.reduced and a is not self.vector]

    def emit(self, at: Affine, out: Affine, divisor: int, adds: bool) -> None:
        """Loop over the results; ``at`` and ``out`` are the first elements."""
        self.divisor = divisor
        self.adds = adds
        self._results(self.kept, at, out)

    def _results(self, axes: Sequence[Axis], at: Affine, out: Affine) -> None:
        if axes:
            axis = axes[0]
            self.b.loop(
                "r", 0, axis.count, 1,
                lambda i: self._results(
                    axes[1:], at + i * axis.stride, out + i * axis.out_stride
                ),
            )  # fmt: skip
            return
        vector = self.vector
        if vector is None:
            self._elements([(0, None)], 1, at, out)
        elif vector.reduced:
            self._row(vector, at, out)
        else:
            self._lanes(vector, at, out)

    # each lane a sum of its own

    def _lanes(self, axis: Axis, at: Affine, out: Affine) -> None:
        """A few vectors at a time; the last one is partial, or single elements."""
        lanes = self.lanes
        whole = self.b.round_down(axis.count, lanes)
        size = axis.fixed
        if size is None:
            one = [(0, None)]
            self._blocks(affine(0), whole, lanes, lanes, one, at, out)
            self._blocks(whole, axis.count, 1, 1, one, at, out)
            return
        step = SUMS_AT_ONCE * lanes
        done = size // step * step
        several = [(k * lanes, None) for k in range(SUMS_AT_ONCE)]
        self._blocks(affine(0), affine(done), step, lanes, several, at, out)
        rest = [
            (start - done, size - start if size - start < lanes else None)
            for start in range(done, size, lanes)
        ]
        if rest:
            self._elements(rest, lanes, at + done, out + done)

    def _blocks(
        self,
        start: Affine,
        stop: Affine,
        step: int,
        lanes: int,
        vectors: Sequence[tuple[int, int | None]],
        at: Affine,
        out: Affine,
    ) -> None:
        self.b.loop(
            "c", start, stop, step,
            lambda c: self._elements(vectors, lanes, at + c, out + c),
        )  # fmt: skip

    def _elements(
        self,
        vectors: Sequence[tuple[int, int | None]],
        lanes: int,
        at: Affine,
        out: Affine,
    ) -> None:
        """The sums of ``vectors``, which are (elements from ``at``, valid lanes)."""
        type = Type(self.source.element, lanes)

        loads = [self.source.channel(out + c, type, v) for c, v in vectors]

        def add(at: Affine, sums: Sequence[Reg]) -> list[Reg]:
            loaded = [load(at + c, type, v) for load, (c, v) in zip(loads, vectors)]
            return list(map(self._add, sums, loaded))

        totals = self._total(self.reduced, at, [self._zero(type)] * len(vectors), add)
        for (c, valid), total in zip(vectors, totals, strict=True):
            self._store(out + c, total, valid)

    # lanes that are added up at the end

    def _row(self, axis: Axis, at: Affine, out: Affine) -> None:
        """One result: whole vectors, then what is left of each row."""
        type = Type(self.source.element, self.lanes)
        whole = self.b.round_down(axis.count, self.lanes)
        vectors = Axis(whole, 1, 0, True)
        load = self.source.channel(out, type, None)

        def add(at: Affine, sums: Sequence[Reg]) -> list[Reg]:
            return [self._add(sums[0], load(at, type, None))]

        def rest(at: Affine, sums: Sequence[Reg]) -> list[Reg]:
            return [self._add(sums[0], self._left(axis, at + whole, type, load))]

        total = self._zero(type)
        if axis.fixed is None or axis.fixed >= self.lanes:
            along = [*self.reduced, vectors]
            (total,) = self._total(along, at, [total], add, self.lanes)
        if self.lanes > 1 and (axis.fixed is None or axis.fixed % self.lanes):
            (total,) = self._total(self.reduced, at, [total], rest)
        self._store(out, self.b.reduce("add", total), None)

    def _left(self, axis: Axis, at: Affine, type: Type, load: Load) -> Reg:
        """Fewer elements than lanes, as a vector whose lanes add up to their sum."""
        if axis.fixed is not None:
            return load(at, type, axis.fixed % self.lanes)
        scalar = Type(type.element)
        count = axis.count + self.b.round_down(axis.count, self.lanes) * -1
        (total,) = self.b.fold(
            "k", 0, count, 1, [self._zero(scalar)],
            lambda i, sums: [self._add(sums[0], load(at + i, scalar, None))],
        )  # fmt: skip
        return self.b.first_lanes(self.b.splat(total, type), self._zero(type), 1)

    # chains of additions

    def _total(
        self,
        axes: Sequence[Axis],
        at: Affine,
        start: Sequence[Reg],
        add: Callable[[Affine, Sequence[Reg]], list[Reg]],
        step: int = 1,
    ) -> list[Reg]:
        """``start`` and what ``add(at, sums)`` adds along all axes.

        Along the innermost one several positions, ``step`` apart, have sums of their
        own.
        """
        if not axes:
            return add(at, start)
        width = len(start)
        positions = -(-SUMS_AT_ONCE // width)
        inner = axes[-1]
        if inner.fixed is not None:
            positions = max(1, min(positions, inner.fixed // step))
        group = positions * step
        zeros = [self._zero(start[0].type)] * (width * positions)

        def along(
            first: Affine, stop: Affine, at: Affine, sums: Sequence[Reg]
        ) -> list[Reg]:
            def several(i: Affine, sums: Sequence[Reg]) -> list[Reg]:
                found: list[Reg] = []
                for k in range(positions):
                    place = at + (i + k * step) * inner.stride
                    found += add(place, sums[k * width : (k + 1) * width])
                return found

            def single(i: Affine, sums: Sequence[Reg]) -> list[Reg]:
                return add(at + i * inner.stride, sums)

            whole = self.b.round_down(stop, group)
            sums = self.b.fold("k", first, whole, group, sums, several)
            if positions > 1 and (stop.terms or stop.const % group):
                rest = self.b.fold("k", whole, stop, step, sums[:width], single)
                sums = [*rest, *sums[width:]]
            return list(sums)

        def innermost(at: Affine, sums: Sequence[Reg]) -> list[Reg]:
            piece = CHAIN * group
            if inner.fixed is not None and inner.fixed <= piece:
                return along(affine(0), inner.count, at, sums)

            def block(i: Affine, sums: Sequence[Reg]) -> list[Reg]:
                stop = self.b.minimum_index(i + piece, inner.count)
                return list(map(self._add, sums, along(i, stop, at, zeros)))

            return list(self.b.fold("b", 0, inner.count, piece, sums, block))

        body = innermost
        length = min(CHAIN, -(-inner.expected // group))
        for axis in reversed(axes[:-1]):
            length *= axis.expected
            fresh = length > CHAIN
            body = partial(self._level, axis, body, zeros if fresh else None)
            length = axis.expected if fresh else length
        sums = body(at, zeros)
        while len(sums) > width:
            half = -(-(len(sums) // width) // 2) * width
            pairs = [self._add(a, b) for a, b in zip(sums, sums[half:])]
            sums = [*pairs, *sums[len(pairs) : half]]
        return list(map(self._add, start, sums))

    def _level(
        self,
        axis: Axis,
        body: Callable[[Affine, Sequence[Reg]], list[Reg]],
        zeros: Sequence[Reg] | None,
        at: Affine,
        sums: Sequence[Reg],
    ) -> list[Reg]:
        """The inner loops for each position; from ``zeros`` where they are long."""

        def step(i: Affine, sums: Sequence[Reg]) -> list[Reg]:
            place = at + i * axis.stride
            if zeros is None:
                return body(place, sums)
            return list(map(self._add, sums, body(place, zeros)))

        return list(self.b.fold("k", 0, axis.count, 1, sums, step))

    def _zero(self, type: Type) -> Reg:
        return self.b.const(0.0, type)

    def _add(self, a: Reg, b: Reg) -> Reg:
        return self.b.binary("add", a, b)

    def _store(self, out: Affine, total: Reg, valid: int | None) -> None:
        if self.divisor != 1:
            divisor = self.b.const(self.divisor, total.type)
            total = self.b.binary("div", total, divisor)
        if self.adds:
            total = self._add(self.b.load(self.out, out, total.type, valid), total)
        self.b.store(self.out, out, total, valid)

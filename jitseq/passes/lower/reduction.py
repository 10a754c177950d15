"""Softmax, log-softmax and maxima → kernels; sums and means are in `summation`.

Vectors run along the contiguous axis: where it is reduced, lanes are combined at the
end of a row; where it is not, each lane reduces a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitseq.ir.compute import Reduction
from jitseq.ir.kernel_builder import KernelBuilder, Vector, VectorScalars
from jitseq.ir.layout import Layout
from jitseq.ir.program import Affine, Buffer, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.problem import image_count
from jitseq.passes.lower.sum_operand import SumOperand
from jitseq.passes.lower.summation import lower_sum


def lower_reduction(
    group: Group, record: Reduction, operands: Operands, target: Target
) -> None:
    """Loop over the rows that are kept; reduce each.

    What is summed over the symbolic batch is added to the output.
    """
    node = group.anchor
    assert node is not None
    out, result = operands.write(node.output), operands.layouts[node.output]
    clear_halo(operands, out, result, target.lanes(out.element))
    builder = operands.builder
    if record.kind in ("sum", "mean"):
        source = SumOperand(group, operands)
        strides = _result_strides(result, record, source.layout.ndim, False)
        placed = (out, strides, result.offset)
        lower_sum(builder, record, source, placed, target)
        return
    rows = (operands.read(node.inputs[0]), operands.layouts[node.inputs[0]])
    _Rows(builder, record, rows, (out, result), target).emit()


class _Rows:
    def __init__(
        self,
        builder: KernelBuilder,
        record: Reduction,
        source: tuple[Buffer, Layout],
        out: tuple[Buffer, Layout],
        target: Target,
    ) -> None:
        self.b = builder
        self.record = record
        self.source, self.layout = source
        self.out, result = out
        keeps = record.kind.endswith("softmax")
        self.reduced = [d for d in record.axes]
        self.kept = [d for d in range(self.layout.ndim) if d not in record.axes]
        self.out_strides = _result_strides(result, record, self.layout.ndim, keeps)
        self.out_offset = result.offset
        self.lanes = target.lanes(self.source.element)
        self.vector_dim = self._vector_dim()

    def extent(self, dim: int) -> Affine:
        return image_count(self.b, self.layout.dims[dim][0][0])

    def _vector_dim(self) -> int | None:
        """A static dimension that is contiguous in the input (and in the output)."""
        for dim in range(self.layout.ndim):
            extent, stride = self.layout.dims[dim][0]
            if extent in (None, 1) or stride != 1:
                continue
            if self.out_strides[dim] in (0, 1):
                return dim
        return None

    @property
    def along_reduction(self) -> bool:
        return self.vector_dim in self.reduced

    def emit(self) -> None:
        outer = [d for d in self.kept if d != self.vector_dim]
        start = affine(self.layout.offset)
        self._outer(outer, start, affine(self.out_offset))

    def _outer(self, dims: list[int], at: Affine, out: Affine) -> None:
        if dims:
            dim = dims[0]
            stride, out_stride = self.layout.stride(dim), self.out_strides[dim]
            self.b.loop(
                "r", 0, self.extent(dim), 1,
                lambda i: self._outer(dims[1:], at + i * stride, out + i * out_stride),
            )  # fmt: skip
            return
        if self.vector_dim is None or self.along_reduction:
            lanes = self.lanes if self.along_reduction else 1
            self._row(at, out, Type(self.source.element, lanes), None)
            return
        type = Type(self.source.element, self.lanes)
        extent = self.layout.dims[self.vector_dim][0][0] or 1
        whole = extent // self.lanes * self.lanes
        self.b.loop(
            "c", 0, whole, self.lanes,
            lambda i: self._row(at + i, out + i, type, None),
        )  # fmt: skip
        if extent > whole:
            self._row(at + whole, out + whole, type, extent - whole)

    # one row, or one row a lane

    def _row(self, at: Affine, out: Affine, type: Type, valid: int | None) -> None:
        if self.record.kind.endswith("softmax"):
            self._softmax(at, out, type, valid)
            return
        self.b.store(self.out, out, self._largest(at, type, valid), valid)

    def _across(self, reg: Reg, op: str) -> Reg:
        return self.b.reduce(op, reg) if self.along_reduction else reg

    def _largest(self, at: Affine, type: Type, valid: int | None) -> Reg:
        """The maximum of a row, or of one row a lane."""
        start = self.b.const(float("-inf"), type)

        def visit(
            place: Affine, inside: int | None, sums: tuple[Reg, ...]
        ) -> tuple[Reg, ...]:
            value = self.b.load(self.source, place, type, inside if inside else valid)
            if inside:
                value = self.b.first_lanes(value, start, inside)
            return (self.b.binary("maximum", sums[0], value),)

        (total,) = self._visit(
            at, affine(0), type, (start,), lambda a, o, v, s: visit(a, v, s)
        )
        return self._across(total, "maximum")

    def _visit(
        self,
        at: Affine,
        out: Affine,
        type: Type,
        carried: tuple[Reg, ...],
        body: Callable[[Affine, Affine, int | None, tuple[Reg, ...]], tuple[Reg, ...]],
        dims: Sequence[int] | None = None,
    ) -> tuple[Reg, ...]:
        """Loop over a row's elements or vectors: ``body(at, out, valid, regs)``."""
        dims = self.reduced if dims is None else dims
        ordered = [d for d in dims if d != self.vector_dim]
        ordered += [d for d in dims if d == self.vector_dim]
        if not ordered:
            return body(at, out, None, carried)
        dim = ordered[0]
        extent = self.layout.dims[dim][0][0] or 1
        stride, out_stride = self.layout.stride(dim), self.out_strides[dim]
        if dim != self.vector_dim:
            return self.b.fold(
                "k", 0, extent, 1, carried,
                lambda i, regs: self._visit(
                    at + i * stride, out + i * out_stride, type, regs, body, ordered[1:]
                ),
            )  # fmt: skip
        whole = extent // type.lanes * type.lanes
        carried = self.b.fold(
            "k", 0, whole, type.lanes, carried,
            lambda i, regs: body(at + i, out + i * out_stride, None, regs),
        )  # fmt: skip
        if extent > whole:
            carried = body(
                at + whole, out + whole * out_stride, extent - whole, carried
            )
        return carried

    def _softmax(self, at: Affine, out: Affine, type: Type, valid: int | None) -> None:
        """Subtract the row's maximum, exponentiate and sum, then scale."""
        m = VectorScalars(self.b, type)
        peak = Vector(m, self.b.splat(self._largest(at, type, valid), type))
        logarithmic = self.record.kind == "log_softmax"

        def exponentiate(
            place: Affine, target: Affine, inside: int | None, sums: tuple[Reg, ...]
        ) -> tuple[Reg, ...]:
            lanes = inside if inside else valid
            x = Vector(m, self.b.load(self.source, place, type, lanes))
            shifted = x - peak
            power = m.exp(shifted)
            kept = shifted if logarithmic else power
            self.b.store(self.out, target, kept.reg, lanes)
            term = power.reg
            if inside:
                term = self.b.first_lanes(term, self.b.const(0.0, type), inside)
            return (self.b.binary("add", sums[0], term),)

        zero = self.b.const(0.0, type)
        (total,) = self._visit(at, out, type, (zero,), exponentiate)
        total = self.b.splat(self._across(total, "add"), type)
        scale = m.log(Vector(m, total)) if logarithmic else 1.0 / Vector(m, total)

        def finish(
            place: Affine, target: Affine, inside: int | None, none: tuple[Reg, ...]
        ) -> tuple[Reg, ...]:
            lanes = inside if inside else valid
            x = Vector(m, self.b.load(self.out, target, type, lanes))
            result = x - scale if logarithmic else x * scale
            self.b.store(self.out, target, result.reg, lanes)
            return ()

        self._visit(at, out, type, (), finish)


def _result_strides(
    result: Layout, record: Reduction, ndim: int, keeps_shape: bool
) -> tuple[int, ...]:
    """The output's stride for each input dimension; 0 along dropped ones."""
    if keeps_shape:
        return tuple(result.stride(d) for d in range(ndim))
    kept = [d for d in range(ndim) if d not in record.axes]
    strides = [0] * ndim
    for position, dim in enumerate(kept):
        strides[dim] = result.stride(dim if record.keepdim else position)
    return tuple(strides)

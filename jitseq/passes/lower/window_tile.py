"""A pooling window whose elements are in registers, behind a register tile."""

from __future__ import annotations

from collections.abc import Sequence

from jitseq.ir.kernel_builder import KernelBuilder, Vector, VectorScalars
from jitseq.ir.program import Reg
from jitseq.passes.fusion_group import Group


def pooled(builder: KernelBuilder, group: Group, items: Sequence[Reg]) -> Reg:
    """The maximum or average of a window."""
    op = "maximum" if group.pool_kind == "max" else "add"
    total = items[0]
    for item in items[1:]:
        total = builder.binary(op, total, item)
    if op == "maximum":
        return total
    scale = builder.const(1.0 / group.pool_divisor, total.type)
    return builder.binary("mul", total, scale)


def pooled_with_index(builder: KernelBuilder, items: Sequence[Reg]) -> tuple[Reg, Reg]:
    """The maximum of a window, and which item it is: the first one, or the last NaN."""
    m = VectorScalars(builder, items[0].type)
    best, index = Vector(m, items[0]), m.vector(0.0)
    for k, item in enumerate(items[1:], start=1):
        value, number = Vector(m, item), m.vector(float(k))
        larger, nan = m.gt(value, best), m.isnan(value)
        best = m.where(larger, value, m.where(nan, value, best))
        index = m.where(larger, number, m.where(nan, number, index))
    return best.reg, index.reg

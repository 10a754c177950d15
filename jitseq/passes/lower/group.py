"""One fusion group → one kernel."""

from __future__ import annotations

import re

from jitseq.ir.compute import Contraction, Reduction, Window
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import element_count
from jitseq.ir.program import ELEMENT_BYTES
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group, compute_of, is_depthwise
from jitseq.passes.layout import LaidOut
from jitseq.passes.lower.contraction import ContractionEmitter
from jitseq.passes.lower.depthwise import lower_depthwise
from jitseq.passes.lower.dot import DotEmitter, suits_dot
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import ELEMENTS, Lowered, Operands
from jitseq.passes.lower.pointwise import lower_movement, lower_pointwise
from jitseq.passes.lower.problem import problems, rows_merge
from jitseq.passes.lower.reduction import lower_reduction
from jitseq.passes.lower.window import lower_window


def lower_group(
    group: Group, laid: LaidOut, static: frozenset[object], target: Target
) -> Lowered:
    """Emit the group's kernel; its name says which ops it computes."""
    builder = KernelBuilder()
    operands = Operands(builder, laid.layouts, static)  # type: ignore[arg-type]
    record = compute_of(group.anchor) if group.anchor else None
    if isinstance(record, Contraction):
        if is_depthwise(record):
            lower_depthwise(group, record, operands, target)
        else:
            lower_contraction(group, record, operands, target)
    elif isinstance(record, Window):
        lower_window(group, record, operands, target)
    elif isinstance(record, Reduction):
        lower_reduction(group, record, operands, target)
    elif group.anchor is not None:
        lower_movement(group, operands, target)
    else:
        lower_pointwise(group, operands, target)
    name = re.sub(r"\W", "_", "_".join(group.ops))[:60]
    kernel = builder.finish(name)
    moved, params = _bytes(group, operands, laid)
    return Lowered(
        kernel, tuple(operands.sources), _flops(group, record), moved, params
    )


def lower_contraction(
    group: Group, record: Contraction, operands: Operands, target: Target
) -> None:
    """Emit all phases of a convolution, transposed convolution or linear layer."""
    node = group.anchor
    assert node is not None
    x = node.inputs[0]
    source, out = operands.layouts[x], operands.layouts[group.output]
    operands.read(x)
    lanes = target.lanes(operands.write(group.output).element)
    clear_halo(operands, operands.write(group.output), out, lanes)
    mergeable = group.pool is None and rows_merge(group, operands)
    for problem in problems(record, source, out, operands.builder, mergeable):
        emitter = DotEmitter if suits_dot(problem, group, lanes) else ContractionEmitter
        emitter(operands, target, problem, group).emit()


def _flops(group: Group, record: object) -> int:
    """Multiplications and additions for one image, as the layers define them."""
    total = 0
    if isinstance(record, Contraction):
        assert group.anchor is not None
        points = sum(p.count[0] * p.count[1] * len(p.taps) for p in record.phases)
        if record.weight_axes == "oi":
            points = element_count(group.anchor.output.type) // record.out_channels
        total += 2 * points * record.out_channels * record.in_channels // record.groups
    elif isinstance(record, Window):
        assert group.anchor is not None
        window = max(record.rows.count) * max(record.cols.count)
        total += window * element_count(group.anchor.output.type)
    elif isinstance(record, Reduction):
        assert group.anchor is not None
        total += 4 * element_count(group.anchor.inputs[0].type)
    for node in (*group.inner, *group.outer):
        total += element_count(node.output.type)
    return total


def _bytes(group: Group, operands: Operands, laid: LaidOut) -> tuple[int, int]:
    moved = params = 0
    for source in operands.sources:
        size = ELEMENT_BYTES[ELEMENTS[source.value.type.dtype]]
        if source.pack is not None:
            params += element_count(source.value.type) * size
        else:
            moved += element_count(source.value.type) * size
    return moved, params

"""One fusion group → one kernel."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jitseq.ir.compute import (
    Contraction,
    Reduction,
    Uniform,
    Update,
    WeightGradient,
    Window,
    WindowGradient,
    WindowIndex,
)
from jitseq.ir.graph import Value
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import element_count
from jitseq.ir.program import ELEMENT_BYTES
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import (
    FusedGraph,
    Group,
    compute_of,
    is_depthwise,
    is_linear,
)
from jitseq.passes.layout import LaidOut
from jitseq.passes.lower.col2im import Col2imEmitter
from jitseq.passes.lower.columns import ColumnsEmitter, suits_columns
from jitseq.passes.lower.contraction import ContractionEmitter
from jitseq.passes.lower.depthwise import lower_depthwise
from jitseq.passes.lower.dot import DotEmitter, suits_dot
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import ELEMENTS, Lowered, Operands, Pack, Source
from jitseq.passes.lower.pack import lower_pack
from jitseq.passes.lower.pointwise import (
    lower_movement,
    lower_pointwise,
    lower_uniform,
)
from jitseq.passes.lower.problem import problems, rows_merge
from jitseq.passes.lower.reduction import lower_reduction
from jitseq.passes.lower.spread import suited_spread
from jitseq.passes.lower.update import lower_update
from jitseq.passes.lower.weight_gradient import lower_weight_gradient
from jitseq.passes.lower.window import lower_window
from jitseq.passes.lower.window_gradient import (
    lower_window_gradient,
    lower_window_index,
)


def lower_group(
    group: Group, laid: LaidOut, fused: FusedGraph, target: Target
) -> Lowered:
    """Emit the group's kernel; its name says which ops it computes."""
    builder = KernelBuilder()
    operands = Operands(builder, laid.layouts, fused.packed_values, fused.generated)
    record = compute_of(group.anchor) if group.anchor else None
    _emit(group, record, operands, target)
    kernel = builder.finish(kernel_name(group.ops))
    moved, params = _bytes(operands)
    per_image = any(
        source.pack is None and source.value.type.has_batch
        for source in operands.sources
    )
    count = None
    if isinstance(record, Update):
        count = element_count(group.output.type)
    return Lowered(
        kernel,
        tuple(operands.sources),
        flops(group, record),
        moved,
        params,
        group.ops,
        group.path,
        per_image,
        group.accumulates,
        count,
    )


def with_packing(
    kernels: Sequence[Lowered], laid: LaidOut, static: frozenset[Value], target: Target
) -> list[Lowered]:
    """With a kernel before each first reader of weights that the program packs."""
    packed: set[Source] = set()
    found: list[Lowered] = []
    for kernel in kernels:
        for source in kernel.sources:
            if source.pack is None or source.value in static or source in packed:
                continue
            packed.add(source)
            found.append(_packing(source.value, source.pack, kernel, laid, target))
        found.append(kernel)
    return found


def _packing(
    value: Value, pack: Pack, reader: Lowered, laid: LaidOut, target: Target
) -> Lowered:
    builder = KernelBuilder()
    operands = Operands(builder, laid.layouts, frozenset())
    source, out = operands.read(value), operands.pack_into(value, pack)
    lower_pack(builder, pack, value.type.inner_shape, source, out, target)
    return Lowered(
        kernel=builder.finish(f"pack_{pack.kind}"),
        sources=tuple(operands.sources),
        flops=0,
        moved_bytes=2 * element_count(value.type) * ELEMENT_BYTES[source.element],
        param_bytes=0,
        ops=("pack",),
        path=reader.path,
        per_image=False,
        accumulates=False,
    )


def kernel_name(ops: tuple[str, ...]) -> str:
    return re.sub(r"\W", "_", "_".join(ops))[:60]


def _emit(group: Group, record: object, operands: Operands, target: Target) -> None:
    if isinstance(record, Contraction):
        if is_depthwise(record):
            lower_depthwise(group, record, operands, target)
        else:
            lower_contraction(group, record, operands, target)
    elif isinstance(record, WeightGradient):
        lower_weight_gradient(group, record, operands, target)
    elif isinstance(record, Window):
        lower_window(group, record, operands, target)
    elif isinstance(record, WindowIndex):
        lower_window_index(group, record, operands, target)
    elif isinstance(record, WindowGradient):
        lower_window_gradient(group, record, operands, target)
    elif isinstance(record, Reduction):
        lower_reduction(group, record, operands, target)
    elif isinstance(record, Update):
        lower_update(group, record, operands, target)
    elif isinstance(record, Uniform):
        lower_uniform(group, operands, target)
    elif group.anchor is not None:
        lower_movement(group, operands, target)
    else:
        lower_pointwise(group, operands, target)


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
    found = problems(record, source, out, operands.builder, mergeable)
    spread = suited_spread(record, found, group, out, target)
    if spread is not None:
        Col2imEmitter(operands, target, spread, group).emit()
        return
    if suits_dot(found, group, target, lanes):
        DotEmitter(operands, target, found, group).emit()
        return
    if suits_columns(found, group, target, lanes):
        ColumnsEmitter(operands, target, found[0], group).emit()
        return
    for problem in found:
        ContractionEmitter(operands, target, problem, group).emit()


def flops(group: Group, record: object) -> int:
    """Multiplications and additions for one image, as the layers define them."""
    total = 0
    if isinstance(record, Contraction):
        assert group.anchor is not None
        total += _products(record, group.anchor.output)
    elif isinstance(record, WeightGradient):
        assert group.anchor is not None
        total += _products(record.forward, group.anchor.inputs[1])
    elif isinstance(record, Window | WindowIndex | WindowGradient):
        assert group.anchor is not None
        windows = record if isinstance(record, Window) else record.forward
        window = max(windows.rows.count) * max(windows.cols.count)
        total += window * element_count(group.anchor.output.type)
    elif isinstance(record, Reduction):
        assert group.anchor is not None
        total += 4 * element_count(group.anchor.inputs[0].type)
    for node in (*group.inner, *group.outer):
        total += element_count(node.output.type)
    return total


def _products(record: Contraction, output: Value) -> int:
    """Two operations for each product of an image's contraction."""
    points = sum(p.count[0] * p.count[1] * len(p.taps) for p in record.phases)
    if is_linear(record):
        points = element_count(output.type) // record.out_channels
    return 2 * points * record.out_channels * record.in_channels // record.groups


def _bytes(operands: Operands) -> tuple[int, int]:
    """Of what has a batch, for one image; of everything else."""
    batched = any(source.value.type.has_batch for source in operands.sources)
    moved = params = 0
    for source in operands.sources:
        size = ELEMENT_BYTES[ELEMENTS[source.value.type.dtype]]
        has_batch = source.value.type.has_batch or not batched
        if source.pack is not None or not has_batch:
            params += element_count(source.value.type) * size
        else:
            moved += element_count(source.value.type) * size
    return moved, params

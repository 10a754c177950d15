"""A fused graph → the kernels that grids of threads run, and their memory.

Enters what `passes.pipeline.optimise` made, the same as for the processor's own
vectors. Invariant: every value lies in logical order, so a reshape costs nothing and
the only copies are results that would share memory with something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from jitseq.ir.graph import Node, Value
from jitseq.ir.layout import element_count
from jitseq.ir.target import GridTarget
from jitseq.passes.fusion_group import FusedGraph, Group, compute_of
from jitseq.passes.grid.contraction import lower_contraction
from jitseq.passes.grid.elementwise import lower_pointwise, lower_uniform, lower_update
from jitseq.passes.grid.lowered import GridKernel, Scope
from jitseq.passes.grid.memory import plan_memory
from jitseq.passes.grid.movement import lower_movement
from jitseq.passes.grid.order import in_order, is_view, updated_values
from jitseq.passes.grid.reduction import lower_reduction
from jitseq.passes.grid.weight_gradient import lower_weight_gradient
from jitseq.passes.grid.window import lower_window
from jitseq.passes.memory import Planned


@dataclass(frozen=True)
class GridSchedule:
    """Everything that was decided, for rendering and for reports.

    ``kernels`` are in the order in which they run. ``results`` are the values that the
    program's outputs hold, in order, variables left out. ``aliases`` maps a view, or
    what an update leaves, to the value whose memory it shows.
    """

    fused: FusedGraph
    aliases: Mapping[Value, Value]
    results: tuple[Value, ...]
    kernels: tuple[GridKernel, ...]
    planned: Planned


def schedule(
    fused: FusedGraph, target: GridTarget, disabled: frozenset[str] = frozenset()
) -> GridSchedule:
    """Kernels for one target; without ``reuse_memory`` each value has its own place."""
    scope = Scope(fused, target)
    copies, results = _results(fused)
    groups = in_order((*fused.groups, *copies))
    aliases = _aliases(groups)
    kernels = tuple(
        kernel
        for group in groups
        if not is_view(group)
        for kernel in lower_group(group, scope)
    )
    planned = plan_memory(
        fused,
        kernels,
        results,
        lambda value: aliases.get(value, value),
        "reuse_memory" not in disabled,
    )
    return GridSchedule(fused, aliases, results, kernels, planned)


def lower_group(group: Group, scope: Scope) -> list[GridKernel]:
    """The kernels of a group; none where its outputs have no elements."""
    if not any(element_count(value.type) for value in group.outputs):
        return []
    record = compute_of(group.anchor) if group.anchor else None
    if isinstance(record, Contraction):
        return lower_contraction(group, record, scope)
    if isinstance(record, WeightGradient):
        return lower_weight_gradient(group, record, scope)
    if isinstance(record, Reduction):
        return lower_reduction(group, record, scope)
    if isinstance(record, Window | WindowIndex | WindowGradient):
        return lower_window(group, record, scope)
    if isinstance(record, Update):
        return [lower_update(group, record, scope)]
    if isinstance(record, Uniform):
        return [lower_uniform(group, scope)]
    if group.anchor is not None:
        return [lower_movement(group, scope)]
    return [lower_pointwise(group, scope)]


def _results(fused: FusedGraph) -> tuple[list[Group], tuple[Value, ...]]:
    """Each output in memory of its own, and the copies that this needs."""
    written = {
        value for group in fused.groups if not is_view(group) for value in group.outputs
    }
    copies: list[Group] = []
    results: list[Value] = []
    for value in fused.graph.outputs:
        if value in fused.changed:
            continue
        if value not in written or value in results:
            copy = Value(value.type, value.name)
            copies.append(Group(Node("copy", (value,), {}, (copy,))))
            value = copy
        results.append(value)
    return copies, tuple(results)


def _aliases(groups: list[Group]) -> dict[Value, Value]:
    """Whose memory views and the outputs of updates show."""
    aliases: dict[Value, Value] = {}
    for group in groups:
        sources = group.external_inputs[:1] if is_view(group) else updated_values(group)
        if not sources:
            continue
        for value, source in zip(group.outputs, sources, strict=True):
            aliases[value] = aliases.get(source, source)
    return aliases

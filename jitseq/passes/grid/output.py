"""What follows the sums of a contraction: pointwise nodes, pooling, stores.

The sums of one pooling window (or of one output) of a thread enter; the group's outputs
are stored. Invariant: the caller's thread is the only one with this window.
"""

from __future__ import annotations

from collections.abc import Callable

from jitseq.ir.program import Reg
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.index import Place, Problem
from jitseq.passes.grid.lowered import GridOperands
from jitseq.passes.lower.operands import Position, apply_chain, store_at
from jitseq.passes.lower.window_tile import pooled, pooled_with_index


def write_output(
    operands: GridOperands,
    group: Group,
    problem: Problem,
    at: Place,
    sum_of: Callable[[int], Reg],
) -> None:
    """Evaluate the group's chain and store its outputs at a place.

    Args:
        operands: the kernel's buffers.
        group: a contraction and what follows it.
        problem: one of its phases.
        at: an output; its row and column count pooling windows.
        sum_of: the sums of the window's outputs by their number, row-major.
    """
    builder = operands.builder
    high, wide = problem.window
    items = []
    for number in range(problem.window_size):
        y, x = at.y * high + number // wide, at.x * wide + number % wide
        place = Place(at.phase, at.image, at.channel, y, x)
        position = Position(problem.index(builder, place), -1)
        start = group.anchor_output
        items.append(
            apply_chain(operands, group.inner, start, sum_of(number), position)
        )
    position = Position(problem.index(builder, at), -1)
    result = items[0]
    if group.pool is not None and not group.companions:
        result = pooled(builder, group, items)
    elif group.pool is not None:
        result, index = pooled_with_index(builder, items)
        for node in group.companions:
            store_at(operands, node.output, index, position)
    if group.outer:
        result = apply_chain(
            operands, group.outer, group.pooled_output, result, position
        )
    store_at(operands, group.output, result, position)

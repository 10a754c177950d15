"""Pointwise groups, random numbers and optimiser updates → a thread for each element.

Enters a group without products, windows or sums; its kernel leaves. Invariant:
neighbouring threads write neighbouring elements of the output.
"""

from __future__ import annotations

from jitseq.ir.compute import Update
from jitseq.ir.layout import element_count, extents
from jitseq.ir.program import Affine, Launch, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element, apply_at, each_item
from jitseq.passes.grid.lowered import GridKernel, Scope
from jitseq.passes.lower.operands import ELEMENTS
from jitseq.passes.lower.update import update_step


def lower_pointwise(group: Group, scope: Scope) -> GridKernel:
    """``out[i] = chain(a[i], b[i], …)`` with broadcasting operands."""
    operands, launch = scope.operands(), scope.launch(group.output)
    builder = operands.builder
    out = operands.write(group.output)
    type, shape = Type(out.element), extents(group.output.type)

    def element(number: Affine) -> None:
        place = Element(builder, number, shape).at
        result = apply_at(operands, group.inner, {}, type, place)
        builder.store(out, number, result)

    each_item(builder, launch, element)
    return scope.finish(group, operands, launch)


def lower_uniform(group: Group, scope: Scope) -> GridKernel:
    """Random numbers in memory, for readers that do not compute them."""
    assert group.anchor is not None
    operands, launch = scope.operands(), scope.launch(group.output)
    builder = operands.builder
    out, key = operands.write(group.output), operands.read(group.anchor.inputs[0])
    type = Type(out.element)

    def element(number: Affine) -> None:
        builder.store(out, number, builder.uniform(key, number, type, 0))

    each_item(builder, launch, element)
    return scope.finish(group, operands, launch)


def lower_update(group: Group, record: Update, scope: Scope) -> GridKernel:
    """``p, *state = expr(p, g, *state, *numbers)`` for each element, in place.

    The same code serves parameters of every size: the kernel counts elements.
    """
    operands = scope.operands()
    builder, step = operands.builder, update_step(group, record, operands)
    type = Type(ELEMENTS[group.output.type.dtype])
    threads = scope.target.threads
    start = builder.block() * threads + builder.thread()
    inside = builder.below(start, affine(builder.count))
    builder.when(inside, lambda: step(start, type))
    count = element_count(group.output.type)
    launch = Launch(threads, count, threads, False)
    return scope.finish(group, operands, launch, count=count)

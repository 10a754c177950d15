"""Pointwise groups, random numbers and optimiser updates → a thread for each element.

Enters a group without products, windows or sums; its kernel leaves. Invariant:
neighbouring threads write neighbouring elements of the output.
"""

from __future__ import annotations

from jitseq.ir.compute import Update
from jitseq.ir.kernel_builder import Vector, VectorScalars
from jitseq.ir.layout import element_count, extents
from jitseq.ir.program import Affine, Launch, Type, affine
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.element import Element, apply_at, each_item
from jitseq.passes.grid.lowered import GridKernel, Scope


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
    node = group.anchor
    assert node is not None
    operands = scope.operands()
    builder = operands.builder
    p, g, *rest = node.inputs
    changed = [operands.write(value) for value in (p, *rest[: record.states])]
    gradient = operands.read(g)
    vectors = [operands.read(value) for value in rest[record.states :]]
    type = Type(changed[0].element)
    m = VectorScalars(builder, type)

    def element(at: Affine) -> None:
        first, *state = (Vector(m, builder.load(b, at, type)) for b in changed)
        inputs = [first, Vector(m, builder.load(gradient, at, type)), *state]
        inputs += [
            Vector(m, builder.load(vector, k, type))
            for vector in vectors
            for k in range(record.numbers)
        ]
        results = record.expr(m, *inputs, **node.attrs)
        for buffer, value in zip(changed, results, strict=True):
            builder.store(buffer, at, m.vector(value).reg)

    threads = scope.target.threads
    start = builder.block() * threads + builder.thread()
    builder.when(builder.below(start, affine(builder.count)), lambda: element(start))
    count = element_count(p.type)
    launch = Launch(threads, count, threads, False)
    return scope.finish(group, operands, launch, count=count)

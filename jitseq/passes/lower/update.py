"""An optimizer's update → one loop over the elements of a parameter.

The same code serves parameters of every size: the kernel's count is the number of
elements. Parameter and state are read and written through one buffer each.
"""

from __future__ import annotations

from collections.abc import Callable

from jitseq.ir.compute import Update
from jitseq.ir.kernel_builder import Vector, VectorScalars
from jitseq.ir.program import Affine, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import ELEMENTS, Operands


def lower_update(
    group: Group, record: Update, operands: Operands, target: Target
) -> None:
    """``p, *state = expr(p, g, *state, *numbers)`` for each element, in place."""
    builder, step = operands.builder, update_step(group, record, operands)
    element = ELEMENTS[group.output.type.dtype]
    wide = Type(element, target.lanes(element))
    whole = builder.round_down(affine(builder.count), wide.lanes)
    builder.loop("i", 0, whole, wide.lanes, lambda i: step(i, wide))
    builder.loop("i", whole, affine(builder.count), 1, lambda i: step(i, Type(element)))


def update_step(
    group: Group, record: Update, operands: Operands
) -> Callable[[Affine, Type], None]:
    """``step(at, type)`` updates the elements from ``at``, as many as lanes."""
    node = group.anchor
    assert node is not None
    builder = operands.builder
    p, g, *rest = node.inputs
    changed = [operands.write(value) for value in (p, *rest[: record.states])]
    gradient = operands.read(g)
    vectors = [operands.read(value) for value in rest[record.states :]]

    def step(at: Affine, type: Type) -> None:
        m = VectorScalars(builder, type)
        first, *state = (Vector(m, builder.load(b, at, type)) for b in changed)
        inputs = [first, Vector(m, builder.load(gradient, at, type)), *state]
        inputs += [
            Vector(m, builder.load_splat(vector, k, type))
            for vector in vectors
            for k in range(record.numbers)
        ]
        results = record.expr(m, *inputs, **node.attrs)
        for buffer, value in zip(changed, results, strict=True):
            builder.store(buffer, at, m.vector(value).reg)

    return step

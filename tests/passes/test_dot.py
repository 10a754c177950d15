"""Contractions with few outputs: vectors along the reduction, totals by `sum_lanes`."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import node, value_of
from packed_kernels import (
    AROUND,
    IMAGES,
    NATIVE,
    TARGETS,
    Case,
    PackedRun,
    anchor_of,
    check,
    normal,
)
from tolerance import assert_close

from jitseq.ir.layout import row_major
from jitseq.ir.op import get_op
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.lower.dot import DotEmitter
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.problem import problems, rows_merge


def emit_dot(group: Group, layouts, target):
    def emit(operands: Operands) -> None:
        record, out = compute_of(group.anchor), operands.write(group.output)
        clear_halo(operands, out, layouts[group.output], target.lanes(out.element))
        source = layouts[group.anchor.inputs[0]]
        found = problems(
            record, source, layouts[group.output], operands.builder,
            rows_merge(group, operands),
        )  # fmt: skip
        DotEmitter(operands, target, found, group).emit()

    return emit


DOTS = {
    "stride 2, one channel": Case((17, 4, 9), (17, 1, 3, 3), (2, 2), (1, 1), (1, 1),
                                  bias=True),
    "stride 2": Case((33, 3, 6), (33, 3, 4, 4), (2, 2), (1, 1), bias=True),
    "stride 3, gaps": Case((16, 3, 7), (16, 2, 2, 2), (3, 3), bias=True),
    "two channels": Case((20, 5, 4), (20, 2, 3, 3), padding=(1, 1)),
    "six channels": Case((18, 4, 5), (18, 6, 3, 3), padding=(1, 1), bias=True),
    "four channels, stride 2": Case((16, 3, 6), (16, 4, 3, 3), (2, 2), (1, 1)),
    "1x1": Case((40, 5, 5), (40, 5, 1, 1), bias=True),
    "1x1, one channel": Case((16, 5, 7), (16, 1, 1, 1)),
    "one row": Case((16, 1, 21), (16, 1, 1, 3), padding=(0, 1)),
    "gradient": Case((20, 5, 6), (20, 3, 3, 3), padding=(1, 1), size=(5, 6)),
}  # fmt: skip


FITTING = [
    (name, machine, dtype)
    for name, case in DOTS.items()
    for machine, target in TARGETS.items()
    for dtype, element in (("float32", "f32"), ("float64", "f64"))
    if case.w[1] <= target.lanes(element) // 2
]


@pytest.mark.parametrize("name, machine, dtype", FITTING)
def test_dot(name, machine, dtype) -> None:
    anchor, arrays = anchor_of(DOTS[name], dtype)
    check(anchor, arrays, emit_dot, TARGETS[machine])


@pytest.mark.parametrize("name", DOTS)
@pytest.mark.parametrize("operand", ["image", "channels"])
def test_pointwise_nodes_on_sums(name, operand) -> None:
    anchor, arrays = anchor_of(DOTS[name], "float32")
    shape = anchor.output.type.inner_shape
    image = operand == "image"
    other = normal(IMAGES, *shape, seed=5) if image else normal(shape[0], 1, 1, seed=5)
    value = value_of(other, image)
    total = node("add", anchor.output, value)
    chain = [total, node("sigmoid", total.output)]
    check(anchor, arrays, emit_dot, NATIVE, chain, {value: other}, AROUND)


@pytest.mark.parametrize("machine", TARGETS)
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("rows", [(21,), (1,), (2, 17), (2, 3, 2)])
def test_linear(rows, outputs, machine) -> None:
    """Tiles lie along the batch where there is one row of features for an image."""
    arrays = [normal(*rows, 37), normal(outputs, 37, seed=1), normal(outputs, seed=2)]
    values = [value_of(a, batched=k == 0) for k, a in enumerate(arrays)]
    anchor = node("linear", *values)
    known = dict(zip(values, arrays, strict=True))
    expected, size = (
        get_op("linear").reference(*(f(a.astype("float64")) for a in arrays))
        for f in (np.asarray, np.abs)
    )
    layouts = {v: row_major(v.type) for v in (*values, anchor.output)}
    group, target = Group(anchor), TARGETS[machine]
    run = PackedRun(group, layouts, target, emit_dot(group, layouts, target))
    assert_close(run(known, rows[0], 20), expected, size, 37)

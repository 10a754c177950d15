"""Convolutions between few channels: vectors along the columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from kernel_harness import NO_HALO, node, value_of
from packed_kernels import AROUND, IMAGES, NATIVE, TARGETS, PackedRun, check, normal

from jitseq.codegen.llvm.host import LEVELS
from jitseq.ir.graph import Node, Value
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import channels_last, planar, row_major
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.layout_rules import needed_halo
from jitseq.passes.lower.columns import ColumnsEmitter, choose_block, suits_columns
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.problem import problems


class Case(NamedTuple):
    """``[I, H, W]`` and ``[O, I, KH, KW]``; ``padding`` is top, bottom, left, right."""

    x: tuple[int, int, int]
    w: tuple[int, int, int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    bias: bool = True


CASES = {
    "one channel": Case((1, 6, 19), (6, 1, 5, 5), (2, 2, 2, 2)),
    "planar": Case((3, 5, 17), (4, 3, 3, 3), (1, 1, 1, 1)),
    "narrow": Case((2, 9, 7), (5, 2, 3, 3), (1, 1, 1, 1)),
    "one output": Case((3, 7, 9), (1, 3, 3, 2), (0, 1, 1, 0), bias=False),
    "whole vectors": Case((1, 3, 34), (2, 1, 2, 3)),
    "rows apart": Case((2, 11, 9), (3, 2, 3, 3), (1, 0, 1, 1), (2, 1)),
    "dilated": Case((1, 9, 12), (3, 1, 3, 3), (2, 2, 1, 1), dilation=(2, 3)),
    "many outputs": Case((2, 5, 20), (8, 2, 3, 3), (1, 1, 1, 1)),
}


def anchor_of(case: Case, dtype: str) -> tuple[Node, dict[Value, np.ndarray]]:
    arrays = [
        normal(IMAGES, *case.x, dtype=dtype),
        normal(*case.w, seed=1, dtype=dtype),
    ]
    if case.bias:
        arrays.append(normal(case.w[0], seed=2, dtype=dtype))
    values = [value_of(a, batched=k == 0) for k, a in enumerate(arrays)]
    attrs = {"stride": case.stride, "padding": case.padding, "groups": 1}
    anchor = node("conv2d", *values, dilation=case.dilation, **attrs)
    return anchor, dict(zip(values, arrays, strict=True))


def emit(group: Group, layouts, target):
    def emitter(operands: Operands) -> None:
        out = operands.write(group.output)
        layout = layouts[group.output]
        clear_halo(operands, out, layout, target.lanes(out.element))
        source, record = layouts[group.anchor.inputs[0]], compute_of(group.anchor)
        (problem,) = problems(record, source, layout, operands.builder, False)
        ColumnsEmitter(operands, target, problem, group).emit()

    return emitter


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("machine", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_columns(name, machine, dtype) -> None:
    target = TARGETS[machine]
    anchor, arrays = anchor_of(CASES[name], dtype)
    if CASES[name].w[0] > target.lanes({"float32": "f32", "float64": "f64"}[dtype]):
        anchor, arrays = anchor_of(
            CASES[name]._replace(w=(2, *CASES[name].w[1:])), dtype
        )
    x = planar(anchor.inputs[0].type, needed_halo(anchor))
    check(anchor, arrays, emit, target, halo=AROUND, x=x)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("operand", ["image", "channels"])
def test_pointwise_nodes_follow(name, operand) -> None:
    anchor, arrays = anchor_of(CASES[name], "float32")
    shape = anchor.output.type.inner_shape
    image = operand == "image"
    other = normal(IMAGES, *shape, seed=5) if image else normal(shape[0], 1, 1, seed=5)
    value = value_of(other, image)
    total = node("add", anchor.output, value)
    chain = [total, node("tanh", total.output)]
    x = planar(anchor.inputs[0].type, needed_halo(anchor))
    check(anchor, arrays, emit, NATIVE, chain, {value: other}, x=x)


def test_a_planar_result() -> None:
    """No transposition where the result's columns are adjacent."""
    anchor, arrays = anchor_of(CASES["planar"], "float32")
    layouts = {v: row_major(v.type) for v in (*arrays, anchor.output)}
    layouts[anchor.inputs[0]] = planar(anchor.inputs[0].type, needed_halo(anchor))
    group = Group(anchor)
    here = PackedRun(group, layouts, NATIVE, emit(group, layouts, NATIVE))
    layouts = {**layouts, anchor.output: channels_last(anchor.output.type, NO_HALO)}
    there = PackedRun(group, layouts, NATIVE, emit(group, layouts, NATIVE))
    np.testing.assert_array_equal(here(arrays, IMAGES, 2), there(arrays, IMAGES, 2))


def suits(case: Case, order=planar) -> bool:
    anchor, _ = anchor_of(case, "float32")
    target = LEVELS["x86-64-v4"]
    source = order(anchor.inputs[0].type, needed_halo(anchor))
    out = channels_last(anchor.output.type, NO_HALO)
    record = compute_of(anchor)
    found = problems(record, source, out, KernelBuilder(), False)
    return suits_columns(found, Group(anchor), target, target.lanes("f32"))


def test_where_it_is_cheaper() -> None:
    padding = (2, 2, 2, 2)
    assert suits(Case((1, 28, 28), (6, 1, 5, 5), padding))
    assert suits(Case((1, 28, 28), (6, 1, 5, 5), padding), channels_last)
    assert suits(Case((3, 32, 32), (8, 3, 5, 5)))
    assert not suits(Case((3, 32, 32), (8, 3, 5, 5)), channels_last)
    assert not suits(Case((1, 28, 28), (16, 1, 5, 5), padding))
    assert not suits(Case((1, 28, 28), (6, 1, 5, 5), padding, (1, 2)))
    assert not suits(Case((1, 8, 3), (6, 1, 3, 3), (1, 1, 1, 1)))
    assert not suits(Case((1, 30, 30), (6, 1, 8, 8)))


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_blocks_fit_the_registers(level) -> None:
    target = LEVELS[level]
    lanes = target.lanes("f32")
    for case in CASES.values():
        anchor, _ = anchor_of(case, "float32")
        layouts = [planar(v.type, NO_HALO) for v in (anchor.inputs[0], anchor.output)]
        record = compute_of(anchor)
        (problem,) = problems(record, *layouts, KernelBuilder(), False)
        block = choose_block(problem, target, lanes)
        inputs = block.rows * block.vectors
        assert inputs == 1 or inputs * (case.w[0] + 1) < target.registers
        whole = -(-problem.phase.count[1] // lanes)
        assert block.rows <= problem.phase.count[0] and block.vectors in (1, whole)

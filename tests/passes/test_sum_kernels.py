"""Kernels of sums and means, also over the batch, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import (
    TARGETS,
    VARIANTS,
    KernelRun,
    compiled,
    layouts_of,
    lower,
    node,
    normal,
    run,
    value_of,
)
from tolerance import assert_close

from jitseq.ir.layout import channels_last, row_major
from jitseq.ir.op import get_op
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower import summation

SUMS = (
    ("channel_sum", (5, 3, 4, 7), {"axis": 1}),
    ("channel_sum", (3, 19, 4, 3), {"axis": 1}),
    ("channel_sum", (3, 1, 4, 3), {"axis": 1}),
    ("channel_sum", (3, 150, 2, 2), {"axis": 1}),
    ("channel_sum", (3, 5, 6), {"axis": 1}),
    ("channel_sum", (37, 10), {"axis": -1}),
    ("channel_sum", (9, 150), {"axis": 1}),
    ("channel_sum", (7, 1), {"axis": 1}),
    ("channel_sum", (3, 40, 8), {"axis": 2}),
    ("batch_sum", (37,), {}),
    ("batch_sum", (5, 3, 4), {}),
    ("batch_sum", (3, 3, 4, 2), {}),
    ("sum", (4, 3, 5, 7), {"dims": (1,), "keepdim": False}),
    ("sum", (4, 3, 5, 7), {"dims": (2, 3), "keepdim": True}),
    ("sum", (4, 21), {"dims": (1,), "keepdim": False}),
    ("sum", (35, 1), {"dims": (1,), "keepdim": False}),
    ("mean", (4, 5, 18), {"dims": (1,), "keepdim": False}),
    ("mean", (3, 2, 5, 50), {"dims": (1, 2, 3), "keepdim": True}),
)
SUM_NAMES = [f"{op}-{'x'.join(map(str, shape))}" for op, shape, _ in SUMS]


def check_sum(op, x, attrs, batched, machine="native") -> None:
    value = value_of(x, batched)
    anchor = node(op, value, **attrs)
    result = anchor.output
    adds = batched and not result.type.has_batch
    expected = get_op(op).reference(x.astype("float64"), **attrs) + 1.5 * adds
    size = get_op(op).reference(np.abs(x).astype("float64"), **attrs) + 1.5
    for layout in layouts_of(value.type, (0, 1, 2, 0)):
        places = {value: layout, result: row_major(result.type)}
        total = run(Group(anchor), places, {value: x}, machine, 1.5 if adds else None)
        assert_close(total, expected, size, x.size)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "static"])
@pytest.mark.parametrize("dtype, machine", VARIANTS)
@pytest.mark.parametrize("op, shape, attrs", SUMS, ids=SUM_NAMES)
def test_sums(op, shape, attrs, dtype, machine, batched) -> None:
    """What has no batch is stored; sums over the batch are added to what is there."""
    check_sum(op, normal(*shape, dtype=dtype), attrs, batched, machine)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "static"])
@pytest.mark.parametrize("chain", [1, 3])
@pytest.mark.parametrize(
    "op, shape, attrs",
    [
        ("channel_sum", (3, 19, 5, 7), {"axis": 1}),
        ("channel_sum", (77, 3), {"axis": 1}),
        ("channel_sum", (2, 70, 20), {"axis": 2}),
        ("batch_sum", (157,), {}),
        ("sum", (2, 3, 9, 70), {"dims": (1, 2, 3), "keepdim": False}),
    ],
)
def test_long_chains_are_split(
    op, shape, attrs, batched, chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summation, "CHAIN", chain)
    check_sum(op, normal(*shape), attrs, batched)


@pytest.mark.parametrize(
    "op, shape, attrs",
    [
        ("sum", (1, 1 << 20), {"dims": (1,), "keepdim": False}),
        ("channel_sum", (2, 3, 512, 500), {"axis": 1}),
        ("channel_sum", (1 << 19, 1), {"axis": 1}),
    ],
)
def test_a_long_sum_is_accurate(op, shape, attrs) -> None:
    """A single float32 chain of a million terms of 0.1 would be 1 % off."""
    x = np.full(shape, 0.1, np.float32)
    value = value_of(x)
    anchor = node(op, value, **attrs)
    group = Group(anchor)
    image = x.ndim == 4
    source = channels_last(value.type, (1, 2, 0, 1)) if image else row_major(value.type)
    layouts = {value: source, anchor.output: row_major(anchor.output.type)}
    target = TARGETS["native"]()
    kernel = KernelRun(group, layouts, target, lower(group, target))
    memories = [kernel.memory(v, len(x), {value: x}) for v in kernel.values]
    written = memories[kernel.values.index(anchor.output)]
    total = kernel.inside(anchor.output, written, len(x))
    total[...] = 0
    compiled(kernel.program(len(x)), target)(memories, len(x))
    expected = np.full(total.shape, np.float64(x.flat[0]) * x.size / total.size)
    np.testing.assert_allclose(total, expected, 1e-5)

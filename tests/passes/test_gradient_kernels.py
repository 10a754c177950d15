"""Kernels of pooling gradients, sums over the batch and movements of gradients.

Each runs on hand-made layouts, by the interpreter and compiled, against the op's NumPy
reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from kernel_harness import NO_HALO, TARGETS, KernelRun, layouts_of, node, value_of
from op_cases import inputs_of
from tolerance import assert_close

import jitseq.ir.ops  # noqa: F401  (registers every family)
from jitseq.ir.compute import Reduction
from jitseq.ir.graph import Node, Value
from jitseq.ir.layout import Layout, channels_last, row_major
from jitseq.ir.op import REGISTRY, get_op
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.lower import summation
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.pointwise import lower_movement, lower_pointwise
from jitseq.passes.lower.reduction import lower_reduction
from jitseq.passes.lower.window_gradient import (
    lower_window_gradient,
    lower_window_index,
)

DTYPES = ("float32", "float64")
POOLING = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name in (
        "max_pool2d_index", "max_pool2d_grad", "avg_pool2d_grad",
        "adaptive_max_pool2d_index", "adaptive_max_pool2d_grad",
        "adaptive_avg_pool2d_grad",
    )
    for number in range(len(REGISTRY[name].examples))
]  # fmt: skip
ASYMMETRIC = (1, 2, 0, 1)


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def lower(group: Group, target: Target) -> Callable[[Operands], None]:
    """The group's kernel, emitted by the function that is tested here."""
    if group.anchor is None:
        return lambda operands: lower_pointwise(group, operands, target)
    record = compute_of(group.anchor)
    if isinstance(record, Reduction):
        return lambda operands: lower_reduction(group, record, operands, target)
    if group.anchor.op.endswith("_index"):
        return lambda operands: lower_window_index(group, record, operands, target)
    if "pool" in group.anchor.op:
        return lambda operands: lower_window_gradient(group, record, operands, target)
    return lambda operands: lower_movement(group, operands, target)


def run(
    group: Group,
    layouts: dict[Value, Layout],
    arrays: dict[Value, np.ndarray],
    machine: str = "native",
    start: float | None = None,
) -> np.ndarray:
    """In blocks of two images, so that the last one is smaller."""
    batches = [len(a) for value, a in arrays.items() if value.type.has_batch]
    target = TARGETS[machine]()
    kernel = KernelRun(group, layouts, target, lower(group, target))
    return kernel(arrays, max(batches, default=1), 2 if batches else 1, start)


def wide(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [a.astype("float64") if a.dtype.kind == "f" else a for a in arrays]


# pooling


def run_pooling(
    name: str, arrays: Sequence[np.ndarray], machine="native", halo=NO_HALO, **attrs
) -> np.ndarray:
    values = [value_of(array) for array in arrays]
    anchor = node(name, *values, **attrs)
    layouts = {}
    for value, around in [*((v, (0, 1, 1, 0)) for v in values), (anchor.output, halo)]:
        whole = value.type.dtype.startswith("float")
        layouts[value] = channels_last(value.type, around if whole else NO_HALO)
    return run(Group(anchor), layouts, dict(zip(values, arrays)), machine)


@pytest.mark.parametrize("halo", [NO_HALO, ASYMMETRIC], ids=["plain", "halo"])
@pytest.mark.parametrize("dtype, machine", zip(DTYPES, TARGETS))
@pytest.mark.parametrize("name, number", POOLING)
def test_pooling_examples(name, number, dtype, machine, halo) -> None:
    op = REGISTRY[name]
    example = op.examples[number]
    arrays = inputs_of(op, example, dtype)
    result = run_pooling(name, arrays, machine, halo, **example.attrs)
    reference = op.reference(*wide(arrays), **example.attrs)
    assert_close(result, reference) if result.dtype.kind == "f" else (
        np.testing.assert_array_equal(result, reference)
    )


POOL = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1),
        "ceil_mode": False}  # fmt: skip
OVERLAPPING = {**POOL, "kernel": (3, 3), "padding": (1, 1)}


@pytest.mark.parametrize("attrs", [POOL, OVERLAPPING], ids=["apart", "overlapping"])
@pytest.mark.parametrize("special", ["ties", "NaN", "-inf"])
def test_index_of_special_values(special, attrs) -> None:
    """The first of equal maxima, the last NaN: PyTorch's gradient goes there too."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, (2, 5, 9, 8)).astype("float32")
    if special != "ties":
        x[rng.random(x.shape) < 0.6] = float(special)
    index = run_pooling("max_pool2d_index", [x], **attrs)
    np.testing.assert_array_equal(
        index, get_op("max_pool2d_index").reference(x, **attrs)
    )
    g = normal(*index.shape)
    leaf = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(
        leaf, attrs["kernel"], attrs["stride"], attrs["padding"]
    )
    pooled.backward(torch.tensor(g))
    result = run_pooling("max_pool2d_grad", [g, index], input_size=(9, 8), **attrs)
    assert_close(result, leaf.grad.numpy(), np.abs(g).max())


@pytest.mark.parametrize("attrs", [POOL, OVERLAPPING], ids=["apart", "overlapping"])
def test_infinite_gradients_stay_where_they_belong(attrs) -> None:
    """A window's gradient of NaN or infinity reaches its maximum only."""
    x = normal(2, 3, 6, 6)
    index = run_pooling("max_pool2d_index", [x], **attrs)
    g = normal(*index.shape)
    g.reshape(-1)[:3] = [np.nan, np.inf, -np.inf]
    result = run_pooling("max_pool2d_grad", [g, index], input_size=(6, 6), **attrs)
    reference = get_op("max_pool2d_grad").reference(
        g, index, input_size=(6, 6), **attrs
    )
    assert_close(result, reference, np.ones_like(reference))


def test_index_of_many_taps() -> None:
    attrs = {**POOL, "kernel": (17, 20), "stride": (5, 3)}
    x = normal(1, 3, 24, 23)
    index = run_pooling("max_pool2d_index", [x], **attrs)
    assert index.dtype == np.int32 and index.max() > 256
    np.testing.assert_array_equal(
        index, get_op("max_pool2d_index").reference(x, **attrs)
    )
    g = normal(*index.shape)
    options = {"input_size": (24, 23), **attrs}
    result = run_pooling("max_pool2d_grad", [g, index], **options)
    expected = get_op("max_pool2d_grad").reference(*wide([g, index]), **options)
    assert_close(result, expected, np.abs(g).max())


@pytest.mark.parametrize("attrs", [POOL, OVERLAPPING], ids=["apart", "overlapping"])
def test_pointwise_nodes_ride_on_a_pooling_gradient(attrs) -> None:
    """relu_grad of the gradient, plus another image, at uncovered positions too."""
    x, other = normal(3, 18, 9, 7), normal(3, 18, 9, 7, seed=1)
    index = run_pooling("max_pool2d_index", [x], **attrs)
    g = normal(*index.shape, seed=2)
    arrays = [g, index, x, other]
    values = [value_of(array) for array in arrays]
    anchor = node("max_pool2d_grad", *values[:2], input_size=(9, 7), **attrs)
    relu = node("relu_grad", anchor.output, values[2])
    total = node("add", relu.output, values[3])
    layouts = {v: channels_last(v.type, NO_HALO) for v in (*values, total.output)}
    group = Group(anchor, (relu, total))
    result = run(group, layouts, dict(zip(values, arrays)))
    dx = get_op("max_pool2d_grad").reference(
        *wide([g, index]), input_size=(9, 7), **attrs
    )
    assert_close(result, np.where(x > 0, dx, 0) + other, np.abs(dx) + np.abs(other))


# sums

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
@pytest.mark.parametrize("dtype, machine", zip(DTYPES, TARGETS))
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


def test_a_long_sum_is_accurate() -> None:
    """A single float32 chain of a million terms of 0.1 would be 1 % off."""
    x = np.full((1, 1 << 20), 0.1, np.float32)
    value = value_of(x)
    anchor = node("sum", value, dims=(1,), keepdim=False)
    layouts = {v: row_major(v.type) for v in (value, anchor.output)}
    target = TARGETS["native"]()
    kernel = KernelRun(Group(anchor), layouts, target, lower(Group(anchor), target))
    memories = [kernel.memory(v, 1, {value: x}) for v in kernel.values]
    kernel._compiled(kernel.program(1))(memories, 1)
    (total,) = kernel.inside(anchor.output, memories[1], 1)
    np.testing.assert_allclose(total, np.float64(x[0, 0]) * x.size, 1e-5)


# movements


def check_in_all_layouts(
    made: Node, arrays: dict[Value, np.ndarray], machine: str, anchored: bool = True
) -> None:
    group = Group(made) if anchored else Group(None, (made,))
    inputs = [arrays[value] for value in made.inputs]
    expected = get_op(made.op).reference(*wide(inputs), **made.attrs)
    sources = [list(layouts_of(v.type, (1, 1, 0, 1))) for v in made.inputs]
    for out in layouts_of(made.output.type, ASYMMETRIC):
        for number in range(max(map(len, sources))):
            chosen = [found[min(number, len(found) - 1)] for found in sources]
            layouts = {**dict(zip(made.inputs, chosen)), made.output: out}
            assert_close(run(group, layouts, arrays, machine), expected)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "static"])
@pytest.mark.parametrize("dtype, machine", zip(DTYPES, TARGETS))
@pytest.mark.parametrize(
    "shape, like",
    [
        ((), (5, 3, 4, 6)),
        ((3, 1, 1), (5, 3, 4, 6)),
        ((1, 3, 1, 1), (5, 3, 4, 6)),
        ((4, 6), (5, 3, 4, 6)),
        ((1, 18, 3, 1), (2, 18, 3, 4)),
        ((10,), (5, 10)),
        ((), (37,)),
        ((5, 1, 4), (5, 3, 4)),
    ],
)
def test_broadcast_like(shape, like, dtype, machine, batched) -> None:
    """The second input's memory is NaN: it is not read."""
    own = batched and len(shape) == len(like) and shape[0] == like[0] > 1
    x, other = (
        value_of(normal(*shape, dtype=dtype), own),
        value_of(normal(*like, dtype=dtype), batched),
    )
    arrays = {x: normal(*shape, dtype=dtype), other: np.full(like, np.nan, dtype)}
    check_in_all_layouts(node("broadcast_like", x, other), arrays, machine)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("dtype, machine", zip(DTYPES, TARGETS))
@pytest.mark.parametrize(
    "shape, padding, batched",
    [
        ((2, 18, 8, 7), ((0, 0), (0, 0), (1, 2), (3, 0)), True),
        ((2, 3, 8, 7), ((0, 0), (0, 0), (1, 2), (3, 0)), False),
        ((4, 17), ((0, 0), (2, 6)), True),
        ((8, 5), ((1, 2), (1, 1)), False),
    ],
)
def test_pad_grad(shape, padding, batched, mode, dtype, machine) -> None:
    g = normal(*shape, dtype=dtype)
    value = value_of(g, batched)
    made = node("pad_grad", value, padding=padding, mode=mode)
    check_in_all_layouts(made, {value: g}, machine)


@pytest.mark.parametrize("dtype, machine", zip(DTYPES, TARGETS))
@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(5, 7), (37,), (5, 3, 4, 6)])
def test_labels(shape, kind, dtype, machine) -> None:
    """Integers of memory are floats in the expression; ignored ones become -1."""
    t = np.random.default_rng(0).integers(0, 9, shape).astype(kind)
    value = value_of(t)
    made = node("labels", value, classes=9, ignore_index=2, dtype=dtype)
    check_in_all_layouts(made, {value: t}, machine, anchored=False)

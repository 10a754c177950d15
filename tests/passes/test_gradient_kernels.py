"""Kernels of pooling gradients, of movements of gradients, and of labels.

Each runs on hand-made layouts, by the interpreter and compiled, against the op's NumPy
reference in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from kernel_harness import (
    NO_HALO,
    VARIANTS,
    layouts_of,
    node,
    normal,
    run,
    value_of,
    wide,
)
from op_cases import inputs_of
from tolerance import assert_close

from jitseq.ir.graph import Node, Value
from jitseq.ir.layout import channels_last
from jitseq.ir.op import REGISTRY, get_op
from jitseq.passes.fusion_group import Group

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
@pytest.mark.parametrize("dtype, machine", VARIANTS)
@pytest.mark.parametrize("name, number", POOLING)
def test_pooling_examples(name, number, dtype, machine, halo) -> None:
    op = REGISTRY[name]
    example = op.examples[number]
    arrays = inputs_of(op, example, dtype)
    result = run_pooling(name, arrays, machine, halo, **example.attrs)
    reference = op.reference(*wide(arrays), **example.attrs)
    if result.dtype.kind != "f":
        np.testing.assert_array_equal(result, reference)
        return
    size = op.reference(*map(np.abs, wide(arrays)), **example.attrs)
    assert_close(result, reference, size)


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
    torch = pytest.importorskip("torch")
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
    np.testing.assert_allclose(result, reference, 1e-6, 1e-6)


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


# movements


def check_in_all_layouts(
    made: Node, arrays: dict[Value, np.ndarray], machine: str, anchored: bool = True
) -> None:
    group = Group(made) if anchored else Group(None, (made,))
    inputs = [arrays[value] for value in made.inputs]
    expected = get_op(made.op).reference(*wide(inputs), **made.attrs)
    size = np.abs(expected)
    if made.op == "pad_grad":
        size = get_op(made.op).reference(*map(np.abs, wide(inputs)), **made.attrs)
    sources = [list(layouts_of(v.type, (1, 1, 0, 1))) for v in made.inputs]
    for out in layouts_of(made.output.type, ASYMMETRIC):
        for number in range(max(map(len, sources))):
            chosen = [found[min(number, len(found) - 1)] for found in sources]
            layouts = {**dict(zip(made.inputs, chosen)), made.output: out}
            assert_close(run(group, layouts, arrays, machine), expected, size)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "static"])
@pytest.mark.parametrize("dtype, machine", VARIANTS)
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
    array, unread = normal(*shape, dtype=dtype), np.full(like, np.nan, dtype)
    x, other = value_of(array, own), value_of(unread, batched)
    arrays = {x: array, other: unread}
    check_in_all_layouts(node("broadcast_like", x, other), arrays, machine)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("dtype, machine", VARIANTS)
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


@pytest.mark.parametrize("dtype, machine", VARIANTS)
@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(5, 7), (37,), (5, 3, 4, 6)])
def test_labels(shape, kind, dtype, machine) -> None:
    """Integers of memory are floats in the expression; ignored ones become -1."""
    t = np.random.default_rng(0).integers(0, 9, shape).astype(kind)
    value = value_of(t)
    made = node("labels", value, classes=9, ignore_index=2, dtype=dtype)
    check_in_all_layouts(made, {value: t}, machine, anchored=False)

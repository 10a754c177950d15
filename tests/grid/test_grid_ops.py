"""Every op, its gradients and its updates as grids of threads, against the references.

The interpreter refuses accesses outside of buffers, races, and barriers that not all
threads reach; what nothing wrote is NaN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from grid_graph import LARGE, SMALL, gridded
from native_graph import Nodes, by_references
from op_cases import CONTRACTIONS
from test_op_programs import (
    CASES,
    DIFFERENTIABLE,
    assert_near,
    feeds,
    graph_of,
    joint_graph,
)

from jitseq.ir.compute import AxisWindows, Update
from jitseq.ir.graph import Graph, Value
from jitseq.ir.op import Example, Op
from jitseq.ir.target import GridTarget
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.grid.schedule import schedule
from jitseq.passes.grid.windows import EvenAxis, UnevenAxis, axis_of
from jitseq.passes.pipeline import optimise

FINITE_OR_NOT = [
    case
    for case in CASES
    if not case.values[0].derived
    and not case.values[1].below
    and case.values[0].name not in CONTRACTIONS
    and not isinstance(case.values[0].compute, Update)
]
"""Contractions multiply what lies outside of images by no weights."""


def check(op: Op, example: Example, dtype: str, target: GridTarget) -> None:
    graph = graph_of(op, example, dtype)
    inputs, params = feeds(graph, op, example, dtype)
    expected = by_references(graph, inputs, params)
    assert_near(gridded(graph, inputs, params, target), expected, dtype)


@pytest.mark.parametrize("op, example", CASES)
def test_ops(op: Op, example: Example) -> None:
    check(op, example, "float64", SMALL)


@pytest.mark.parametrize("op, example", CASES[::3])
def test_ops_in_float32(op: Op, example: Example) -> None:
    check(op, example, "float32", LARGE)


@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_gradients(op: Op, example: Example) -> None:
    graph = joint_graph(graph_of(op, example, "float64"))
    inputs, params = feeds(graph, op, example, "float64")
    expected = by_references(graph, inputs, params)
    found = gridded(graph, inputs, params, SMALL)
    assert_near(found, expected, "float64")


@pytest.mark.parametrize("op, example", DIFFERENTIABLE[::3])
def test_gradients_unfused(op: Op, example: Example) -> None:
    graph = joint_graph(graph_of(op, example, "float64"))
    inputs, params = feeds(graph, op, example, "float64")
    expected = by_references(graph, inputs, params)
    disabled = frozenset({"fuse", "simplify", "reuse_memory"})
    found = gridded(graph, inputs, params, LARGE, disabled)
    assert_near(found, expected, "float64")


@pytest.mark.parametrize("op, example", FINITE_OR_NOT)
def test_nan_and_infinity(op: Op, example: Example) -> None:
    """Special values spread as they do in the references."""
    graph = graph_of(op, example, "float64")
    inputs, params = feeds(graph, op, example, "float64")
    first = inputs[0].reshape(-1)
    first[:3] = [np.nan, np.inf, -np.inf][: first.size]
    (expected,) = by_references(graph, inputs, params)
    (found,) = gridded(graph, inputs, params, SMALL)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (7, 33), (3,)])
def test_random_numbers(shape: tuple[int, ...], dtype: str) -> None:
    """Readers compute them, from the key and the index in the whole batch."""
    key = Value(TensorType("uint32", (2,)))
    x = Value(TensorType(dtype, (BATCH, *shape[1:])))
    emit = Nodes()
    total = emit("add", emit("random_uniform", key, x), x)
    graph = Graph((key, x), (), tuple(emit.nodes), (total,))
    arrays = [np.array([7, 2**32 - 5], np.uint32), np.zeros(shape, dtype)]
    (found,) = gridded(graph, arrays, {}, SMALL)
    np.testing.assert_array_equal(found, by_references(graph, arrays, {})[0])


POOLS = [
    (op, attrs)
    for op in ("max_pool2d", "avg_pool2d")
    for attrs in (
        {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1)},
        {"kernel": (5, 3), "stride": (3, 2), "padding": (2, 1), "ceil_mode": True},
        {"kernel": (2, 3), "stride": (1, 4), "padding": (1, 0)},
        {"kernel": (7, 9), "stride": (1, 2), "padding": (3, 4)},
    )
] + [
    ("max_pool2d", {"kernel": (3, 2), "stride": (2, 3), "dilation": (2, 3)}),
    ("max_pool2d", {"kernel": (3, 3), "padding": (1, 1), "dilation": (3, 2)}),
    ("avg_pool2d", {"kernel": (3, 3), "padding": (1, 1), "count_include_pad": False}),
    ("avg_pool2d", {"kernel": (3, 3), "padding": (1, 1), "divisor_override": 5}),
    ("avg_pool2d", {"kernel": (11, 10)}),
    ("avg_pool2d", {"kernel": (11, 10), "divisor_override": 7}),
    ("max_pool2d", {"kernel": (11, 10)}),
    ("adaptive_avg_pool2d", {"output_size": (3, 4)}),
    ("adaptive_max_pool2d", {"output_size": (4, 1)}),
]


@pytest.mark.parametrize("op, attrs", POOLS)
def test_pooling_windows(op: str, attrs: dict[str, Any]) -> None:
    """Forward, index and gradient, with windows that are cut off, dilated or uneven."""
    x = Value(TensorType("float64", (BATCH, 3, 11, 10)), "x")
    emit = Nodes()
    y = emit(op, x, **pool_options(op, attrs))
    graph = joint_graph(Graph((x,), (), tuple(emit.nodes), (y,)))
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(2, 3, 11, 10)), rng.normal(size=(2, *y.type.shape[1:]))]
    arrays = [np.round(array, 1) for array in arrays]  # equal maxima occur
    arrays += [np.zeros(1)] * (len(graph.inputs) - 2)
    expected = by_references(graph, arrays, {})
    assert_near(gridded(graph, arrays, {}, SMALL), expected, "float64")


def pool_options(op: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of what is not said."""
    if op.startswith("adaptive"):
        return attrs
    known = {"padding": (0, 0), "ceil_mode": False, "stride": attrs["kernel"]}
    if op == "max_pool2d":
        known["dilation"] = (1, 1)
    else:
        known |= {"count_include_pad": True, "divisor_override": None}
    return known | attrs


def test_both_kinds_of_windows() -> None:
    """The even ones take no tables."""
    padded = AxisWindows((0, 1, 3, 5), (2, 3, 3, 2), 1, (3, 3, 3, 3))
    adaptive = AxisWindows((0, 2, 5, 7), (3, 3, 3, 3), 1, (3, 3, 3, 3))
    assert isinstance(axis_of(padded, 7), EvenAxis)
    assert isinstance(axis_of(adaptive, 10), UnevenAxis)
    late = AxisWindows((1,), (3,), 1, (3,))
    assert isinstance(axis_of(late, 5), UnevenAxis)


@pytest.mark.parametrize("op", ["avg_pool2d", "max_pool2d"])
@pytest.mark.parametrize("kernel", [(4, 5), (2, 3)], ids=["image", "window"])
def test_nodes_ride_on_windows(op: str, kernel: tuple[int, int]) -> None:
    x = Value(TensorType("float64", (BATCH, 3, 4, 5)), "x")
    scale = Value(TensorType("float64", (3, 1, 1)), "scale")
    emit = Nodes()
    y = emit(op, x, **pool_options(op, {"kernel": kernel}))
    z = emit("tanh", emit("mul", y, scale))
    graph = Graph((x, scale), (), tuple(emit.nodes), (z,))
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(3, 3, 4, 5)), rng.normal(size=(3, 1, 1))]
    fused = optimise(graph)
    assert len(schedule(fused, SMALL).kernels) == 1
    expected = by_references(graph, arrays, {})
    assert_near(gridded(graph, arrays, {}, SMALL), expected, "float64")


SUMS = [
    ("batch_sum", (BATCH, 5, 7), {}, 50),
    ("batch_sum", (BATCH,), {}, 70),
    ("batch_sum", (BATCH, 300), {}, 7),
    ("channel_sum", (200, 300), {"axis": 1}, 1),
    ("batch_sum", (600, 2), {}, 1),
    ("channel_sum", (BATCH, 6, 3, 5), {"axis": 1}, 9),
    ("channel_sum", (400, 3), {"axis": 1}, 1),
    ("sum", (BATCH, 3, 70), {"dims": (1, 2), "keepdim": False}, 3),
    ("mean", (BATCH, 3, 7, 5), {"dims": (1, 3), "keepdim": True}, 3),
    ("mean", (300, 3, 7), {"dims": (0, 2), "keepdim": False}, 1),
    ("mean", (300, 3, 40), {"dims": (0, 2), "keepdim": False}, 1),
    ("softmax", (BATCH, 70), {"dim": 1}, 5),
    ("log_softmax", (BATCH, 5, 9), {"dim": 1}, 5),
    ("max", (BATCH, 3, 130), {"dims": (1, 2), "keepdim": False}, 2),
    ("log_softmax", (BATCH, 2100), {"dim": 1}, 2),
    ("mean", (BATCH, 2, 5, 300), {"dims": (1, 3), "keepdim": True}, 3),
    ("channel_sum", (BATCH, 3, 20, 33), {"axis": 1}, 5),
]


ODD = replace(SMALL, threads=24)
"""A block of three warps: rows are shared by powers of two."""


@pytest.mark.parametrize("target", [SMALL, LARGE, ODD], ids=["small", "large", "odd"])
@pytest.mark.parametrize("op, shape, attrs, images", SUMS)
def test_rows(
    op: str, shape: Any, attrs: dict[str, Any], images: int, target: GridTarget
) -> None:
    """Rows longer and shorter than a warp, sums in parts, with any batch."""
    x = Value(TensorType("float64", shape), "x")
    emit = Nodes()
    y = emit(op, x, **attrs)
    graph = Graph((x,), (), tuple(emit.nodes), (y,))
    rng = np.random.default_rng(2)
    for count in {images, 1} if x.type.has_batch else {shape[0]}:
        arrays = [rng.normal(size=(count, *shape[1:]))]
        expected = by_references(graph, arrays, {})
        assert_near(gridded(graph, arrays, {}, target), expected, "float64")


@pytest.mark.parametrize("target", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (300,), (6, 30, 11)])
def test_sums_of_expressions(shape: tuple[int, ...], target: GridTarget) -> None:
    """What lies outside counts as zero, not as what an expression makes of zero."""
    x = Value(TensorType("float64", (BATCH, *shape)), "x")
    channel = Value(TensorType("float64", (1, shape[0], *(1,) * (x.type.ndim - 2))))
    emit = Nodes()
    y = emit("exp", emit("mul", emit("sub", x, channel), x))
    total = emit("channel_sum", y, axis=1)
    graph = Graph((x, channel), (), tuple(emit.nodes), (total,))
    kernels = schedule(optimise(graph), target).kernels
    assert all(kernel.ops[-1] == "channel_sum" for kernel in kernels)
    rng = np.random.default_rng(2)
    for images in (1, 4, 13):
        arrays = [
            rng.normal(size=(images, *shape)),
            rng.normal(size=channel.type.shape),
        ]
        expected = by_references(graph, arrays, {})
        assert_near(gridded(graph, arrays, {}, target), expected, "float64")

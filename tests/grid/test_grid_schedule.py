"""The schedule of grids: memory, results, the order of updates, kernels made once."""

from __future__ import annotations

import numpy as np
import pytest
from grid_graph import LARGE, SMALL, gridded, run_schedule
from native_graph import Nodes, by_references
from pass_cases import traced

from jitseq import nn
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.program_text import program_text
from jitseq.ir.types import BATCH, TensorType
from jitseq.nn import functional as F
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.order import in_order
from jitseq.passes.grid.schedule import GridSchedule, schedule
from jitseq.passes.pipeline import optimise

ROWS = TensorType("float64", (BATCH, 6))


def scheduled(graph: Graph, *disabled: str) -> GridSchedule:
    left_out = frozenset(disabled)
    return schedule(optimise(graph, left_out), SMALL, left_out)


def chain() -> Graph:
    """Four values with a batch, of which two live at a time."""

    def function(x: nn.Module) -> nn.Module:
        for _ in range(4):
            x = F.softmax(x, 1)
        return x

    return traced(function, (5, 6))


def test_one_schedule_serves_every_batch() -> None:
    graph = chain()
    planned = scheduled(graph)
    for images in (1, 2, 9, 40, 0):
        x = np.random.default_rng(1).normal(size=(images, 6)).astype(np.float32)
        (found,) = run_schedule(graph, planned, [x], {})
        np.testing.assert_allclose(found, by_references(graph, [x], {})[0], 1e-5)


def test_values_share_memory() -> None:
    program = scheduled(chain()).planned.program
    apart = scheduled(chain(), "reuse_memory").planned.program
    assert program.batch_bytes == (2 * 64,) and apart.batch_bytes == (3 * 64,)
    assert program.fixed_bytes == 0 and len(program.segments) == 1


def test_without_a_batch_memory_is_fixed() -> None:
    x = Value(TensorType("float64", (200, 300)), "x")
    emit = Nodes()
    total = emit("batch_sum", emit("softmax", x, dim=1))
    graph = Graph((x,), (), tuple(emit.nodes), (total,))
    program = scheduled(graph).planned.program
    assert program.batch_bytes == (0,)
    assert program.fixed_bytes == 200 * 300 * 8 + 7232  # 3 parts of 2400 bytes


def test_equal_kernels_are_made_once() -> None:
    """An update's kernel serves parameters of all sizes."""
    sizes = ((3, 4), (7,), ())
    params = [Value(TensorType("float64", s), f"p{i}") for i, s in enumerate(sizes)]
    inputs = [Value(p.type, f"g{i}") for i, p in enumerate(params)]
    emit = Nodes()
    outputs = tuple(emit("assign", p, g) for p, g in zip(params, inputs))
    graph = Graph(tuple(inputs), tuple(params), tuple(emit.nodes), outputs)
    planned = scheduled(graph)
    program = planned.planned.program
    assert len(planned.kernels) == 3 and len(program.kernels) == 1
    assert [call.count for call in program.segments[0].calls] == [12, 7, 1]
    assert planned.planned.function_of_kernel == (0, 0, 0)
    assert planned.planned.variables == tuple(params)


def test_results_have_memory_of_their_own() -> None:
    """Inputs, views, constants and values that are returned twice are copied."""
    x, p = Value(ROWS, "x"), Value(TensorType("float64", (6,)), "p")
    emit = Nodes()
    y = emit("mul", x, p)
    view = emit("reshape", y, shape=(BATCH, 2, 3))
    twice = emit("exp", p)
    outputs = (y, x, view, y, p, twice)
    graph = Graph((x,), (p,), tuple(emit.nodes), outputs)
    rng = np.random.default_rng(1)
    arrays, params = [rng.normal(size=(4, 6))], {p: rng.normal(size=6)}
    planned = scheduled(graph)
    assert len(set(planned.results)) == len(outputs)
    assert [kernel.ops for kernel in planned.kernels].count(("copy",)) == 5
    for found, expected in zip(
        run_schedule(graph, planned, arrays, params),
        by_references(graph, arrays, params),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, 1e-12)


def test_views_run_no_kernel() -> None:
    x = Value(ROWS, "x")
    emit = Nodes()
    view = emit("reshape", emit("reshape", x, shape=(BATCH, 3, 2)), shape=(BATCH, 2, 3))
    y = emit("softmax", view, dim=1)
    graph = Graph((x,), (), tuple(emit.nodes), (y,))
    planned = scheduled(graph, "simplify")
    assert [kernel.ops for kernel in planned.kernels] == [("softmax",)]
    assert set(planned.aliases.values()) == {planned.fused.graph.inputs[0]}


def test_nothing_is_run_where_nothing_is_made() -> None:
    x = Value(TensorType("float64", (BATCH, 0, 3)), "x")
    emit = Nodes()
    y = emit("exp", x)
    total = emit("sum", y, dims=(1,), keepdim=False)
    graph = Graph((x,), (), tuple(emit.nodes), (y, total))
    for target in (SMALL, LARGE):
        found = gridded(graph, [np.zeros((4, 0, 3))], {}, target)
        assert found[0].shape == (4, 0, 3)
        np.testing.assert_array_equal(found[1], np.zeros((4, 3)))


def test_a_program_of_nothing() -> None:
    x = Value(TensorType("float64", (BATCH, 0)), "x")
    emit = Nodes()
    y = emit("exp", x)
    planned = scheduled(Graph((x,), (), tuple(emit.nodes), (y,)))
    program = planned.planned.program
    assert planned.kernels == () and program.segments == ()
    assert "segment" not in program_text(program)


# the order of updates


def update(p: Value, g: Value) -> tuple[Group, Value]:
    new = Value(p.type, f"{p.name}'")
    return Group(Node("assign", (p, g), {}, (new,))), new


def pointwise(*inputs: Value) -> tuple[Group, Value]:
    out = Value(inputs[0].type)
    return Group(None, (Node("add", (*inputs, inputs[0]), {}, (out,)),)), out


def test_an_update_waits_for_readers_of_the_old_value() -> None:
    p, g, x = (Value(TensorType("float64", (3,)), name) for name in "pgx")
    first, new = update(p, g)
    old, _ = pointwise(p)
    fresh, _ = pointwise(new)
    second, last = update(new, x)
    groups = [first, second, old, fresh]
    assert in_order(groups) == [old, first, fresh, second]
    after, _ = pointwise(last)
    assert in_order([first, after, second, fresh]) == [first, fresh, second, after]


def test_an_update_waits_for_readers_of_views() -> None:
    p, g = (Value(TensorType("float64", (3,)), name) for name in "pg")
    seen = Value(TensorType("float64", (3, 1)), "view")
    view = Group(Node("reshape", (p,), {"shape": (3, 1)}, (seen,)))
    change, _ = update(p, g)
    reader, _ = pointwise(seen)
    groups = [view, change, reader]
    assert in_order(groups) == [view, reader, change]


def test_readers_of_both_values_are_refused() -> None:
    p, g = (Value(TensorType("float64", (3,)), name) for name in "pg")
    change, new = update(p, g)
    reader, _ = pointwise(p, new)
    with pytest.raises(AssertionError, match="both values"):
        in_order([change, reader])


def test_updates_run_in_place() -> None:
    """What reads a variable before, and what reads it after, in one program."""
    p, x = Value(TensorType("float64", (6,)), "p"), Value(ROWS, "x")
    emit = Nodes()
    y = emit("mul", x, p)
    new = emit("assign", p, emit("batch_sum", y))
    z = emit("softmax", emit("add", x, new), dim=1)
    graph = Graph((x,), (p,), tuple(emit.nodes), (z, new, y))
    rng = np.random.default_rng(1)
    arrays, params = [rng.normal(size=(4, 6))], {p: rng.normal(size=6)}
    for found, expected in zip(
        gridded(graph, arrays, params, SMALL),
        by_references(graph, arrays, params),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, 1e-12)

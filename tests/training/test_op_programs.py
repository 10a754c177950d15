"""Every op and its gradient as programs: with a batch, in place, in any order.

For each example of an op: the result, the gradients of all inputs for a random
cotangent, and what becomes of weights that change in place, against the references.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from native_graph import (
    Arrays,
    Nodes,
    Params,
    by_references,
    compiled,
    interpreted,
)
from op_cases import CONTRACTIONS, UPDATES, batched, inputs_of, types_of

from jitseq.errors import NeedsStaticBatch
from jitseq.ir.compute import Update
from jitseq.ir.graph import Graph, Value
from jitseq.ir.op import REGISTRY, Example, Op
from jitseq.ir.target import Target
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.autodiff import differentiate

LAYERS = (*CONTRACTIONS, "batch_norm")
"""Their inputs behind the first are parameters."""

CLOSE = {"float64": 2e-12, "float32": 4e-4}
NARROW = Target("narrow", "", 8, 8)
MOST_ELEMENTS = 700
CASES = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if op.compute is not None and op.name != "constant"
    for index, example in enumerate(op.examples)
]
GRADIENT_OPS = [case for case in CASES if case.values[0].derived]
"""They stand in training steps only."""

DIFFERENTIABLE = [
    case
    for case in CASES
    if case.values[0].vjp is not None and not case.values[1].below
]


def examples_types(op: Op, example: Example, dtype: str) -> list[TensorType]:
    """With a symbolic batch where the op infers with one."""
    static = types_of(example, dtype)
    if isinstance(op.compute, Update):
        return static
    try:
        symbolic = batched(op, example, BATCH)
        if symbolic is None or example.shapes[0][0] == 0:
            return static
        types = [
            type.with_shape(other.shape)
            for type, other in zip(static, symbolic, strict=True)
        ]
        op.infer(*types, **example.attrs)
    except (NeedsStaticBatch, TypeError):
        return static
    return types


def graph_of(op: Op, example: Example, dtype: str) -> Graph:
    types = examples_types(op, example, dtype)
    values = [Value(type, f"x{i}") for i, type in enumerate(types)]
    params = values[1:] if op.name in LAYERS else []
    if isinstance(op.compute, Update):
        params = [values[0], *values[2 : 2 + op.compute.states]]
    inputs = tuple(value for value in values if value not in params)
    emit = Nodes()
    emit(op.name, *values, **example.attrs)
    return Graph(inputs, tuple(params), tuple(emit.nodes), emit.nodes[-1].outputs)


def joint_graph(graph: Graph) -> Graph:
    """Result and gradients; params have taken a tenth of their gradient in."""
    wrt = (*graph.inputs, *graph.params)
    joint = differentiate(graph, wrt)
    share = Value(TensorType(graph.outputs[0].type.dtype, (1,)), "share")
    emit = Nodes(joint.graph.nodes)
    outputs = list(joint.graph.outputs)
    for param, gradient in zip(wrt, joint.gradients, strict=True):
        if param in graph.params:
            outputs.append(emit("gather_in", param, gradient, share))
    return Graph(
        (*joint.graph.inputs, share), graph.params, tuple(emit.nodes), tuple(outputs)
    )


def feeds(graph: Graph, op: Op, example: Example, dtype: str) -> tuple[Arrays, Params]:
    """Arrays of the inputs and params of an op's graph, or of its joint graph."""
    rng = np.random.default_rng(zlib.crc32(op.name.encode()) + 1)
    arrays = inputs_of(op, example, dtype)
    by_name = {f"x{i}": array for i, array in enumerate(arrays)}
    by_name["share"] = np.full(1, 0.1, dtype)
    if "share" in (value.name for value in graph.inputs):
        shape = np.shape(op.reference(*arrays, **example.attrs))
        by_name["g"] = np.asarray(rng.normal(size=shape), dtype)
    inputs = [by_name[value.name] for value in graph.inputs]
    return inputs, {param: by_name[param.name] for param in graph.params}


def assert_near(found: list, expected: list, dtype: str) -> None:
    """Relative to the largest number of each array."""
    for array, reference in zip(found, expected, strict=True):
        assert array.dtype == reference.dtype and array.shape == reference.shape
        size = np.abs(reference, dtype=np.float64).max(initial=0.0)
        np.testing.assert_allclose(
            array, reference, CLOSE[dtype], CLOSE[dtype] * size + 1e-300
        )


@pytest.mark.parametrize("op, example", [*GRADIENT_OPS, *UPDATES])
def test_ops_of_training_steps(op, example) -> None:
    for dtype in ("float64", "float32"):
        graph = graph_of(op, example, dtype)
        inputs, params = feeds(graph, op, example, dtype)
        expected = by_references(graph, inputs, params)
        assert_near(compiled(graph, inputs, params), expected, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (7, 33), (3,)])
def test_random_numbers(shape, dtype) -> None:
    """Readers compute them, from the key and the index in the whole batch."""
    key = Value(TensorType("uint32", (2,)))
    x = Value(TensorType(dtype, (BATCH, *shape[1:])))
    emit = Nodes()
    u = emit("random_uniform", key, x)
    total = emit("add", u, x)
    graph = Graph((key, x), (), tuple(emit.nodes), (total,))
    arrays = [np.array([7, 2**32 - 5], np.uint32), np.zeros(shape, dtype)]
    (found,) = compiled(graph, arrays, {}, frozenset({"segment"}))
    np.testing.assert_array_equal(found, by_references(graph, arrays, {})[0])


def check_gradients(op: Op, example: Example, dtype: str) -> None:
    graph = joint_graph(graph_of(op, example, dtype))
    inputs, params = feeds(graph, op, example, dtype)
    expected = by_references(graph, inputs, params)
    # twice: sums start from zero again
    assert_near(compiled(graph, inputs, params, calls=2), expected, dtype)


@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_gradients(op, example) -> None:
    check_gradients(op, example, "float64")


@pytest.mark.parametrize("op, example", DIFFERENTIABLE[::4])
def test_gradients_in_float32(op, example) -> None:
    check_gradients(op, example, "float32")


@pytest.mark.parametrize("op, example", DIFFERENTIABLE[1::4])
def test_gradients_unfused_on_two_threads(op, example, monkeypatch) -> None:
    monkeypatch.setenv("JITSEQ_TARGET", "x86-64-v3")
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 0)
    graph = joint_graph(graph_of(op, example, "float64"))
    inputs, params = feeds(graph, op, example, "float64")
    expected = by_references(graph, inputs, params)
    disabled = frozenset({"fuse", "simplify", "segment"})
    found = compiled(graph, inputs, params, disabled, threads=2)
    assert_near(found, expected, "float64")


SMALL = [
    case
    for case in DIFFERENTIABLE
    if sum(np.prod(shape) for shape in case.values[1].shapes) <= MOST_ELEMENTS
]


@pytest.mark.parametrize("op, example", SMALL[::2])
def test_gradients_interpreted(op, example) -> None:
    """Nothing outside of buffers, nothing unwritten."""
    graph = joint_graph(graph_of(op, example, "float64"))
    inputs, params = feeds(graph, op, example, "float64")
    expected = by_references(graph, inputs, params)
    assert_near(interpreted(graph, inputs, params, NARROW), expected, "float64")

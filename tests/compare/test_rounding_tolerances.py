"""What rounding explains: enough for correct float32, and no more than it needs."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from jitseq.compare.rounding import LIKELY, Uncertain, evaluate, exact
from jitseq.ir.compute import Update
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import REGISTRY, Example, Op, get_op
from jitseq.ir.types import FLOAT_DTYPES, type_of

get_op("relu")  # registers every family
CASES = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if not isinstance(op.compute, Update)
    for index, example in enumerate(op.examples)
]
FEW_ULPS = 2.0**-23 * 64


def node_of(op: Op, example: Example, seed: int = 0) -> tuple[Node, list[np.ndarray]]:
    """The op on float32 arrays drawn as its example says."""
    rng = np.random.default_rng(zlib.crc32(op.name.encode()) + seed)
    arrays = []
    for i, shape in enumerate(example.shapes):
        if i in example.below:
            dtype = np.uint8 if example.below[i] <= 256 else np.uint32
            arrays.append(rng.integers(0, example.below[i], shape).astype(dtype))
            continue
        x = rng.standard_normal(shape)
        if example.low is not None or example.high is not None:
            x = rng.uniform(example.low, example.high, shape)
        arrays.append(np.asarray(x, np.float32))
    inputs = tuple(Value(type_of(array)) for array in arrays)
    output = Value(op.infer(*(value.type for value in inputs), **example.attrs))
    return Node(op.name, inputs, example.attrs, (output,)), arrays


@pytest.mark.parametrize(("op", "example"), CASES)
def test_float32_is_within_the_tolerance(op, example) -> None:
    for seed in range(3):
        node, arrays = node_of(op, example, seed)
        if node.output.type.dtype != "float32":
            return
        result = evaluate(node, [exact(array) for array in arrays])
        assert result.value.dtype == np.float64
        found = op.reference(*arrays, **example.attrs)
        allowed = LIKELY * result.error + np.finfo(np.float32).tiny
        apart = np.abs(np.asarray(found, np.float64) - result.value)
        assert (apart <= allowed).all()


@pytest.mark.parametrize(("op", "example"), CASES)
def test_the_tolerance_is_a_few_ulps_of_what_is_added(op, example) -> None:
    """Of values and inputs of size one; sums and divisions by little are larger."""
    node, arrays = node_of(op, example)
    if node.output.type.dtype not in FLOAT_DTYPES or not node.output.type.shape:
        return
    result = evaluate(node, [exact(array) for array in arrays])
    sizes = [np.abs(a).max(initial=0) for a in arrays if a.dtype.kind == "f"]
    products = float(np.prod([max(size, 1.0) for size in sizes]))
    size = max(np.abs(result.value).max(initial=0), products)
    terms = max([a.size for a in arrays], default=1)
    assert (
        np.median(LIKELY * result.error, axis=None)
        <= (FEW_ULPS * size * np.sqrt(terms))
        or not result.error.size
    )


def test_errors_of_inputs_pass_through() -> None:
    node, arrays = node_of(get_op("mul"), Example(((5,), (5,))))
    a, b = map(exact, arrays)
    plain = evaluate(node, [a, b]).error
    moved = evaluate(node, [Uncertain(a.value, np.full(5, 1e-3)), b]).error
    np.testing.assert_allclose(moved - plain, 1e-3 * np.abs(b.value), rtol=1e-3)


def test_a_kink_within_the_error_counts() -> None:
    node, _ = node_of(get_op("relu_grad"), Example(((3,), (3,))))
    g, x = exact(np.ones(3)), np.array([-1e-4, -1.0, 1e-4])
    error = evaluate(node, [g, Uncertain(x, np.full(3, 1e-3))]).error
    assert error[0] >= 1 and error[2] >= 1 and error[1] < 1e-5


def test_integers_stay_integers() -> None:
    assert exact(np.arange(3, dtype=np.uint8)).value.dtype == np.uint8


def test_double_precision_has_the_unit_of_its_own() -> None:
    single, arrays = node_of(get_op("gelu"), Example(((50,),), {"approximate": "none"}))
    x = exact(arrays[0])
    output = Value(single.output.type.__class__("float64", (50,)))
    double = Node(single.op, single.inputs, single.attrs, (output,))
    ratio = evaluate(double, [x]).error / evaluate(single, [x]).error
    np.testing.assert_allclose(ratio, 2.0**-29, rtol=1e-6)

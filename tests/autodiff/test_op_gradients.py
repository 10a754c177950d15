"""Each op's gradient on its examples: central differences, types, symbolic batch."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import (
    DIFFERENTIABLE,
    WITHOUT_VJP,
    directional,
    directions,
    function,
    inputs_of,
    op_gradients,
)
from op_cases import BATCH, batched

import jitseq as js
from jitseq.errors import NeedsStaticBatch, UnsupportedError
from jitseq.ir.compute import Update
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import REGISTRY
from jitseq.ir.tracer import apply
from jitseq.ir.types import TensorType, type_of
from jitseq.passes.autodiff import differentiate

GRADIENT_CASES = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if op.derived
    for index, example in enumerate(op.examples)
]


@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_central_differences(op, example) -> None:
    arrays = inputs_of(op, example)
    if op.name == "div":  # away from the pole, where differences lose their digits
        arrays[1] = arrays[1] + 0.5 * np.sign(arrays[1])
    _, g, gradients = op_gradients(op, example, arrays)
    assert [x.shape for x in gradients] == [x.shape for x in arrays]
    rng = np.random.default_rng(11)
    f = function(op, example)
    for position, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        if op.name in ("at_label", "broadcast_like") and position:
            assert not gradient.any()  # compared, or read for its shape
            continue
        for direction in directions(x.shape, rng):
            expected = directional(f, arrays, position, direction, g)
            scale = np.sum(np.abs(gradient * direction)) + np.abs(g).max() + 1
            assert abs(np.sum(gradient * direction) - expected) <= 1e-7 * scale


@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_float32_gradients_keep_the_dtype(op, example) -> None:
    arrays = inputs_of(op, example, "float32")
    _, _, gradients = op_gradients(op, example, arrays)
    _, _, wide = op_gradients(op, example, inputs_of(op, example))
    for gradient, exact in zip(gradients, wide, strict=True):
        assert gradient.dtype == np.float32
        size = np.abs(exact).max(initial=1.0)
        np.testing.assert_allclose(gradient, exact, 1e-3, 1e-4 * size)


@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_symbolic_batch(op, example) -> None:
    """What infers with a symbolic batch differentiates with it, verified."""
    if op.name == "broadcast_like":
        pytest.skip("its first input has no batch")
    types = batched(op, example, BATCH)
    try:
        result = op.infer(*types, **example.attrs)
    except (NeedsStaticBatch, TypeError):
        pytest.skip("the op needs the batch size")
    inputs = tuple(Value(type, f"x{i}") for i, type in enumerate(types))
    node = Node(op.name, inputs, example.attrs, (Value(result),))
    joint = differentiate(Graph(inputs, (), (node,), node.outputs), inputs)
    assert [v.type for v in joint.gradients] == types


@pytest.mark.parametrize("op, example", GRADIENT_CASES)
def test_gradient_ops_infer_what_they_compute(op, example) -> None:
    for dtype in ("float32", "float64"):
        inputs = inputs_of(op, example, dtype)
        before = [x.copy() for x in inputs]
        result = op.reference(*inputs, **example.attrs)
        assert type_of(result) == op.infer(*map(type_of, inputs), **example.attrs)
        for x, copy in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(x, copy)


def test_every_op_has_a_gradient_or_is_one() -> None:
    for op in WITHOUT_VJP:
        if isinstance(op.compute, Update):
            continue
        assert op.derived, op.name
        assert op.name.endswith(("_grad", "_index", "_sum")), op.name


def test_a_gradient_of_a_gradient_is_refused() -> None:
    g, y = np.ones(3), np.ones(3)
    with pytest.raises(UnsupportedError, match="relu_grad has no gradient"):
        js.vjp(lambda a, b: apply("relu_grad", a, b), g, y)


def test_an_empty_batch_has_zero_weight_gradients() -> None:
    x, w = np.zeros((0, 3, 5, 5)), np.ones((4, 3, 3, 3))
    attrs = {
        "stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1
    }  # fmt: skip
    _, pullback = js.vjp(lambda a, b: apply("conv2d", a, b, **attrs), x, w)
    (dx, dw), _ = pullback(np.zeros((0, 4, 5, 5)))
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros_like(w))


def test_large_windows_have_wide_indices() -> None:
    """More than 256 taps do not fit a byte."""
    op = REGISTRY["adaptive_max_pool2d_index"]
    type = TensorType("float32", (1, 1, 20, 20))
    assert op.infer(type, output_size=(1, 1)).dtype == "int32"
    assert op.infer(type, output_size=(2, 2)).dtype == "uint8"
    x = np.random.default_rng(2).normal(size=(1, 1, 20, 20))
    pool = REGISTRY["adaptive_max_pool2d"]
    out, pullback = js.vjp(lambda a: apply(pool.name, a, output_size=(1, 1)), x)
    (dx,), _ = pullback(np.ones_like(out))
    np.testing.assert_array_equal(dx, x == x.max())

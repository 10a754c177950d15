"""Gradients equal PyTorch's: every op in float64, kinks, ties, NaN, whole models."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import DIFFERENTIABLE, inputs_of, op_gradients

import jitseq as js
from benchmarks.export import to_torch
from benchmarks.zoo import ZOO
from jitseq.ir.tracer import apply

torch = pytest.importorskip("torch")
from test_op_torch import torch_op  # noqa: E402  (needs torch)

ROUNDED = {"celu": 1e-7, "hardsigmoid": 1e-7}
"""PyTorch rounds 1/alpha and 1/6 to float32 there, also for float64."""

SKIPPED = ("batch_sum", "broadcast_like", "element_count")


@pytest.mark.parametrize("op, example", DIFFERENTIABLE)
def test_op_gradients(op, example) -> None:
    if op.name in SKIPPED:
        pytest.skip("PyTorch has no such op")
    arrays = inputs_of(op, example)
    _, g, gradients = op_gradients(op, example, arrays)
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    differentiated = tensors
    if op.name == "batch_norm":  # PyTorch has no gradient for the statistics
        tensors[1:3] = [tensor.detach() for tensor in tensors[1:3]]
        differentiated = [x for x in tensors if x.requires_grad]
        gradients = (gradients[0], *gradients[3:])
    out = torch_op(op.name)(*tensors, **example.attrs)
    out.backward(torch.from_numpy(g))
    for gradient, tensor in zip(gradients, differentiated, strict=True):
        expected = np.zeros_like(gradient) if tensor.grad is None else tensor.grad
        rtol = ROUNDED.get(op.name, 1e-9)
        np.testing.assert_allclose(gradient, expected, rtol, atol=1e-11)


KINKS = [-np.inf, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0, 25.0, np.inf, np.nan]
UNARY = {
    "relu": {}, "relu6": {}, "leaky_relu": {"negative_slope": 0.1}, "abs": {},
    "elu": {"alpha": 0.7}, "selu": {}, "celu": {"alpha": 0.7}, "hardsigmoid": {},
    "hardswish": {}, "hardtanh": {"min_val": -1.0, "max_val": 1.0}, "sigmoid": {},
    "logsigmoid": {}, "tanh": {}, "softplus": {"beta": 1.0, "threshold": 3.0},
    "erf": {}, "sqrt": {}, "rsqrt": {}, "exp": {}, "log": {}, "neg": {},
}  # fmt: skip
SMOOTH = {
    # At infinity they are inf/inf in one formula and a limit in another.
    "mish": {}, "silu": {}, "softsign": {},
    "gelu": {"approximate": "none"}, "gelu-tanh": {"approximate": "tanh"},
}  # fmt: skip


@pytest.mark.parametrize("name", [*UNARY, *SMOOTH])
def test_kinks_and_special_values(name) -> None:
    values = KINKS if name in UNARY else [x for x in KINKS if not np.isinf(x)]
    attrs = (UNARY | SMOOTH)[name]
    name = name.split("-")[0]
    x = np.array(values)
    out, pullback = js.vjp(lambda a: apply(name, a, **attrs), x)
    (gradient,), _ = pullback(np.ones_like(out))
    tensor = torch.tensor(x, requires_grad=True)
    torch_op(name)(tensor, **attrs).backward(torch.ones(len(x), dtype=tensor.dtype))
    rtol = ROUNDED.get(name, 1e-12)
    np.testing.assert_allclose(gradient, tensor.grad, rtol, atol=1e-300)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_of_two_operands(name) -> None:
    numbers = [-np.inf, -1.0, 0.0, 2.0, np.inf, np.nan]
    x, y = np.meshgrid(numbers, numbers)
    out, pullback = js.vjp(lambda a, b: apply(name, a, b), x, y)
    gradients, _ = pullback(np.ones_like(out))
    a, b = (torch.tensor(v, requires_grad=True) for v in (x, y))
    getattr(torch, name)(a, b).backward(torch.ones_like(a))
    for gradient, tensor in zip(gradients, (a, b), strict=True):
        np.testing.assert_array_equal(gradient, tensor.grad)


POOL = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 1)}


@pytest.mark.parametrize("name, attrs", [
    ("max_pool2d", {**POOL, "ceil_mode": False}),
    ("max_pool2d", {**POOL, "ceil_mode": True}),
    ("adaptive_max_pool2d", {"output_size": (3, 2)}),
    ("max", {"dims": (3,), "keepdim": False}),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_ties_and_nan_of_windows(name, attrs, seed) -> None:
    """Few different values, so that most maxima tie; some windows hold two NaN."""
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, 1.0, -np.inf, np.nan], (2, 3, 7, 6), p=[0.4, 0.4, 0.1, 0.1])
    out, pullback = js.vjp(lambda a: apply(name, a, **attrs), x)
    g = rng.normal(size=out.shape)
    (gradient,), _ = pullback(g)
    tensor = torch.tensor(x, requires_grad=True)
    torch_op(name)(tensor, **attrs).backward(torch.from_numpy(g))
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-12, atol=1e-15)


MODELS = ("tiny", "mlp", "mlp_bn", "lenet5", "cnn32", "named_cnn", "docs_conv",
          "autoencoder")  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_zoo_models(name) -> None:
    model = ZOO[name].build().double()
    x = ZOO[name].sample(2).astype(np.float64)
    out, pullback = js.vjp(model, x)
    g = np.random.default_rng(1).normal(size=out.shape)
    (dx,), gradients = pullback(g)
    other, tensor = to_torch(model).double(), torch.tensor(x, requires_grad=True)
    other(tensor).backward(torch.from_numpy(g))
    expected = {k: p.grad.numpy() for k, p in other.named_parameters()}
    assert list(gradients) == list(expected)
    for found, reference in ((dx, tensor.grad.numpy()), *(
        (gradients[key], expected[key]) for key in expected
    )):  # fmt: skip
        size = np.abs(reference).max()
        np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-11 * size)

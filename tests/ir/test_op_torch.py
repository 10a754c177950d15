"""References equal PyTorch in float64, and for extreme numbers in both dtypes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from op_cases import BATCH, CASES, inputs_of

from jitseq.ir.compute import Pointwise
from jitseq.ir.op import REGISTRY

torch = pytest.importorskip("torch")
F = torch.nn.functional


def conv2d(x: Any, w: Any, b: Any = None, *, padding: Any, **attrs: Any) -> Any:
    top, bottom, left, right = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, **attrs)


def max_pool2d(x: Any, *, kernel: Any, **attrs: Any) -> Any:
    return F.max_pool2d(x, kernel, **attrs)


def avg_pool2d(x: Any, *, kernel: Any, **attrs: Any) -> Any:
    return F.avg_pool2d(x, kernel, **attrs)


def pad(x: Any, *, padding: Any, mode: str, value: float) -> Any:
    pairs = padding if mode == "constant" else padding[2:]
    flat = [size for pair in reversed(pairs) for size in pair]
    return F.pad(x, flat, mode, value if mode == "constant" else None)


def reshape(x: Any, *, shape: Any) -> Any:
    return x.reshape([x.shape[0] if dim is BATCH else dim for dim in shape])


def broadcast(x: Any, *, shape: Any) -> Any:
    return x.expand([x.shape[0] if dim is BATCH else dim for dim in shape])


def reduction(name: str) -> Any:
    function = getattr(torch, name)
    return lambda x, *, dims, keepdim: function(x, dim=dims, keepdim=keepdim)


def narrow(x: Any, *, dim: int, start: int, stop: int) -> Any:
    return x.narrow(dim, start, stop - start)


def prelu(x: Any, weight: Any) -> Any:
    return torch.where(x > 0, x, weight * x)


def constant(*, value: float, dtype: str) -> Any:
    return torch.tensor(value, dtype=getattr(torch, dtype))


def at_label(x: Any, a: Any, b: Any) -> Any:
    return torch.where(a == b, x, torch.zeros_like(x))


def binary_cross_entropy(x: Any, t: Any) -> Any:
    x, t = torch.broadcast_tensors(x, t)
    return F.binary_cross_entropy(x, t, reduction="none")


def dropout(x: Any, u: Any, *, p: float) -> Any:
    kept = x / (1 - p) if p < 1 else x
    return torch.where(u < p, 0.0, kept)


TORCH_OPS = {
    "at_label": at_label, "binary_cross_entropy": binary_cross_entropy,
    "conv2d": conv2d, "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d, "pad": pad,
    "reshape": reshape, "broadcast": broadcast, "slice": narrow, "prelu": prelu,
    "constant": constant, "concat": lambda *xs, dim: torch.cat(xs, dim),
    "sum": reduction("sum"), "mean": reduction("mean"), "max": reduction("amax"),
    "erf": torch.erf, "copy": torch.clone, "dropout": dropout,
}  # fmt: skip


def torch_op(name: str) -> Any:
    for place in (TORCH_OPS.get, lambda n: getattr(F, n, None)):
        if place(name) is not None:
            return place(name)
    return getattr(torch, name)


SHARED = [case for case in CASES if case.values[0].name != "random_uniform"]


@pytest.mark.parametrize("op, example", SHARED)
def test_matches_torch_in_float64(op, example) -> None:
    inputs = inputs_of(op, example)
    result = op.reference(*inputs, **example.attrs)
    expected = torch_op(op.name)(*map(torch.from_numpy, inputs), **example.attrs)
    assert result.shape == tuple(expected.shape)
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-10, atol=1e-12)


UNARY = [
    case
    for case in CASES
    if isinstance(case.values[0].compute, Pointwise)
    and len(case.values[1].shapes) == 1
    and case.values[1].shapes[0] == (33,)
]
EXTREMES = [-np.inf, -1e30, -1e4, -100.0, -40.0, -3.0, -0.0, 0.0, 3.0, 21.0, 40.0,
            100.0, 1e4, 1e30, np.inf, np.nan]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op, example", UNARY)
def test_extreme_numbers_as_torch(op, example, dtype) -> None:
    x = np.array(EXTREMES, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = op.reference(x, **example.attrs)
    # PyTorch's vectorised float32 gelu gives NaN at +inf, its float64 one +inf.
    wide = op.name == "gelu"
    source = torch.from_numpy(x.astype(np.float64) if wide else x)
    expected = torch_op(op.name)(source, **example.attrs).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", ["maximum", "minimum", "add", "sub", "mul", "div"])
def test_binary_extremes_as_torch(name) -> None:
    x, y = np.meshgrid(np.array(EXTREMES), np.array(EXTREMES))
    result = REGISTRY[name].reference(x, y)
    expected = torch_op(name)(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_array_equal(result, expected.numpy())


POOL = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 0), "ceil_mode": True}


@pytest.mark.parametrize("name, attrs", [
    ("max_pool2d", {**POOL, "dilation": (1, 1)}),
    ("avg_pool2d", {**POOL, "count_include_pad": True, "divisor_override": None}),
    ("adaptive_max_pool2d", {"output_size": (3, 4)}),
    ("adaptive_avg_pool2d", {"output_size": (3, 4)}),
])  # fmt: skip
def test_pools_spread_nan_and_inf_as_torch(name, attrs) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 3, 7, 9))
    x[0, 0, 2, 3], x[0, 1, 6, 8], x[1, 2, 0, 0] = np.nan, -np.inf, np.inf
    x[1, 0] = -np.inf
    result = REGISTRY[name].reference(x, **attrs)
    expected = torch_op(name)(torch.from_numpy(x), **attrs).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extreme_rows_as_torch(name) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[1e4, -1e4, 0], [-inf, 0, 1], [-inf, -inf, -inf], [inf, 0, 1],
                  [nan, 0, 1]])  # fmt: skip
    result = REGISTRY[name].reference(x, dim=1)
    expected = torch_op(name)(torch.from_numpy(x), dim=1).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(25))
def test_random_pools_with_ceil_mode_as_torch(seed) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.integers(1, 5, 2).tolist()
    padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    stride = rng.integers(1, 5, 2).tolist()
    x = rng.normal(size=(1, 2, *rng.integers(4, 10, 2)))
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": True}
    average = {**attrs, "count_include_pad": bool(seed % 2), "divisor_override": None}
    largest = {**attrs, "dilation": (1, 1)}
    for name, options in (("avg_pool2d", average), ("max_pool2d", largest)):
        result = REGISTRY[name].reference(x, **options)
        expected = torch_op(name)(torch.from_numpy(x), **options).numpy()
        np.testing.assert_allclose(result, expected, rtol=1e-12)

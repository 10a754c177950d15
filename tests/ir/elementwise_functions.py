"""Functions of numbers, plain and as ops, on which the elementwise tests run.

The plain ones are the reference: Python evaluates them in float64, element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import jitseq as js
from jitseq.ir.op import REGISTRY

SCALE, LIMIT = 1.5, 3


@js.elementwise
def mish(x):
    return x * math.tanh(math.log1p(math.exp(x)))


@js.elementwise
def swish(x, beta=1.0):
    return x / (1 + math.exp(-beta * x))


@js.elementwise
def softplus(x, *, beta=1.0, threshold=20.0):
    """The logarithm of a sum, or a line."""
    scaled = beta * x
    if scaled > threshold:
        return x
    return math.log1p(math.exp(scaled)) / beta


@js.elementwise
def hardswish(x):
    if x <= -LIMIT:
        return 0
    elif x >= LIMIT:
        return x
    return x * (x + LIMIT) / (2 * LIMIT)


@js.elementwise
def gelu(x):
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


@js.elementwise
def clipped(x, low, high):
    return min(max(x, low), high)


@js.elementwise
def polynomial(x):
    y = x**3 - 2 * x**2 + +x
    y += x**-2 * 0.25
    return -y + 7 * x**0 - x**1


@js.elementwise
def branches(x, y):
    far = not (-1 < x < 1) and y != 0
    if far or x == y:
        z = x - y
        if y < 0:
            z = z * SCALE
    else:
        z = abs(y) + 1e-3
    result: float = z if far else math.expm1(z / 4)
    result *= 2
    return result


@js.elementwise
def roots(x):
    size = math.fabs(x)
    return math.sqrt(size) + math.log(size + 1) * (1.0 if x > 0 else np.pi)


@js.elementwise
def composed(x, y):
    return mish(x) * swish(y, beta=SCALE) + softplus(x - y, beta=2.0)


Case = tuple[js.nn.elementwise.ElementwiseFunction, int]
FUNCTIONS = [
    pytest.param(function, count, id=function.__name__)
    for function, count in (
        (mish, 1), (swish, 2), (softplus, 1), (hardswish, 1), (gelu, 1),
        (clipped, 3), (polynomial, 1), (branches, 2), (roots, 1), (composed, 2),
    )
]  # fmt: skip


def in_python(
    function: Callable[..., float], *arrays: np.ndarray, **numbers: float
) -> np.ndarray:
    """Each element by Python itself, in float64."""

    def element(*values: float) -> float:
        return float(function.__wrapped__(*values, **numbers))

    return np.vectorize(element, otypes=[np.float64])(*map(np.float64, arrays))


def arrays_for(
    count: int, rng: np.random.Generator, dtype: str = "float32"
) -> list[np.ndarray]:
    """Operands that broadcast, with zeros and equal elements among them."""
    shapes = ((4, 3, 17), (3, 1), (17,))
    arrays = [(2 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    arrays[0][0, 0, :3] = (-3, 3, 0.5)
    if count > 1:
        arrays[0][1, :, 0] = arrays[1][:, 0]
    return arrays[:count]


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    """Ops of these tests go away again: other tests walk through all ops."""
    known = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(known)

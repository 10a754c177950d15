"""The namespace in which pointwise expressions are written, and its NumPy form.

A kernel renderer provides the same names over its own values. Comparisons give
masks, which only `where` takes. `maximum` and `minimum` propagate NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

FUNCTIONS = (
    "exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "abs",
    "maximum", "minimum", "where", "lt", "gt", "ge", "le", "isnan",
)  # fmt: skip


class NumpyScalars:
    """The namespace over NumPy arrays; results keep the arrays' dtype."""

    exp = staticmethod(np.exp)
    expm1 = staticmethod(np.expm1)
    log = staticmethod(np.log)
    log1p = staticmethod(np.log1p)
    tanh = staticmethod(np.tanh)
    sqrt = staticmethod(np.sqrt)
    abs = staticmethod(np.abs)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    lt = staticmethod(np.less)
    gt = staticmethod(np.greater)
    ge = staticmethod(np.greater_equal)
    le = staticmethod(np.less_equal)
    isnan = staticmethod(np.isnan)

    @staticmethod
    def where(mask: Any, a: Any, b: Any) -> Any:
        return _where(mask, a, b)

    @staticmethod
    def erf(x: Any) -> Any:
        return _erf(x)


BITWISE_SELECT_SIZE = 16384
"""From here on `numpy.where` costs up to 5 times a bitwise select: it branches on
every element, and masks of activations cannot be predicted."""


def _where(mask: Any, a: Any, b: Any) -> Any:
    if np.size(mask) < BITWISE_SELECT_SIZE:
        return np.where(mask, a, b)
    dtype = np.result_type(a, b)
    bits = np.dtype(f"i{dtype.itemsize}")
    ones = np.negative(mask.view(np.int8), dtype=bits)
    other = np.asarray(b, dtype).view(bits)
    result = (np.asarray(a, dtype).view(bits) ^ other) & ones
    result ^= other
    return result.view(dtype)


# erf on |x| < 1 is x + x*P(x*x), beyond it 1 - exp(Q(|x| - 1)) with Q the
# logarithm of erfc, up to where erf rounds to 1. P and Q are weighted minimax fits
# (Lawson's iteration on Chebyshev nodes, 50 digits), highest power first. The error
# is below 1.1 ulp in float64 and 1.3 ulp in float32, checked against mpmath.
ERF_NEAR = {
    "float32": (
        7.889928641085416e-05, -0.00080210217976399, 0.005189546552469674,
        -0.026854444013260204, 0.11283599938940922, -0.376126270677646,
        0.12837916584328737,
    ),
    "float64": (
        -7.801086474433443e-10, 1.3722918561861543e-08, -1.6209161841591164e-07,
        1.6447515733452704e-06, -1.4924744495497706e-05, 0.0001205529531098928,
        -0.0008548325989324329, 0.005223977607412406, -0.026866170643273592,
        0.11283791670945212, -0.37612638903183543, 0.12837916709551256,
    ),
}  # fmt: skip
ERF_TAIL = {
    "float32": (
        0.00018445619501003386, -0.001821665892018311, 0.009884173245000768,
        -0.041496200551964714, -0.8431196321609088, -2.638966686016278,
        -1.8496055184902185,
    ),
    "float64": (
        -4.783399495318388e-12, 1.1757740970823216e-10, -1.3023190843831481e-09,
        8.42329202413538e-09, -3.3032451864076325e-08, 5.707149680173297e-08,
        2.0657925126631843e-07, -2.134357892398163e-06, 9.67379582905638e-06,
        -2.720073679398045e-05, 2.629725645774496e-05, 0.000237316086331682,
        -0.0019779011250310443, 0.010033825163284693, -0.04156109802334597,
        -0.8431072563595177, -2.638967514234773, -1.8496055099332482,
    ),
}  # fmt: skip
ERF_TAIL_END = {"float32": 4.0, "float64": 6.0}
ERF_BLOCK = 16384
"""Elements evaluated at a time, so that the polynomials' operands stay in cache."""


def polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's rule, highest power first, in the dtype of ``x``."""
    result = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        result += coefficient
        result *= x
    result += coefficients[-1]
    return result


def _erf(x: Any) -> Any:
    x = np.asarray(x)
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, ERF_BLOCK):
        block = slice(start, start + ERF_BLOCK)
        result[block] = _erf_block(flat[block])
    return result.reshape(x.shape)


def _erf_block(x: np.ndarray) -> np.ndarray:
    dtype = x.dtype.name
    size = np.abs(x)
    near = polynomial(ERF_NEAR[dtype], x * x)
    near *= x
    near += x
    distance = np.minimum(size, ERF_TAIL_END[dtype]) - 1
    tail = np.exp(polynomial(ERF_TAIL[dtype], distance))
    np.subtract(1, tail, out=tail)
    result: np.ndarray = _where(size < 1, near, np.copysign(tail, x))
    return result


class _Number:
    """Stands for any number in `uses_functions`."""

    def _same(self, *others: Any) -> _Number:
        return self

    __add__ = __sub__ = __mul__ = __truediv__ = _same
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __neg__ = _same


class _Recorder:
    """A namespace that only remembers what was called."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return lambda *operands: _Number()


TRANSCENDENTAL = frozenset(("exp", "expm1", "log", "log1p", "tanh", "erf"))
"""Functions that take about twenty instructions a vector."""


def uses_functions(expr: Callable[..., Any], count: int, attrs: Any) -> bool:
    """Whether an expression of ``count`` inputs evaluates a transcendental function."""
    recorder = _Recorder()
    expr(recorder, *(_Number() for _ in range(count)), **attrs)
    return not TRANSCENDENTAL.isdisjoint(recorder.called)

"""Arithmetic of two operands with NumPy's broadcasting, and constants.

With g the cotangent of the result: x + y (g, g), x - y (g, -g), x y (g y, g x),
x / y (g / y, -g (x / y) / y). Where maxima or minima tie, each operand gets g / 2.
Invariant: both operands have the same dtype, which the result keeps; the symbolic
batch broadcasts only against itself and against 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.ir.compute import Pointwise
from jitseq.ir.graph import Value
from jitseq.ir.op import Emit, Example, Op, register
from jitseq.ir.ops.pointwise import binary, pointwise
from jitseq.ir.types import TensorType, require_float

PAIRS = (
    Example(((2, 3, 5), (2, 3, 5))),
    Example(((4, 3, 5, 7), (3, 1, 1))),
    Example(((3, 1), (1, 4))),
    Example(((2, 6), ())),
    Example(((), (1, 5))),
)


def prelu(m: Any, x: Any, weight: Any) -> Any:
    """x, or weight x below 0; derivatives (1, 0) where x > 0, else (weight, x).

    He et al. 2015, Delving Deep into Rectifiers. The weight broadcasts as in NumPy:
    one slope for each channel of ``[N, C, H, W]`` has the shape ``[C, 1, 1]``.
    """
    return m.where(m.gt(x, 0), x, x * weight)


def prelu_grad(m: Any, g: Any, x: Any, weight: Any) -> Any:
    """The cotangent of x."""
    return m.where(m.gt(x, 0), g, g * weight)


def prelu_weight_grad(m: Any, g: Any, x: Any) -> Any:
    """The cotangent of the weight, before it is summed."""
    return m.where(m.gt(x, 0), 0, g * x)


def maximum_grad(m: Any, g: Any, x: Any, y: Any) -> Any:
    """The cotangent of x: g where x > y or one is NaN, g / 2 where x = y, else 0."""
    return m.where(m.le(x, y), m.where(m.lt(x, y), 0, g * 0.5), g)


def minimum_grad(m: Any, g: Any, x: Any, y: Any) -> Any:
    """The cotangent of x: g where x < y or one is NaN, g / 2 where x = y, else 0."""
    return m.where(m.ge(x, y), m.where(m.gt(x, y), 0, g * 0.5), g)


TRIPLES = (
    Example(((2, 3, 5), (2, 3, 5), (2, 3, 5))),
    Example(((4, 3, 5, 7), (4, 3, 5, 7), (3, 1, 1))),
)
pointwise("prelu_grad", prelu_grad, *TRIPLES)
pointwise("prelu_weight_grad", prelu_weight_grad, Example(((2, 3, 5), (2, 3, 5))))
pointwise("maximum_grad", maximum_grad, *TRIPLES)
pointwise("minimum_grad", minimum_grad, *TRIPLES)

Pair = tuple[Value, Value]


def _sub_terms(emit: Emit, g: Value, x: Value, y: Value, out: Value) -> Pair:
    return g, emit("neg", g)


def _mul_terms(emit: Emit, g: Value, x: Value, y: Value, out: Value) -> Pair:
    return emit("mul", g, y), emit("mul", g, x)


def _div_terms(emit: Emit, g: Value, x: Value, y: Value, out: Value) -> Pair:
    over = emit("div", g, y)
    return over, emit("neg", emit("mul", over, out))


def _prelu_terms(emit: Emit, g: Value, x: Value, y: Value, out: Value) -> Pair:
    return emit("prelu_grad", g, x, y), emit("prelu_weight_grad", g, x)


def _maximum_terms(emit: Emit, g: Value, x: Value, y: Value, out: Value) -> Pair:
    return emit("maximum_grad", g, x, y), emit("maximum_grad", g, y, x)


def _minimum_terms(emit: Emit, g: Value, x: Value, y: Value, out: Value) -> Pair:
    return emit("minimum_grad", g, x, y), emit("minimum_grad", g, y, x)


binary("add", lambda m, x, y: x + y, lambda emit, g, x, y, out: (g, g), *PAIRS)
binary("sub", lambda m, x, y: x - y, _sub_terms, *PAIRS)
binary("mul", lambda m, x, y: x * y, _mul_terms, *PAIRS)
binary("div", lambda m, x, y: x / y, _div_terms, *PAIRS)
binary("maximum", lambda m, x, y: m.maximum(x, y), _maximum_terms, *PAIRS)
binary("minimum", lambda m, x, y: m.minimum(x, y), _minimum_terms, *PAIRS)
binary("prelu", prelu, _prelu_terms, *PAIRS)


def infer_constant(*, value: float, dtype: str) -> TensorType:
    """One number: shape ``[]`` of float32 or float64."""
    result = TensorType(dtype, ())
    require_float(result, op="constant")
    return result


def constant(*, value: float, dtype: str) -> np.ndarray:
    """``value`` rounded to ``dtype``, as an array of shape ``[]``."""
    return np.asarray(value, dtype)


def constant_expr(m: Any, *, value: float, dtype: str) -> Any:
    """The number itself: in an expression, constants have no dtype of their own."""
    return value


register(
    Op(
        "constant",
        infer_constant,
        constant,
        Pointwise(constant_expr),
        examples=(
            Example((), {"value": 2.5, "dtype": "float32"}),
            Example((), {"value": -0.1, "dtype": "float64"}),
        ),
        vjp=lambda emit, node, cotangents: (),
    )
)

"""Arithmetic of two operands with NumPy's broadcasting, and constants.

Invariant: both operands have the same dtype, which the result keeps; the symbolic
batch broadcasts only against itself and against 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.ir.compute import Pointwise
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.pointwise import binary
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


binary("add", lambda m, x, y: x + y, *PAIRS)
binary("sub", lambda m, x, y: x - y, *PAIRS)
binary("mul", lambda m, x, y: x * y, *PAIRS)
binary("div", lambda m, x, y: x / y, *PAIRS)
binary("maximum", lambda m, x, y: m.maximum(x, y), *PAIRS)
binary("minimum", lambda m, x, y: m.minimum(x, y), *PAIRS)
binary("prelu", prelu, *PAIRS)


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
    )
)

"""Ops that compare predictions with labels.

labels                y = t as a float, or -1 where t = ignore_index; not differentiable
at_label              y = x where a = b, else 0; dx = g where a = b, else 0
binary_cross_entropy  y = -t max(log x, -100) - (1 - t) max(log(1 - x), -100);
                      dx = g (x - t) / max(x (1 - x), 1e-12),
                      dt = g (max(log(1 - x), -100) - max(log x, -100))

``Σ_c at_label(x[n, c], labels(t)[n], c)`` is ``x[n, t[n]]``: a gather by label
without indices, which stays right where other classes hold infinities. Invariant: a
reference refuses labels outside of their range with `RangeError`; whoever runs a
compiled program calls `check_labels` on its integer inputs first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, RangeError, ShapeError
from jitseq.ir.compute import Pointwise
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.arithmetic import PAIRS, TRIPLES
from jitseq.ir.ops.checks import result_type
from jitseq.ir.ops.cotangent import unbroadcast
from jitseq.ir.ops.pointwise import binary, broadcast_shape, pointwise
from jitseq.ir.types import TensorType, require_float

LABEL_DTYPES = ("int64", "int32", "uint8")
MAX_CLASSES = {"float32": 1 << 24, "float64": 1 << 53}
"""Labels below it are exact as floats."""

LOWEST_LOG = -100.0
"""PyTorch's bound of a logarithm in a binary cross-entropy."""

LEAST_VARIANCE = 1e-12
"""PyTorch's bound of ``x (1 - x)`` in its derivative."""


def check_labels(t: np.ndarray, *, classes: int, ignore_index: int) -> None:
    """Raise `RangeError` unless each label is a class or ``ignore_index``."""
    if t.dtype == np.int64 and (t.view(np.uint64) < classes).all():
        return  # negative numbers are large ones
    wrong = ((t < 0) | (t >= classes)) & (t != ignore_index)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise RangeError(
            f"label {int(t[first])} is out of range",
            facts={"classes": f"0 … {classes - 1}", "at index": list(first)},
            hint=f"labels are class numbers; ignore_index={ignore_index} leaves a "
            "sample out",
        )


def infer_labels(
    t: TensorType, *, classes: int, ignore_index: int, dtype: str
) -> TensorType:
    """Integers of any shape → ``dtype`` (float32 or float64)."""
    result = TensorType(dtype, t.shape)
    require_float(result, op="labels")
    if t.dtype not in LABEL_DTYPES:
        raise DtypeError(
            f"class labels are {' or '.join(LABEL_DTYPES)}, got {t.dtype}",
            facts={"labels": t},
            hint="convert them first: labels.astype(np.int64)",
        )
    if not 1 <= classes <= MAX_CLASSES[dtype]:
        raise ShapeError(
            f"labels: {classes} classes, expected 1 to {MAX_CLASSES[dtype]}",
            facts={"labels": t},
        )
    return result


def labels_expr(m: Any, t: Any, *, classes: int, ignore_index: int, dtype: str) -> Any:
    """The expression on labels already converted to ``dtype``."""
    ignored = m.where(m.ge(t, ignore_index), -1, t)
    return m.where(m.le(t, ignore_index), ignored, t)


def labels(t: np.ndarray, *, classes: int, ignore_index: int, dtype: str) -> np.ndarray:
    """Class numbers as floats; an ignored label equals no class."""
    check_labels(t, classes=classes, ignore_index=ignore_index)
    value = t.astype(dtype)
    return np.asarray(np.where(t == ignore_index, value.dtype.type(-1), value))


def infer_at_label(x: TensorType, a: TensorType, b: TensorType) -> TensorType:
    """Three inputs that broadcast as in NumPy."""
    require_float(x, a, b, op="at_label")
    pair = a.with_shape(broadcast_shape("at_label", a, b))
    return result_type("at_label", x, broadcast_shape("at_label", x, pair))


def at_label(m: Any, x: Any, a: Any, b: Any) -> Any:
    return m.where(m.le(a, b), m.where(m.ge(a, b), x, 0), 0)


def at_label_reference(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(a == b, x, x.dtype.type(0)))


def _at_label_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    x, a, b = node.inputs
    g = emit("at_label", cotangents[0], a, b)
    return unbroadcast(emit, g, x.type), None, None


def binary_cross_entropy(m: Any, x: Any, t: Any) -> Any:
    log_x = m.maximum(m.log(x), LOWEST_LOG)
    log_rest = m.maximum(m.log1p(-x), LOWEST_LOG)
    return (t - 1) * log_rest - t * log_x


def binary_cross_entropy_grad(m: Any, g: Any, x: Any, t: Any) -> Any:
    """The cotangent of the probabilities."""
    return g * (x - t) / m.maximum((1 - x) * x, LEAST_VARIANCE)


def binary_cross_entropy_target_grad(m: Any, g: Any, x: Any) -> Any:
    """The cotangent of the targets."""
    log_x = m.maximum(m.log(x), LOWEST_LOG)
    return g * (m.maximum(m.log1p(-x), LOWEST_LOG) - log_x)


Pair = tuple[Value, Value]


def _binary_cross_entropy_terms(
    emit: Emit, g: Value, x: Value, t: Value, out: Value
) -> Pair:
    return emit("binary_cross_entropy_grad", g, x, t), emit(
        "binary_cross_entropy_target_grad", g, x
    )


def _probable(example: Example) -> Example:
    return replace(example, low=0.05, high=0.95)


register(
    Op(
        "at_label",
        infer_at_label,
        at_label_reference,
        Pointwise(at_label),
        examples=(
            Example(((2, 3, 5), (2, 1, 5), (3, 1))),
            Example(((4, 6), (4, 1), (6,)), low=2.0, high=2.0),
            Example(((3, 1), (3, 1), (3, 1)), low=-1.0, high=-1.0),
        ),
        vjp=_at_label_vjp,
    )
)
register(
    Op(
        "labels",
        infer_labels,
        labels,
        Pointwise(labels_expr),
        examples=(
            Example(
                ((4, 7),),
                {"classes": 5, "ignore_index": 2, "dtype": "float64"},
                below={0: 5},
            ),
            Example(
                ((9,),),
                {"classes": 3, "ignore_index": -100, "dtype": "float32"},
                below={0: 3},
            ),
        ),
        vjp=lambda emit, node, cotangents: (None,),
        derived=True,
    )
)
binary(
    "binary_cross_entropy",
    binary_cross_entropy,
    _binary_cross_entropy_terms,
    *(_probable(pair) for pair in PAIRS),
)
pointwise(
    "binary_cross_entropy_grad",
    binary_cross_entropy_grad,
    *(_probable(triple) for triple in TRIPLES),
)
pointwise(
    "binary_cross_entropy_target_grad",
    binary_cross_entropy_target_grad,
    _probable(Example(((2, 3, 5), (2, 3, 5)))),
)

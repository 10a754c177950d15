"""Losses over classes: `nll_loss` and `cross_entropy`.

Scores ``(N, C)``, ``(N, C, d1, …)`` or ``(C,)`` and labels enter: class numbers
``(N)``, ``(N, d1, …)`` or ``()``, or for `cross_entropy` probabilities with the shape
of the scores. Invariant: as in `losses`; labels are checked before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, ShapeError
from jitseq.ir.tracer import apply
from jitseq.ir.types import FLOAT_DTYPES, same_dim
from jitseq.nn.functional.arguments import (
    Array,
    OptionError,
    integer,
    need_number,
    operand,
    type_text,
)
from jitseq.nn.functional.losses import ask_for_batch, reduced, reduction_name


@dataclass(frozen=True)
class _Classes:
    """Class numbers as floats, ready to be compared along the scores' class axis.

    ``label`` has extent 1 there; ``numbers`` is ``0 … C - 1`` along it.
    """

    label: Any
    numbers: np.ndarray
    axis: int

    def pick(self, x: Any) -> Any:
        """``x[n, label[n]]``, and 0 for ignored labels; ``x`` broadcasts."""
        chosen = apply("at_label", x, self.label, self.numbers)
        return apply("sum", chosen, dims=(self.axis,), keepdim=False)


def nll_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """``-w[t] x[t]`` of log-probabilities; the mean divides by the sum of ``w[t]``.

    ``weight`` holds one number for each class. Samples labelled ``ignore_index`` do
    not count; a mean over no samples is NaN. Raises `ShapeError`, `DtypeError`, and
    `RangeError` for labels that are no class.
    """
    how = reduction_name(reduction, size_average, reduce)
    x = _scores("nll_loss", input)
    row = _class_weight("nll_loss", weight, x)
    classes = _class_numbers("nll_loss", x, operand(target), ignore_index)
    losses, weights = _weighted_nll(x, classes, row)
    return _averaged(losses, weights, how)


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """`nll_loss` of `log_softmax`, or ``-Σ_c w[c] p[c] log_softmax(x)[c]``.

    ``label_smoothing`` mixes that share of the uniform distribution into the target
    (Szegedy et al., Rethinking the Inception architecture, 2016). Raises as
    `nll_loss`, and `OptionError`.
    """
    how = reduction_name(reduction, size_average, reduce)
    if not 0 <= label_smoothing <= 1:
        raise OptionError(
            f"cross_entropy: label_smoothing must be in 0 … 1, got {label_smoothing}"
        )
    smoothing = float(label_smoothing)
    x, t = _scores("cross_entropy", input), operand(target)
    row = _class_weight("cross_entropy", weight, x)
    if x.ndim == t.ndim:
        _check_probabilities(x, t, ignore_index)
        return _of_probabilities(x, t, row, how, smoothing)
    classes = _class_numbers("cross_entropy", x, t, ignore_index)
    log_p = apply("log_softmax", x, dim=classes.axis)
    losses, weights = _weighted_nll(log_p, classes, row)
    loss = _averaged(losses, weights, how)
    if not smoothing:
        return loss
    uniform = log_p if row is None else apply("mul", log_p, row)
    total = apply("sum", uniform, dims=(classes.axis,), keepdim=True)
    spread = _averaged(apply("neg", classes.pick(total)), weights, how)
    share = smoothing / x.shape[classes.axis]
    return apply("add", apply("mul", loss, 1 - smoothing), apply("mul", spread, share))


def _of_probabilities(x: Any, p: Any, row: Any, how: str, smoothing: float) -> Any:
    axis = min(1, x.ndim - 1)
    if smoothing:
        share = smoothing / x.shape[axis]
        p = apply("add", apply("mul", p, 1 - smoothing), share)
    terms = apply("mul", apply("log_softmax", x, dim=axis), p)
    if row is not None:
        terms = apply("mul", terms, row)
    return reduced(apply("neg", apply("sum", terms, dims=(axis,), keepdim=False)), how)


def _weighted_nll(log_p: Any, classes: _Classes, row: Any) -> tuple[Any, Any]:
    """The loss of each sample, and its weight: 0 where its label is ignored."""
    losses = apply("neg", classes.pick(log_p))
    if row is None:
        ignored = apply("at_label", 1.0, classes.label, -1.0)
        known = apply("sub", 1.0, ignored)
        return losses, apply("sum", known, dims=(classes.axis,), keepdim=False)
    weights = classes.pick(row)
    return apply("mul", losses, weights), weights


def _averaged(losses: Any, weights: Any, how: str) -> Any:
    if how != "mean":
        return reduced(losses, how)
    return apply("div", reduced(losses, "sum"), reduced(weights, "sum"))


def _scores(op: str, input: Array) -> Any:
    x = operand(input)
    if x.dtype.name not in FLOAT_DTYPES:
        raise DtypeError(
            f"{op}: scores are float32 or float64, got {x.dtype.name}",
            facts={"input": type_text(x)},
            hint="convert them first: x.astype(np.float32)",
        )
    if not x.ndim:
        raise ShapeError(
            f"{op}: expects scores (N, C), (N, C, d1, …) or (C,), got one number",
            facts={"input": type_text(x)},
        )
    if x.ndim == 1:
        need_number(x.shape[0])
    return x


def _class_weight(op: str, weight: Array | None, x: Any) -> Any:
    """One weight for each class, shaped to broadcast along the class axis."""
    if weight is None:
        return None
    row = operand(weight)
    count = x.shape[min(1, x.ndim - 1)]
    if tuple(row.shape) != (count,):
        raise ShapeError(
            f"{op}: weight needs one number for each of {count} classes",
            facts={"input": type_text(x), "weight": type_text(row)},
        )
    return apply("reshape", row, shape=(count,) + (1,) * (x.ndim - 2))


def _class_numbers(op: str, x: Any, t: Any, ignore_index: int) -> _Classes:
    axis = min(1, x.ndim - 1)
    count = x.shape[axis]
    expected = (*x.shape[:axis], *x.shape[axis + 1 :])
    same = all(same_dim(a, b) for a, b in zip(expected, t.shape))
    if t.ndim != len(expected) or not same:
        ask_for_batch(x, t)
        raise ShapeError(
            f"{op}: labels do not fit the scores",
            facts={
                "input": type_text(x),
                "target": type_text(t),
                "expected": f"labels of shape {list(expected)}",
            },
            hint="scores are (N, C, d1, …), class labels (N, d1, …)",
        )
    numbers = apply(
        "labels",
        t,
        classes=count,
        ignore_index=integer(ignore_index, f"{op}: ignore_index"),
        dtype=x.dtype.name,
    )
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    column = np.arange(count, dtype=x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
    return _Classes(apply("reshape", numbers, shape=shape), column, axis)


def _check_probabilities(x: Any, p: Any, ignore_index: int) -> None:
    if not all(same_dim(a, b) for a, b in zip(x.shape, p.shape)):
        ask_for_batch(x, p)
        raise ShapeError(
            "cross_entropy: scores and class probabilities differ in shape",
            facts={"input": type_text(x), "target": type_text(p)},
            hint="class labels have one dimension less than the scores",
        )
    if p.dtype != x.dtype:
        raise DtypeError(
            f"cross_entropy: class probabilities are {x.dtype.name} as the scores, "
            f"got {p.dtype.name}",
            facts={"input": type_text(x), "target": type_text(p)},
            hint="class labels have one dimension less than the scores",
        )
    if ignore_index >= 0:
        raise OptionError(
            "cross_entropy: ignore_index applies to class labels only",
            facts={"target": type_text(p), "ignore_index": ignore_index},
        )

"""Checks and normal forms of the arguments of functionals.

Users' arguments enter (an int for a pair, a negative dimension, a nested list);
plain tuples of Python numbers leave. Invariant: whatever is refused is refused here
or by the op's type inference, before anything is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jitseq.errors import JitseqError, ShapeError
from jitseq.ir.tracer import Tracer, apply
from jitseq.ir.types import TensorType, type_of
from jitseq.ir.variable import Variable
from jitseq.nn.foreign import to_array

Array = Any
"""Anything that holds numbers: ndarray, Variable, Tracer, torch tensor, nested list."""

IntPair = int | Sequence[int]


class OptionError(JitseqError, ValueError, TypeError):
    """An option whose type or value a layer or functional does not accept."""


def operand(x: Array) -> Any:
    """``x`` as something with ``shape``, ``dtype`` and ``ndim``."""
    return x if isinstance(x, (np.ndarray, Tracer, Variable)) else to_array(x)


def type_text(x: Any) -> str:
    """The printed type of an operand, for example ``f32[n, 3, 28, 28]``."""
    if isinstance(x, Tracer):
        return str(x.value.type)
    return str(type_of(x) if isinstance(x, np.ndarray) else _variable_type(x))


def _variable_type(x: Variable) -> TensorType:
    return TensorType(x.dtype.name, x.shape)


def integer(value: Any, name: str, minimum: int | None = None) -> int:
    """``value`` as an int; raises `OptionError` for anything else."""
    accepted = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not accepted or (minimum is not None and value < minimum):
        bound = "" if minimum is None else f" of at least {minimum}"
        raise OptionError(f"{name} must be an int{bound}", facts={"got": repr(value)})
    return int(value)


def pair(value: Any, name: str, minimum: int = 0) -> tuple[int, int]:
    """An int, or one or two ints, as ``(rows, columns)``."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2:
        raise OptionError(
            f"{name} must be an int or a pair of ints", facts={"got": repr(value)}
        )
    return integer(values[0], name, minimum), integer(values[1], name, minimum)


def one_of(value: Any, name: str, choices: Iterable[str]) -> str:
    """``value`` when it is one of ``choices``; raises `OptionError` otherwise."""
    choices = tuple(choices)
    if value not in choices:
        raise OptionError(
            f"{name} must be one of {', '.join(map(repr, choices))}",
            facts={"got": repr(value)},
        )
    return str(value)


def dimension(dim: Any, x: Any, op: str) -> int:
    """``dim`` as a non-negative dimension of ``x``."""
    index = integer(dim, f"{op}: dim")
    rank = max(int(x.ndim), 1)
    if not -rank <= index < rank:
        raise ShapeError(
            f"{op}: dimension {index} is out of range",
            facts={"input": type_text(x), "range": f"{-rank} to {rank - 1}"},
        )
    return index if index >= 0 else index + rank


def need_number(extent: Any) -> None:
    """Ask for a trace with the sample's own extents if this one is symbolic."""
    operator.index(extent)


def require_rank(x: Any, op: str, ranks: tuple[int, ...], hint: str) -> None:
    """Raise `ShapeError` unless ``x`` has one of ``ranks`` dimensions."""
    if x.ndim not in ranks:
        expected = " or ".join(f"{rank}-D" for rank in ranks)
        raise ShapeError(
            f"{op}: expected {expected} input, got {x.ndim}-D",
            facts={"input": type_text(x)},
            hint=hint,
        )


def with_batch(x: Array, op: str) -> tuple[Any, bool]:
    """A batch ``(N, C, H, W)``, and whether ``x`` was one image ``(C, H, W)``."""
    x = operand(x)
    require_rank(
        x, op, (3, 4), "give (batch, channels, height, width), or one image without "
        "the batch; x[:, None] adds a channel axis",
    )  # fmt: skip
    if x.ndim == 4:
        return x, False
    need_number(x.shape[0])
    return apply("reshape", x, shape=(1, *x.shape)), True


def without_batch(y: Any, single: bool) -> Any:
    """Undo `with_batch` on a result."""
    return apply("reshape", y, shape=tuple(y.shape[1:])) if single else y

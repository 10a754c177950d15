"""The Op record: everything that jitseq knows of one primitive, in one place.

A family file in `ir/ops/` registers records; type inference, the NumPy reference,
how the op computes, and its examples are read from there by every other layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jitseq.errors import ShapeError, UnsupportedError
from jitseq.ir.types import TensorType

Infer = Callable[..., TensorType]
Reference = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Example:
    """Inputs and attributes on which every test of every backend runs.

    ``shapes`` are the input shapes; ``attrs`` the op's attributes. Values are drawn
    from a normal distribution by the tests, in ``low..high`` where they are given.
    """

    shapes: tuple[tuple[int, ...], ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Op:
    """One primitive.

    infer      types in, attributes -> output type; raises `ShapeError`
    reference  arrays in, attributes -> array: the op's meaning, and eager mode
    compute    how it is lowered: a `Pointwise`, or a function (types, attrs) ->
               `Contraction` | `Window` | `Reduction` | `Movement`; see `ir/compute.py`
    monotone   non-decreasing in its only input, so it commutes with max-pooling
    """

    name: str
    infer: Infer
    reference: Reference
    compute: Any
    monotone: Callable[[Mapping[str, Any]], bool] | None = None
    examples: tuple[Example, ...] = ()


REGISTRY: dict[str, Op] = {}


def register(op: Op) -> Op:
    assert op.name not in REGISTRY, f"op {op.name} is registered twice"
    REGISTRY[op.name] = op
    return op


def get_op(name: str) -> Op:
    """The record of ``name``; the families are imported on first use.

    A thread that asks while another imports them waits for the import to end.
    """
    if name not in REGISTRY:
        import jitseq.ir.ops  # noqa: F401  (registers every family)
    try:
        return REGISTRY[name]
    except KeyError:
        raise UnsupportedError(f"there is no op named {name!r}") from None


ADDRESSABLE = 1 << 47
"""Bytes of memory that a process can address."""


def infer_type(
    op: Op, types: Iterable[TensorType], attrs: Mapping[str, Any]
) -> TensorType:
    """The type of the op's output.

    Raises:
        ShapeError: the operands do not fit, or no machine could hold the output.
    """
    type = op.infer(*types, **attrs)
    size = math.prod(type.inner_shape) * np.dtype(type.dtype).itemsize
    if size >= ADDRESSABLE:
        raise ShapeError(
            f"{op.name}: the output is too large",
            facts={"output": type, "bytes": size},
            hint="check kernel sizes, paddings, strides and target shapes",
        )
    return type

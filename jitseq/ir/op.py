"""The Op record: everything that jitseq knows of one primitive, in one place.

A family file in `ir/ops/` registers records; type inference, the NumPy reference,
how the op computes, its gradient, and its examples are read from there by every other
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jitseq.errors import UnsupportedError
from jitseq.ir.graph import Node, Value

Infer = Callable[..., Any]
"""Types in, attributes -> the output's type; a tuple for an op of several outputs."""
Reference = Callable[..., Any]
"""Arrays in, attributes -> an array; a tuple for an op of several outputs."""
Emit = Callable[..., Value]
"""``emit(op, *inputs, **attrs)`` appends a node and returns its output."""
Cotangents = tuple[Value | None, ...]
Vjp = Callable[[Emit, Node, Cotangents], Cotangents]
"""``vjp(emit, node, cotangents of the outputs) -> cotangents of the inputs``.

A cotangent has its value's type; None stands for zero."""


@dataclass(frozen=True)
class Example:
    """Inputs and attributes on which every test of every backend runs.

    ``shapes`` are the input shapes; ``attrs`` the op's attributes. Values are drawn
    from a normal distribution by the tests, in ``low..high`` where they are given.
    ``below`` names inputs that are numbers 0, 1, … below a bound instead, as uint8, or
    as uint32 where the bound is above 256.
    """

    shapes: tuple[tuple[int, ...], ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    below: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """One primitive.

    infer      types in, attributes -> output type; raises `ShapeError`
    reference  arrays in, attributes -> array: the op's meaning, and eager mode
    compute    how it is lowered: a `Pointwise` or `Update`, or a function (types,
               attrs) -> any other form of `ir/compute.py`
    monotone   non-decreasing in its only input, so it commutes with max-pooling
    vjp        the gradient, written in ops; None where there is none
    derived    whether gradients emit the op, not layers
    """

    name: str
    infer: Infer
    reference: Reference
    compute: Any
    monotone: Callable[[Mapping[str, Any]], bool] | None = None
    examples: tuple[Example, ...] = ()
    vjp: Vjp | None = None
    derived: bool = False


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

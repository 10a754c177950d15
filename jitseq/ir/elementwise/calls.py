"""The functions that elementwise functions may call, by the objects they are.

Python objects such as ``math.exp`` and ``np.maximum`` enter; leave names and how each
is built of terms. Invariant: each is one function of `jitseq.ir.scalar`, or a few, so
that it exists for NumPy and in every kernel. `min` and `max` give NaN where an operand
is NaN, as np.minimum does and Python's do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from jitseq.ir.elementwise.term import Term, is_const, make


def _extreme(op: str, *terms: Term) -> Term:
    """Two or more; a number goes second, where its derivative needs no comparison."""
    return reduce(partial(_pair, op), terms)


def _pair(op: str, a: Term, b: Term) -> Term:
    return make(op, b, a) if is_const(a) else make(op, a, b)


def _square(x: Term) -> Term:
    return make("mul", x, x)


def _clip(x: Term, low: Term, high: Term) -> Term:
    return _pair("minimum", _pair("maximum", x, low), high)


UNARY = ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "abs")
Build = Callable[..., Term]
FUNCTIONS: dict[str, tuple[int | None, Build]] = {
    **{name: (1, partial(make, name)) for name in UNARY},
    "square": (1, _square),
    "maximum": (2, partial(_extreme, "maximum")),
    "minimum": (2, partial(_extreme, "minimum")),
    "max": (None, partial(_extreme, "maximum")),
    "min": (None, partial(_extreme, "minimum")),
    "clip": (3, _clip),
}
"""How many numbers each takes, None for two or more, and the term of a call."""

_OBJECTS: dict[str, tuple[Any, ...]] = {
    **{name: (getattr(math, name), getattr(np, name)) for name in UNARY[:5]},
    "erf": (math.erf,),
    "sqrt": (math.sqrt, np.sqrt),
    "abs": (abs, math.fabs, np.abs, np.fabs),
    "square": (np.square,),
    "maximum": (np.maximum,),
    "minimum": (np.minimum,),
    "max": (max,),
    "min": (min,),
    "clip": (np.clip,),
    "where": (np.where,),
    "isnan": (math.isnan, np.isnan),
}
_NAMES = {id(item): name for name, items in _OBJECTS.items() for item in items}

KNOWN = (
    "abs, min, max, math.erf, math.fabs, math.isnan, np.square, np.maximum, "
    "np.minimum, np.clip, np.where, and of math and np: exp, expm1, log, log1p, "
    "tanh, sqrt"
)


def known_name(function: Any) -> str | None:
    """The name of a function in `FUNCTIONS`, or "where" or "isnan"; else None."""
    return _NAMES.get(id(function))

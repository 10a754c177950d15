"""Saving and loading of a module's state by name.

A module leaves as an ordered dict of arrays; a mapping of arrays enters. Invariant:
`load` checks keys, shapes and dtypes of everything before it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jitseq.errors import JitseqError, ShapeError
from jitseq.ir.variable import Variable
from jitseq.nn.foreign import to_array


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` found: keys without a value, values without a key."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class StateDictError(ShapeError, RuntimeError):
    """Keys, shapes or dtypes of a state dict that do not fit the module."""


def load(
    owner: str,
    variables: Mapping[str, Variable],
    optional: Iterable[str],
    state: Mapping[str, Any],
    strict: bool,
) -> IncompatibleKeys:
    """Copy ``state`` into ``variables``, each cast to the variable's dtype.

    ``optional`` keys may be absent. Raises `StateDictError`, listing every problem,
    when keys differ (only if ``strict``) or a value does not fit; nothing is changed
    then. Raises `TypeError` when ``state`` is not a mapping.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"Expected state_dict to be dict-like, got {type(state).__name__}."
        )
    allowed = set(optional)
    missing = [key for key in variables if key not in state and key not in allowed]
    unexpected = [key for key in state if key not in variables]
    problems: dict[str, object] = {}
    if strict and missing:
        problems["missing keys"] = ", ".join(missing)
    if strict and unexpected:
        problems["unexpected keys"] = ", ".join(map(str, unexpected))

    arrays: dict[str, np.ndarray] = {}
    for key in (key for key in variables if key in state):
        array, problem = _fitting(state[key], variables[key])
        if problem:
            problems[key] = problem
        else:
            arrays[key] = array
    if problems:
        raise StateDictError(
            f"state dict does not fit {owner}",
            facts=problems,
            hint="compare with model.state_dict(); strict=False ignores missing and "
            "unexpected keys",
        )
    for key, array in arrays.items():
        variables[key].assign(array)
    return IncompatibleKeys(missing, unexpected)


def _fitting(value: Any, variable: Variable) -> tuple[np.ndarray, str]:
    """A copy of ``value`` in the variable's dtype, or what is wrong with it."""
    nothing = np.empty(0)
    try:
        array = to_array(value)
    except (JitseqError, ValueError, TypeError) as error:
        return nothing, f"not an array: {error}".split("\n")[0]
    if array.dtype.kind not in "fiub":
        return nothing, f"dtype {array.dtype} does not convert to {variable.dtype}"
    if array.shape != variable.shape:
        return nothing, f"shape {array.shape}, expected {variable.shape}"
    return array.astype(variable.dtype, copy=True), ""

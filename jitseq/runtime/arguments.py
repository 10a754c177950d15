"""The arguments of a compiled call, as arrays that kernels can read, and its options.

Whatever the caller gave enters; arrays in the order of the target's parameters leave,
and options that are known. Invariant: an array that is contiguous, aligned and of
native byte order is not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jitseq.errors import JitseqError, UnsupportedError
from jitseq.ir.tracer import as_array
from jitseq.nn.foreign import to_array
from jitseq.passes.pipeline import OPTIONAL_PASSES

BACKENDS = ("cpu", "eager")
PLANNED_BACKENDS = ("numba", "cuda")


def positional(
    target: Callable[..., Any], arrays: Sequence[Any], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """All arguments in the order of the target's own parameters.

    Raises:
        TypeError: they do not fit the signature.
        UnsupportedError: some can only be given by name.
    """
    import inspect

    function = getattr(target, "forward", target)
    bound = inspect.signature(function).bind(*arrays, **named)
    if bound.kwargs:
        raise UnsupportedError(
            f"keyword-only argument {next(iter(bound.kwargs))!r} of a compiled call",
            hint="make it positional, or close over its value",
        )
    return bound.args


def readable_all(arguments: Sequence[Any]) -> list[np.ndarray]:
    """Arrays that kernels can read; Python numbers take the dtype beside them."""
    if all(map(_is_readable, arguments)):
        return list(arguments)
    found = [x if type(x) in (int, float) else _readable(x) for x in arguments]
    dtype = next((x.dtype for x in found if isinstance(x, np.ndarray)), np.float32)
    return [x if isinstance(x, np.ndarray) else np.asarray(x, dtype) for x in found]


def _is_readable(x: Any) -> bool:
    if type(x) is not np.ndarray or x.dtype.kind not in "fiub" or not x.dtype.isnative:
        return False
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def _readable(x: Any) -> np.ndarray:
    """A C-contiguous, aligned array of native byte order; copied only if it is not."""
    array = as_array(x) if isinstance(x, np.ndarray) else to_array(x)
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return array
    return np.require(array, requirements=("C", "A"))


def checked_backend(backend: str) -> str:
    """The backend; raises `UnsupportedError` unless it is one of `BACKENDS`."""
    if backend in BACKENDS:
        return backend
    known = f"one of {', '.join(map(repr, BACKENDS))}"
    if backend in PLANNED_BACKENDS:
        raise UnsupportedError(
            f"backend {backend!r} comes in a later release", hint=f"use {known}"
        )
    raise UnsupportedError(f"there is no backend {backend!r}", hint=known)


def checked_passes(names: Sequence[str]) -> frozenset[str]:
    """The names; raises `JitseqError` unless all are optional passes."""
    unknown = set(names) - set(OPTIONAL_PASSES)
    if unknown:
        raise JitseqError(
            f"no optional pass is called {', '.join(sorted(unknown))}",
            hint=f"one of {', '.join(OPTIONAL_PASSES)}",
        )
    return frozenset(names)

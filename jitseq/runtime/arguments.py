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

BACKENDS = ("cpu", "numba", "cuda", "eager")


def any_on_device(arguments: Sequence[Any]) -> bool:
    """Whether an argument lies on a device that CUDA knows."""
    return any(hasattr(x, "__cuda_array_interface__") for x in arguments)


def readable_inputs(arguments: Sequence[Any], backend: str) -> list[Any]:
    """As `readable_all`; the cuda backend reads what lies on its device there.

    Raises:
        DeviceError: an array lies on another device, or is not contiguous.
    """
    if backend != "cuda":
        return list(readable_all(arguments))
    if not any_on_device(arguments):
        return list(readable_all(arguments))
    from jitseq.runtime.cuda.arrays import device_input

    found = {i: device_input(x) for i, x in enumerate(arguments) if any_on_device((x,))}
    like = np.empty(0, next(iter(found.values())).dtype)
    others = [x for i, x in enumerate(arguments) if i not in found]
    hosted = iter(readable_all([like, *others])[1:])
    return [found[i] if i in found else next(hosted) for i in range(len(arguments))]


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
    """The backend.

    Raises:
        UnsupportedError: it is not one of `BACKENDS`.
        DeviceError: it is "cuda", and there is no device that it can use.
    """
    if backend == "cuda":
        from jitseq.codegen.numba_cuda.shim import require_device

        require_device()
    if backend in BACKENDS:
        return backend
    known = f"one of {', '.join(map(repr, BACKENDS))}"
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

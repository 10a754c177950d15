"""What the source of kernels refers to: types, constants and functions of a thread.

Leaves a namespace for `render`'s text, in one of two forms with the same names: for the
device (libdevice's functions, exchanges inside of a warp), and for numba's simulator,
whose values are NumPy scalars. Invariant: both give NaN wherever an operand is NaN,
raise nothing, and combine the threads of a warp in the same order, so that sums round
alike. Random numbers are those of `jitseq.ir.random`, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from jitseq.codegen.numba_cuda.shim import cuda_module, numba_types, simulated
from jitseq.ir.random import MIX, RANDOM_BITS
from jitseq.ir.scalar import NumpyScalars

TYPES = {
    "f32": np.float32,
    "f64": np.float64,
    "i64": np.int64,
    "i32": np.int32,
    "u32": np.uint32,
    "u8": np.uint8,
}
"""The elements of buffers, by their names in Programs; casts and types of arrays."""

WHOLE_WARP = WHOLE_WORD = 0xFFFFFFFF


def namespace() -> dict[str, Any]:
    """New globals for rendered source to run in."""
    found = {
        "cuda": cuda_module(),
        "array": np.array,
        "int64": np.int64,
        "inf": math.inf,
        "nan": math.nan,
        **TYPES,
    }
    if not simulated():
        return found | _device_functions()
    found |= _simulated_functions()
    exec(SIMULATED_WARP, found)
    return found


@cache
def _device_functions() -> dict[str, Any]:
    cuda = cuda_module()
    found = {"u64": np.uint64, "abs": abs} | _divisions()
    for name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt"):
        found[name] = getattr(math, name)

    def warp_add(value: Any, width: Any) -> Any:
        distance = width >> 1
        while distance > 0:
            value = value + cuda.shfl_xor_sync(WHOLE_WARP, value, distance)
            distance = distance >> 1
        return value

    def warp_maximum(value: Any, width: Any) -> Any:
        distance = width >> 1
        while distance > 0:
            other = cuda.shfl_xor_sync(WHOLE_WARP, value, distance)
            value = value if value > other or value != value else other
            distance = distance >> 1
        return value

    for function in (_maximum, _minimum, warp_add, warp_maximum):
        found[function.__name__.removeprefix("_")] = _inlined(function)
    for name, kind in (("f32", np.float32), ("f64", np.float64)):
        found[f"uniform_{name}"] = _inlined(_uniform(kind), name)
    return found


def _inlined(function: Callable[[Any, Any], Any], result: str | None = None) -> Any:
    """``function(a, b)`` for kernels; the result has the type of ``a`` unless named.

    A device function of numba's own would need a device to be compiled.
    """
    from numba.cuda.extending import intrinsic

    types = numba_types()

    of_type = {None: None, "f32": types.float32, "f64": types.float64}[result]

    def typed(context: Any, a: Any, b: Any) -> Any:
        def emitted(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.compile_internal(builder, function, signature, args)

        return (of_type or a)(a, b), emitted

    return intrinsic(typed)


def _divisions() -> dict[str, Any]:
    """Division of numbers below 2³², in 32 bits: 64 bits take five times as long."""
    from numba.cuda.extending import intrinsic

    types = numba_types()

    def divided(name: str) -> Any:
        def typed(context: Any, a: Any, b: Any) -> Any:
            def emitted(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                cast = [
                    context.cast(builder, value, type, types.uint32)
                    for value, type in zip(args, signature.args, strict=True)
                ]
                result = getattr(builder, name)(*cast)
                return context.cast(builder, result, types.uint32, types.int64)

            return types.int64(types.int64, types.int64), emitted

        return intrinsic(typed)

    return {"quotient": divided("udiv"), "remainder": divided("urem")}


def _maximum(a: Any, b: Any) -> Any:
    return a if a > b or a != a else b


def _minimum(a: Any, b: Any) -> Any:
    return a if a < b or a != a else b


def _uniform(kind: Any) -> Callable[[Any, Any], Any]:
    """The number of an index under a key; every step is cut to 32 bits again."""
    u32, scale, shift = np.uint32, kind(2.0**-RANDOM_BITS), np.uint32(32 - RANDOM_BITS)
    first, second, third = (u32(by) for by, _ in MIX)
    factor, other = (u32(by) for _, by in MIX if by is not None)

    def uniform(key: Any, index: Any) -> Any:
        h = u32(u32(index & WHOLE_WORD) + key[0])
        h = u32(u32(h ^ (h >> first)) * factor)
        h = u32(u32(h ^ (h >> second)) * other)
        h = u32(u32(h ^ (h >> third)) ^ key[1])
        h = u32(u32(h ^ (h >> first)) * factor)
        h = u32(u32(h ^ (h >> second)) * other)
        h = u32(u32(h ^ (h >> third)) >> shift)
        return kind(h) * scale

    return uniform


@cache
def _simulated_functions() -> dict[str, Any]:
    """The same on NumPy scalars."""
    names = (
        "exp", "expm1", "log", "log1p", "tanh", "sqrt", "abs", "maximum", "minimum",
    )  # fmt: skip
    found: dict[str, Any] = {name: getattr(np, name) for name in names}
    return found | {
        "u64": int,
        "erf": lambda x: type(x)(NumpyScalars.erf(x)),
        "quotient": lambda a, b: a // b,
        "remainder": lambda a, b: a % b,
        "arange": np.arange,
        "uniform_f32": _uniform(np.float32),
        "uniform_f64": _uniform(np.float64),
    }


# The simulator has no warps: its threads meet in shared memory. This is text because
# it refers to the ``cuda`` of the kernel's globals, which the simulator exchanges.
SIMULATED_WARP = """
def exchanged(value):
    box = cuda.shared.array(cuda.blockDim.x, f64)
    box[cuda.threadIdx.x] = value
    cuda.syncthreads()
    values = box.astype(type(value))
    cuda.syncthreads()
    return values


def warp_add(value, width):
    values, distance = exchanged(value), width // 2
    while distance:
        values = values + values[arange(values.size) ^ distance]
        distance //= 2
    return values[cuda.threadIdx.x]


def warp_maximum(value, width):
    values, distance = exchanged(value), width // 2
    while distance:
        values = maximum(values, values[arange(values.size) ^ distance])
        distance //= 2
    return values[cuda.threadIdx.x]
"""

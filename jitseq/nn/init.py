"""Random initial values of parameters.

A shape, a bound and a dtype enter, an array leaves. Invariant: every draw comes
from the one generator that `manual_seed` sets, in the order of construction.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, UnsupportedError
from jitseq.ir.random import seed_keys

FLOATS = ("float32", "float64")

_state: dict[str, np.random.Generator] = {}
_lock = threading.Lock()


def manual_seed(seed: int) -> None:
    """Seed the initial parameters of layers made from now on, and the dropout masks.

    Both have a stream of their own, which starts again. Any integer is accepted; it is
    taken modulo 2**64.
    """
    with _lock:
        _state["generator"] = np.random.default_rng(int(seed) % 2**64)
    seed_keys(seed)


def generator() -> np.random.Generator:
    """The generator; seeded by the operating system until `manual_seed` is called."""
    with _lock:
        return _state.setdefault("generator", np.random.default_rng())


def uniform(shape: tuple[int, ...], bound: float, dtype: Any) -> np.ndarray:
    """Values drawn evenly from ``[-bound, bound)``."""
    return generator().uniform(-bound, bound, shape).astype(dtype)


def fan_in_bound(shape: tuple[int, ...]) -> float:
    """``1 / sqrt(fan in)`` of a weight laid out as (out, in, *taps).

    The bound of PyTorch's default for linear and convolution layers, which is
    "Kaiming uniform" (He et al., Delving deep into rectifiers, 2015) with a = √5.
    """
    fan_in = math.prod(shape[1:])
    return 1.0 / math.sqrt(fan_in) if fan_in else 0.0


def float_dtype(dtype: Any, device: Any = None) -> np.dtype[Any]:
    """The NumPy dtype of new parameters; ``None`` means float32.

    Accepts NumPy and torch dtypes and their names. Raises `DtypeError` for anything
    but float32 and float64, and `UnsupportedError` for a device that is not the CPU.
    """
    if device is not None and str(device) != "cpu":
        raise UnsupportedError(
            f"parameters live in main memory, got device {str(device)!r}",
            hint="choose where a model runs with js.jit(model, backend=…)",
        )
    if dtype is None:
        return np.dtype(np.float32)
    name = str(dtype).removeprefix("torch.") if not isinstance(dtype, type) else dtype
    try:
        found = np.dtype(name)
    except TypeError:
        found = None
    if found is None or found.name not in FLOATS:
        raise DtypeError(
            f"parameters are float32 or float64, got {dtype!r}",
            hint="use np.float32 or np.float64",
        )
    return found.newbyteorder("=")

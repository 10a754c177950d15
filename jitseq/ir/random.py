"""Random numbers for ops: keys from one stream, and uniform numbers from a key.

A seed enters `seed_keys`; each `draw_key` takes the next key from the stream of the
process; a key and a shape give `uniform` numbers. Invariants: the keys depend on the
seed and on how many were drawn since; a number depends on its key and on its index
alone, so that whoever computes it, in whatever order, gets the same one.

The numbers are hashes of a counter: with ``mix`` the 32-bit finaliser "lowbias32"
(C. Wellons, Prospecting for hash functions, 2018) and all arithmetic modulo 2**32,
``u[i] = (mix(mix(i + key[0]) ^ key[1]) >> 8) / 2**24``.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

RANDOM_BITS = 24
"""Bits of a uniform number: as many as a float32 in [0, 1) holds exactly."""

MIX = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None))
"""Steps of ``mix``: ``h ^= h >> shift``, then ``h *= factor``."""

BLOCK = 16384
"""Numbers computed at a time, so that they stay in cache."""

_STREAM = 0x6A736B79
"""Keeps the keys apart from other streams with the same seed."""

_lock = threading.Lock()
_state: dict[str, np.random.PCG64] = {}


def seed_keys(seed: int) -> None:
    """Start the stream of keys again; ``seed`` is taken modulo 2**64."""
    with _lock:
        _state["keys"] = np.random.PCG64([int(seed) % 2**64, _STREAM])


def draw_key() -> np.ndarray:
    """The next key, uint32 ``[2]``; safe to call from several threads.

    The operating system seeds the stream when `seed_keys` was not called.
    """
    with _lock:
        if "keys" not in _state:
            _state["keys"] = np.random.PCG64()
        bits = int(_state["keys"].random_raw())
    return np.array([bits & 0xFFFFFFFF, bits >> 32], np.uint32)


def mix(h: np.ndarray) -> np.ndarray:
    """lowbias32 of uint32 numbers, in place; a bijection."""
    for shift, factor in MIX:
        h ^= h >> np.uint32(shift)
        if factor is not None:
            h *= np.uint32(factor)
    return h


def uniform(key: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers in [0, 1), the ``i``-th in row-major order from ``key`` and ``i``.

    ``key`` is uint32 ``[2]``, ``dtype`` float32 or float64; both get the same numbers.
    The index counts modulo 2**32.
    """
    result = np.empty(math.prod(shape), dtype)
    for start in range(0, result.size, BLOCK):
        block = result[start : start + BLOCK]
        index = np.arange(start, start + block.size) % 2**32
        block[:] = uniform_at(key, index.astype(np.uint32), dtype)
    return result.reshape(shape)


def uniform_at(key: np.ndarray, index: np.ndarray, dtype: Any) -> np.ndarray:
    """The numbers of some indices, uint32; they are overwritten."""
    first, second = (np.uint32(part) for part in key)
    index += first
    h = mix(index)
    h ^= second
    bits = mix(h) >> np.uint32(32 - RANDOM_BITS)
    numbers: np.ndarray = np.multiply(bits, 2.0**-RANDOM_BITS, dtype=dtype)
    return numbers

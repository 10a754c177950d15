"""What the `run` of a generated source does beside calling kernels, and how it loads.

The text of a program enters `load_source`; the namespace leaves in which its functions
stand, to be run as they are, without a compiler. Invariant: scratch memory starts as
NaN, and tracebacks show the lines of the text.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Iterator
from typing import Any

import numpy as np

from jitseq.codegen.reference import DTYPES, Pointer


def load_source(text: str) -> dict[str, Any]:
    """The functions and constants of a source, by name; nothing is compiled natively.

    The file name is made of the text's hash, so that equal texts share one.
    """
    name = f"<jitseq {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    lines = text.splitlines(keepends=True)
    linecache.cache[name] = (len(text), None, lines, name)
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), namespace)
    return namespace


def blocks(images: int, size: int) -> Iterator[tuple[int, int]]:
    """The first image and the number of images of each block."""
    for first in range(0, images, size):
        yield first, min(size, images - first)


def scratch(size: int) -> np.ndarray:
    """Memory of ``size`` bytes, uint8, whose floats are NaN."""
    return np.full(size, 0xFF, np.uint8)


def zero(memory: np.ndarray, offset: int, size: int) -> None:
    """Clear ``size`` bytes of a contiguous array from byte ``offset``."""
    memory.reshape(-1).view(np.uint8)[offset : offset + size] = 0


def place(memory: np.ndarray, element: str, offset: int) -> Pointer:
    """A pointer to elements of a contiguous array, from byte ``offset``."""
    dtype = DTYPES[element]
    whole = memory.reshape(-1).view(np.uint8)
    position, rest = divmod(offset, dtype.itemsize)
    assert rest == 0, f"byte {offset} is not aligned to {element}"
    return Pointer(
        whole[: whole.size // dtype.itemsize * dtype.itemsize].view(dtype), position
    )

"""Parameters in the order in which kernels read them.

Enters the arrays of static values and a `Pack`; leaves a contiguous array aligned to
64 bytes. Vectors that stick out over the last channel are filled with zeros.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jitseq.ir.graph import Graph, Value
from jitseq.ir.op import get_op

ALIGNMENT = 64
HUGE_PAGE = 2 << 20
HUGE_FROM = 1 << 20


def aligned_empty(count: int, dtype: Any) -> np.ndarray:
    """An uninitialised vector whose data starts at a multiple of 64 bytes.

    From 1 MB on it asks for huge pages, so that streaming through it does not wait
    for address translation.
    """
    dtype = np.dtype(dtype)
    size = count * dtype.itemsize
    raw = (
        _huge_pages(size) if size >= HUGE_FROM else np.empty(size + ALIGNMENT, np.uint8)
    )
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + size].view(dtype)


def _huge_pages(size: int) -> np.ndarray:
    """Anonymous memory that starts on a huge page; freed with its last view."""
    memory = mmap.mmap(-1, size + HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    return raw[-raw.ctypes.data % HUGE_PAGE :]


def evaluate_static(
    graph: Graph, arrays: Mapping[str, np.ndarray], static: frozenset[Value]
) -> dict[Value, np.ndarray]:
    """Every static value, by the ops' references; params by name."""
    known = {value: arrays[value.name] for value in graph.params}
    for node in graph.nodes:
        if node.output in static:
            inputs = [known[value] for value in node.inputs]
            known[node.output] = get_op(node.op).reference(*inputs, **node.attrs)
    return known


def pack_all(items: Sequence[tuple[np.ndarray, Mapping[str, Any]]]) -> list[np.ndarray]:
    """Rearrange parameters as `passes.lower.operands.Pack` describes, in one block."""
    packed = [PACKERS[spec["kind"]](array, spec).reshape(-1) for array, spec in items]
    sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in packed]
    block = aligned_empty(max(sum(sizes), 1), np.uint8)
    placed, start = [], 0
    for array, size in zip(packed, sizes, strict=True):
        place = block[start : start + array.nbytes].view(array.dtype)
        place[:] = array
        placed.append(place)
        start += size
    return placed


def _raw(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """As it is, with a vector of zeros behind it, so that whole vectors can be read."""
    return np.concatenate([array.reshape(-1), np.zeros(16, array.dtype)])


def _padded(array: np.ndarray, lanes: int) -> np.ndarray:
    """The last axis filled up with zeros to a multiple of ``lanes``."""
    missing = -array.shape[-1] % lanes
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


def _lanes(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    return _padded(array.reshape(spec["groups"], -1), spec["lanes"])


def _by_tap(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """``[group, tap, channel, output]``, channels in the order of the reduction."""
    groups, taps = spec["groups"], spec["taps"]
    if array.ndim == 2:
        array = array[:, :, None, None]
    elif spec["axes"] == "iohw":
        inputs, outputs = array.shape[:2]
        grouped = array.reshape(groups, inputs // groups, outputs, *array.shape[2:])
        array = grouped.transpose(0, 2, 1, 3, 4).reshape(
            -1, inputs // groups, *array.shape[2:]
        )
    grouped = array.reshape(groups, -1, *array.shape[1:])
    picked = np.stack([grouped[..., ky, kx] for ky, kx in taps], axis=1)
    return _reordered(picked.transpose(0, 1, 3, 2), spec["channels"])


def _reordered(array: np.ndarray, channels: Any) -> np.ndarray:
    """Channels from logical to memory order.

    ``channels`` are the loops of the reduction: (extent, logical stride) each.
    """
    index = np.zeros(1, np.int64)
    for extent, stride in channels:
        index = (index[:, None] + np.arange(extent) * stride).reshape(-1)
    if np.array_equal(index, np.arange(index.size)):
        return array
    return array[:, :, index]


def _weights(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    by_tap = _padded(_by_tap(array, spec), spec["lanes"])
    if not spec["taps_outer"]:
        by_tap = by_tap.transpose(0, 2, 1, 3)
    groups = by_tap.shape[0]
    tiles, start = [], 0
    for vectors in spec["widths"]:
        stop = start + vectors * spec["lanes"]
        tiles.append(by_tap[..., start:stop].reshape(groups, -1))
        start = stop
    return np.concatenate(tiles, axis=1)


def _rows(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    return _padded(_by_tap(array, spec).transpose(0, 3, 1, 2), spec["lanes"])


def _channels(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    taps = [array[:, 0, ky, kx] for ky, kx in spec["taps"]]
    return _padded(np.stack(taps), spec["lanes"])


PACKERS = {
    "raw": _raw,
    "lanes": _lanes,
    "weights": _weights,
    "rows": _rows,
    "channels": _channels,
}

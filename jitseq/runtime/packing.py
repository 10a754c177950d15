"""Parameters in the order in which kernels read them.

Enters the arrays of static values and a `Pack`; leaves a contiguous array aligned to
64 bytes. Vectors that stick out over the last channel are filled with zeros.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from jitseq.ir.graph import Graph, Value
from jitseq.ir.op import get_op
from jitseq.ir.packing import Pack, pack_pieces, packed_size, parse_pack

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
    known = {v: arrays[v.name] for v in graph.params if v in static}
    for node in graph.nodes:
        if node.outputs[0] in static:
            inputs = [known[value] for value in node.inputs]
            known[node.output] = get_op(node.op).reference(*inputs, **node.attrs)
    return known


def pack_all(items: Sequence[tuple[np.ndarray, Mapping[str, Any]]]) -> list[np.ndarray]:
    """Rearrange parameters, in one block of memory.

    Args:
        items: contiguous or not, each with the fields of its `ir.packing.Pack`.
    """
    packs = [(array, parse_pack(fields)) for array, fields in items]
    sizes = [packed_size(pack, array.shape) * array.itemsize for array, pack in packs]
    starts = [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
    block = aligned_empty(max(starts[-1], 1), np.uint8)
    placed = []
    for (array, pack), start, size in zip(packs, starts, sizes):
        place = block[start : start + size].view(array.dtype)
        _pack_into(place, array, pack)
        placed.append(place)
    return placed


def _pack_into(place: np.ndarray, array: np.ndarray, pack: Pack) -> None:
    flat, size = np.ascontiguousarray(array), array.itemsize
    pieces = pack_pieces(pack, array.shape)
    if sum(piece.size for piece in pieces) < place.size:
        place[:] = 0
    for piece in pieces:
        shape = tuple(extent for extent, _, _ in piece.dims)
        read = tuple(stride * size for _, stride, _ in piece.dims)
        written = tuple(stride * size for _, _, stride in piece.dims)
        start, target = piece.source_offset * size, piece.packed_offset * size
        source = np.ndarray(shape, array.dtype, flat, start, read)
        np.ndarray(shape, array.dtype, place, target, written)[...] = source

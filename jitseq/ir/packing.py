"""The order in which kernels read parameters, as copies between two views.

Enters a `Pack` and the shape of a parameter; leaves the `Piece`s that fill the packed
buffer, and its size. Both packers follow them: NumPy's, once for each version of the
parameters (`runtime/packing.py`), and the kernels' (`passes/lower/pack.py`), at every
training step. Invariant: no two pieces write the same element, and what none of them
writes is padding, which must hold zeros. The number of pieces depends neither on the
channels nor, where the taps are a grid, on the taps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

SPARE = 16
"""Zeros behind a raw parameter, so that whole vectors can be read."""


@dataclass(frozen=True)
class Pack:
    """How a parameter is rearranged for the kernel that reads it.

    raw      as it is, and 16 zeros
    lanes    one value a channel, each group padded to whole vectors
    weights  ``[group][tile][channels][taps][tile width]``, or
             ``[group][tile][taps][channels][tile width]`` with ``taps_outer``
    rows     ``[group][output][tap][channels padded to whole vectors]``
    channels ``[tap][channel padded to whole vectors]`` (depthwise)
    runs     ``[ky][channels][kx · output, padded to whole vectors]``, and one vector
             of zeros, so that a whole vector can be read at any element

    ``axes`` are those of `ir.compute.Contraction.weight_axes`; ``widths`` counts the
    vectors of each tile; ``taps`` are (ky, kx); ``channels`` are the loops over input
    channels in the order of the reduction: (extent, logical stride) each.
    """

    kind: str
    groups: int = 1
    axes: str = ""
    lanes: int = 1
    widths: tuple[int, ...] = ()
    taps: tuple[tuple[int, int], ...] = ()
    channels: tuple[tuple[int, int], ...] = ()
    taps_outer: bool = False


RAW = Pack("raw")


def parse_pack(stored: Mapping[str, Any]) -> Pack:
    """From the fields of a `Pack`, whose tuples are lists when they were JSON."""
    fields = dict(stored)
    fields["widths"] = tuple(stored["widths"])
    for name in ("taps", "channels"):
        fields[name] = tuple((a, b) for a, b in stored[name])
    return Pack(**fields)


Dim = tuple[int, int, int]


@dataclass(frozen=True)
class Piece:
    """``packed[packed_offset + Σ j·p] = source[source_offset + Σ j·s]``.

    ``dims`` are the loops (extent, s, p), outermost first in the packed buffer; p is
    positive, s may be negative. Everything counts elements.
    """

    dims: tuple[Dim, ...]
    source_offset: int = 0
    packed_offset: int = 0

    @property
    def size(self) -> int:
        return math.prod(extent for extent, _, _ in self.dims)


def packed_size(pack: Pack, shape: tuple[int, ...]) -> int:
    """Elements of the packed buffer, padding included."""
    if pack.kind == "raw":
        return math.prod(shape) + SPARE
    if pack.kind == "lanes":
        return pack.groups * _whole(shape[0] // pack.groups, pack.lanes)
    if pack.kind == "channels":
        return len(pack.taps) * _whole(shape[0], pack.lanes)
    weight = _weight(pack, shape)
    steps = pack.groups * len(pack.taps)
    if pack.kind == "rows":
        return steps * weight.outputs * _whole(weight.inputs, pack.lanes)
    if pack.kind == "runs":
        columns = run_columns(pack)
        run = _whole(columns * weight.outputs, pack.lanes)
        return steps // columns * weight.inputs * run + pack.lanes
    assert pack.kind == "weights", pack.kind
    return steps * weight.inputs * sum(pack.widths) * pack.lanes


def pack_pieces(pack: Pack, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    """The copies that pack a row-major parameter.

    Args:
        pack: the order that the kernel wants.
        shape: of the parameter: ``[C]`` for lanes, ``[O, I/groups, KH, KW]``,
            ``[I, O/groups, KH, KW]``, ``[O, I]`` or ``[I, O]`` for weights and rows
            as ``pack.axes`` says, ``[C, 1, KH, KW]`` for channels; any for raw. The
            taps of runs are a grid, kx in steps of one.
    """
    pieces = _PIECES[pack.kind](pack, shape)
    return tuple(piece for piece in pieces if piece.size)


def _whole(count: int, lanes: int) -> int:
    return -(-count // lanes) * lanes


def _raw(pack: Pack, shape: tuple[int, ...]) -> Sequence[Piece]:
    return [Piece(((math.prod(shape), 1, 1),))]


def _lanes(pack: Pack, shape: tuple[int, ...]) -> Sequence[Piece]:
    own = shape[0] // pack.groups
    return [Piece(((pack.groups, own, _whole(own, pack.lanes)), (own, 1, 1)))]


class _Weight(NamedTuple):
    """Channels of one group, and the distances between neighbours."""

    inputs: int
    outputs: int
    group: int
    input: int
    output: int
    row: int


def _weight(pack: Pack, shape: tuple[int, ...]) -> _Weight:
    first, second = shape[0] // pack.groups, shape[1]
    kernel = math.prod(shape[2:])
    row = shape[3] if len(shape) > 2 else 1
    along_first, along_second = second * kernel, kernel
    group = first * along_first
    if pack.axes in ("oihw", "oi"):
        return _Weight(second, first, group, along_second, along_first, row)
    assert pack.axes in ("iohw", "io"), pack.axes
    return _Weight(first, second, group, along_first, along_second, row)


def _channel_dims(
    channels: tuple[tuple[int, int], ...], stride: int, step: int
) -> tuple[Dim, ...]:
    """The loops of the reduction; the innermost one advances by ``step``."""
    dims: list[Dim] = []
    for extent, logical in reversed(channels):
        dims.append((extent, logical * stride, step))
        step *= extent
    return tuple(reversed(dims))


class _Run(NamedTuple):
    """Taps from number ``first`` on: loops of (count, step in ky, step in kx)."""

    first: int
    loops: tuple[tuple[int, int, int], ...]


def _tap_runs(taps: tuple[tuple[int, int], ...]) -> list[_Run]:
    """One run for a grid with even steps; else stretches with even steps."""
    ky, kx = taps[0]
    columns = sum(1 for _ in next(groupby(taps, key=lambda tap: tap[0]))[1])
    rows = len(taps) // columns
    dy = taps[columns][0] - ky if rows > 1 else 0
    dx = taps[1][1] - kx if columns > 1 else 0
    grid = tuple(
        (ky + j * dy, kx + i * dx) for j in range(rows) for i in range(columns)
    )
    if grid == taps:
        return [_Run(0, ((rows, dy, 0), (columns, 0, dx)))]
    runs, first = [], 0
    while first < len(taps):
        stop = first + 1
        step = _step(taps, first) if stop < len(taps) else (0, 0)
        while stop < len(taps) and _step(taps, stop - 1) == step:
            stop += 1
        runs.append(_Run(first, ((stop - first, *step),)))
        first = stop
    return runs


def _step(taps: tuple[tuple[int, int], ...], i: int) -> tuple[int, int]:
    return taps[i + 1][0] - taps[i][0], taps[i + 1][1] - taps[i][1]


def _tap_pieces(
    pack: Pack, row: int, step: int
) -> list[tuple[tuple[Dim, ...], int, int]]:
    """Loops over taps that lie ``step`` apart, with both offsets, for each run."""
    found = []
    for first, loops in _tap_runs(pack.taps):
        dims: list[Dim] = []
        inner = step
        for count, dy, dx in reversed(loops):
            dims.append((count, dy * row + dx, inner))
            inner *= count
        ky, kx = pack.taps[first]
        found.append((tuple(reversed(dims)), ky * row + kx, first * step))
    return found


def _weights(pack: Pack, shape: tuple[int, ...]) -> Sequence[Piece]:
    weight = _weight(pack, shape)
    steps = len(pack.taps) * weight.inputs
    group = (pack.groups, weight.group, steps * sum(pack.widths) * pack.lanes)
    pieces = []
    for first, tiles, width, outputs in _tiles(pack, weight.outputs):
        tap_step, channel_step = width, width * len(pack.taps)
        if pack.taps_outer:
            tap_step, channel_step = width * weight.inputs, width
        tile = (tiles, width * weight.output, width * steps)
        channels = _channel_dims(pack.channels, weight.input, channel_step)
        for taps, source, packed in _tap_pieces(pack, weight.row, tap_step):
            inner = taps + channels if pack.taps_outer else channels + taps
            pieces.append(
                Piece(
                    (group, tile, *inner, (outputs, weight.output, 1)),
                    source + first * weight.output,
                    packed + first * steps,
                )
            )
    return pieces


def _tiles(pack: Pack, outputs: int) -> list[tuple[int, int, int, int]]:
    """Runs of equal tiles: first output, tiles, padded and actual outputs of each."""
    found: list[tuple[int, int, int, int]] = []
    start = 0
    for vectors in pack.widths:
        width = vectors * pack.lanes
        kind = (width, min(width, outputs - start))
        if found and found[-1][2:] == kind:
            first, tiles, _, _ = found.pop()
            found.append((first, tiles + 1, *kind))
        else:
            found.append((start, 1, *kind))
        start += width
    return found


def _rows(pack: Pack, shape: tuple[int, ...]) -> Sequence[Piece]:
    weight = _weight(pack, shape)
    step = _whole(weight.inputs, pack.lanes)
    row = len(pack.taps) * step
    group = (pack.groups, weight.group, weight.outputs * row)
    output = (weight.outputs, weight.output, row)
    channels = _channel_dims(pack.channels, weight.input, 1)
    return [
        Piece((group, output, *taps, *channels), source, packed)
        for taps, source, packed in _tap_pieces(pack, weight.row, step)
    ]


def _channels(pack: Pack, shape: tuple[int, ...]) -> Sequence[Piece]:
    step = _whole(shape[0], pack.lanes)
    return [
        Piece((*taps, (shape[0], math.prod(shape[1:]), 1)), source, packed)
        for taps, source, packed in _tap_pieces(pack, shape[3], step)
    ]


def run_columns(pack: Pack) -> int:
    """Taps of one kernel row."""
    return sum(1 for ky, _ in pack.taps if ky == pack.taps[0][0])


def _runs(pack: Pack, shape: tuple[int, ...]) -> Sequence[Piece]:
    weight = _weight(pack, shape)
    columns, outputs = run_columns(pack), weight.outputs
    run = _whole(columns * outputs, pack.lanes)
    channels = _channel_dims(pack.channels, weight.input, run)
    inner = ((columns, 1, outputs), (outputs, weight.output, 1))
    rows = replace(pack, taps=pack.taps[::columns])
    return [
        Piece((*taps, *channels, *inner), source, packed)
        for taps, source, packed in _tap_pieces(rows, weight.row, weight.inputs * run)
    ]


_PIECES = {
    "raw": _raw,
    "lanes": _lanes,
    "weights": _weights,
    "rows": _rows,
    "channels": _channels,
    "runs": _runs,
}

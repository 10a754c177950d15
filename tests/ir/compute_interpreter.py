"""Evaluates compute records with plain loops: what a backend has to reproduce."""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.ir.compute import AxisWindows, Contraction, Phase, Reduction, Window


def contract(record: Contraction, x: Any, w: Any, bias: Any = None) -> np.ndarray:
    """Phase by phase and tap by tap; ``x`` is ``[N, C, H, W]``."""
    groups = record.groups
    shape = (len(x), record.out_channels, *record.out_size)
    out = np.full(shape, np.nan)
    weight = as_oihw(record, w)
    for phase in record.phases:
        part = sum(
            (tap_product(x, weight[..., t.ky, t.kx], phase, t, groups)
             for t in phase.taps),
            np.zeros((len(x), record.out_channels, *phase.count)),
        )  # fmt: skip
        written = tuple(
            slice(phase.start[a], phase.start[a] + phase.step[a] * phase.count[a],
                  phase.step[a])
            for a in (0, 1)
        )  # fmt: skip
        assert np.isnan(out[:, :, *written]).all(), "two phases write one output"
        out[:, :, *written] = part
    return out if bias is None else out + bias[:, None, None]


def as_oihw(record: Contraction, w: np.ndarray) -> np.ndarray:
    """The weight as ``[O, C/groups, KH, KW]``."""
    if record.weight_axes == "oihw":
        return w
    if record.weight_axes == "oi":
        return w[:, :, None, None]
    per_group = w.reshape(record.groups, -1, *w.shape[1:])
    return np.concatenate(list(per_group.swapaxes(1, 2)), axis=0)


def tap_product(x: Any, w: Any, phase: Phase, tap: Any, groups: int) -> np.ndarray:
    rows = [phase.stride[0] * i + tap.dy for i in range(phase.count[0])]
    cols = [phase.stride[1] * i + tap.dx for i in range(phase.count[1])]
    pixels = np.zeros((*x.shape[:2], len(rows), len(cols)))
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            if 0 <= row < x.shape[2] and 0 <= col < x.shape[3]:
                pixels[:, :, i, j] = x[:, :, row, col]
    parts = zip(np.split(pixels, groups, axis=1), np.split(w, groups))
    return np.concatenate([np.einsum("niyx,oi->noyx", p, v) for p, v in parts], axis=1)


def positions(axis: AxisWindows, index: int) -> list[int]:
    return [axis.start[index] + axis.step * t for t in range(axis.count[index])]


def pool(record: Window, x: np.ndarray) -> np.ndarray:
    """Window by window."""
    shape = (*x.shape[:2], len(record.rows.start), len(record.cols.start))
    out = np.empty(shape)
    for y, c in np.ndindex(*shape[2:]):
        window = x[:, :, positions(record.rows, y)][..., positions(record.cols, c)]
        if record.kind == "max":
            out[:, :, y, c] = window.max(axis=(2, 3))
            continue
        divisor = record.divisor or record.rows.divisor[y] * record.cols.divisor[c]
        out[:, :, y, c] = window.sum(axis=(2, 3)) / divisor
    return out


def reduce(record: Reduction, x: np.ndarray) -> np.ndarray:
    """The formulas as they stand in a textbook."""
    if record.kind in ("softmax", "log_softmax"):
        result = np.exp(x) / np.exp(x).sum(axis=record.axes, keepdims=True)
        return result if record.kind == "softmax" else np.log(result)
    reducer = {"sum": np.sum, "mean": np.mean, "max": np.max}[record.kind]
    return reducer(x, axis=record.axes, keepdims=record.keepdim)

"""The compute records of gradient ops mean what their references compute.

Each record is evaluated with plain loops over its phases, taps and windows.
"""

from __future__ import annotations

import compute_interpreter as interpreter
import numpy as np
import pytest
from op_cases import inputs_of, types_of

from jitseq.ir.compute import (
    Contraction,
    Pointwise,
    Reduction,
    WeightGradient,
    Window,
    WindowGradient,
    WindowIndex,
)
from jitseq.ir.op import REGISTRY
from jitseq.ir.scalar import NumpyScalars
from jitseq.ir.types import TensorType

CASES = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if op.derived and op.compute is not None and op.name != "labels"
    for index, example in enumerate(op.examples)
]


def as_images(x: np.ndarray) -> np.ndarray:
    """Rows of a linear layer as images of one pixel."""
    return x if x.ndim == 4 else x.reshape(-1, x.shape[-1], 1, 1)


def contract(record: Contraction, g: np.ndarray, w: np.ndarray) -> np.ndarray:
    if record.weight_axes != "io":
        return interpreter.contract(record, g, w)
    phase = record.phases[0]
    pixels = interpreter.tap_product(
        as_images(g), w.T, phase, phase.taps[0], record.groups
    )
    return pixels.reshape(*g.shape[:-1], record.out_channels)


def weight_gradient(record: WeightGradient, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Tap by tap: what the forward op multiplied the weight with, times g."""
    forward, x, g = record.forward, as_images(x), as_images(g)
    groups = forward.groups
    per_group = forward.in_channels // groups
    taps = [tap for phase in forward.phases for tap in phase.taps]
    rows, cols = (max(getattr(t, k) for t in taps) + 1 for k in ("ky", "kx"))
    result = np.zeros((forward.out_channels, per_group, rows, cols))
    for phase in forward.phases:
        for tap in phase.taps:
            for n, y, c in np.ndindex(len(x), *phase.count):
                row = phase.stride[0] * y + tap.dy
                col = phase.stride[1] * c + tap.dx
                if not (0 <= row < x.shape[2] and 0 <= col < x.shape[3]):
                    continue
                pixels = x[n, :, row, col].reshape(groups, 1, per_group)
                cotangents = g[n, :, y, c].reshape(groups, -1, 1)
                product = (cotangents * pixels).reshape(-1, per_group)
                result[:, :, tap.ky, tap.kx] += product
    return result


def window_index(window: Window, x: np.ndarray) -> np.ndarray:
    rows, cols = window.rows, window.cols
    result = np.zeros((*x.shape[:2], len(rows.start), len(cols.start)), int)
    for n, c, i, j in np.ndindex(*result.shape):
        best = None
        for ty, h in enumerate(interpreter.positions(rows, i)):
            for tx, w in enumerate(interpreter.positions(cols, j)):
                if best is None or x[n, c, h, w] > best:
                    best = x[n, c, h, w]
                    result[n, c, i, j] = ty * max(cols.count) + tx
    return result


def window_gradient(
    record: WindowGradient, g: np.ndarray, index: np.ndarray | None = None
) -> np.ndarray:
    window = record.forward
    rows, cols = window.rows, window.cols
    result = np.zeros((*g.shape[:2], *record.in_size))
    for i, j in np.ndindex(len(rows.start), len(cols.start)):
        divisor = window.divisor or rows.divisor[i] * cols.divisor[j]
        for ty, h in enumerate(interpreter.positions(rows, i)):
            for tx, w in enumerate(interpreter.positions(cols, j)):
                part = g[:, :, i, j] / divisor
                if index is not None:
                    own = ty * max(cols.count) + tx
                    part = np.where(index[:, :, i, j] == own, g[:, :, i, j], 0)
                result[:, :, h, w] += part
    return result


def evaluate(record: object, inputs: list[np.ndarray]) -> np.ndarray:
    if isinstance(record, Contraction):
        return contract(record, *inputs)
    if isinstance(record, WeightGradient):
        return weight_gradient(record, *inputs)
    if isinstance(record, WindowIndex):
        return window_index(record.forward, *inputs)
    if isinstance(record, Reduction):
        return interpreter.reduce(record, *inputs)
    assert isinstance(record, WindowGradient)
    return window_gradient(record, *inputs)


@pytest.mark.parametrize("op, example", CASES)
def test_record(op, example) -> None:
    inputs = inputs_of(op, example)
    expected = op.reference(*inputs, **example.attrs)
    if isinstance(op.compute, Pointwise):
        result = op.compute.expr(NumpyScalars, *inputs, **example.attrs)
        np.testing.assert_array_equal(np.asarray(result, expected.dtype), expected)
        return
    types = tuple(
        TensorType("uint8" if i in example.below else "float64", type.shape)
        for i, type in enumerate(types_of(example))
    )
    record = op.compute(types, example.attrs)
    if op.name in ("broadcast_like", "pad_grad"):
        assert record.kind == op.name.split("_")[0]
        return
    result = evaluate(record, inputs).reshape(expected.shape)
    np.testing.assert_allclose(result, expected, 1e-10, 1e-12)


def test_phases_of_an_input_gradient_are_gathers() -> None:
    """Each output pixel belongs to one phase: nothing is added in two places."""
    op = REGISTRY["conv2d_input_grad"]
    example = op.examples[1]
    record = op.compute(tuple(types_of(example)), example.attrs)
    assert len(record.phases) == 6
    covered = sum(phase.count[0] * phase.count[1] for phase in record.phases)
    assert covered == record.out_size[0] * record.out_size[1]
    assert all(phase.stride == (1, 1) for phase in record.phases)

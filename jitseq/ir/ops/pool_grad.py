"""The gradients of pooling, as gathers over `AxisWindows`.

``max_pool2d_index`` is the winning tap of each window, ``ty * max(cols.count) + tx``
counted from the first position that the window reads: the first maximum, or the last
NaN, as in PyTorch. ``max_pool2d_grad``: dx[h, w] = Σ g[y, x] over the windows that hold
(h, w) and whose index is the tap there. ``avg_pool2d_grad``: the sum over all windows
that hold (h, w) of g over the window's divisor. The adaptive ops do the same with
their windows. Invariant: every element of dx is computed on its own, from the at most
``ceil(kernel / stride)`` windows of each axis that hold it; nothing is scattered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jitseq.errors import DtypeError
from jitseq.ir.compute import AxisWindows, Window, WindowGradient, WindowIndex
from jitseq.ir.graph import Node
from jitseq.ir.op import Cotangents, Emit, Example, Op, Vjp, register
from jitseq.ir.ops.checks import require_same_dim, result_type
from jitseq.ir.types import TensorType, require_float

Pair = tuple[int, int]
Windows = Callable[..., Window]
"""``(type of the input, **attrs)`` → the record of the forward op."""


class Cover(NamedTuple):
    """For each position of an axis, one window that holds it, and by which tap."""

    window: np.ndarray
    tap: np.ndarray
    valid: np.ndarray


@lru_cache(maxsize=1024)
def covers(windows: AxisWindows, size: int) -> tuple[Cover, ...]:
    """All windows that hold each position: one `Cover` for the first of each, …"""
    holders: list[list[Pair]] = [[] for _ in range(size)]
    for index, (start, count) in enumerate(zip(windows.start, windows.count)):
        for tap in range(count):
            holders[start + windows.step * tap].append((index, tap))
    depth = max(map(len, holders))
    filled = [found + [(0, -1)] * (depth - len(found)) for found in holders]
    pairs = np.array(filled, np.int64).reshape(size, depth, 2)
    return tuple(
        Cover(pairs[:, i, 0], pairs[:, i, 1], pairs[:, i, 1] >= 0) for i in range(depth)
    )


def axis_taps(x: np.ndarray, axis: int, windows: AxisWindows) -> Iterator[np.ndarray]:
    """Tap 0 of every window of one axis, tap 1, …; -inf where a window is shorter."""
    shape = list(x.shape)
    shape[axis] = 1
    size = x.shape[axis]
    extended = np.concatenate([x, np.full(shape, -np.inf, x.dtype)], axis)
    start, count = np.array(windows.start), np.array(windows.count)
    for tap in range(max(windows.count)):
        reads = np.where(tap < count, start + windows.step * tap, size)
        yield extended.take(reads, axis)


def largest_tap(x: np.ndarray, window: Window) -> np.ndarray:
    """The index of each window of ``[N, C, H, W]``."""
    best, index = None, None
    dtype = index_dtype(window)
    code = 0
    for rows in axis_taps(x, 2, window.rows):
        for part in axis_taps(rows, 3, window.cols):
            if best is None or index is None:
                best, index = part, np.zeros(part.shape, dtype)
            else:
                better = (part > best) | np.isnan(part)
                best = np.where(better, part, best)
                index[better] = code
            code += 1
    assert index is not None
    return index


def index_dtype(window: Window) -> str:
    """One byte, except for windows of more than 256 taps."""
    return "uint8" if _taps(window) <= 256 else "int32"


def _taps(window: Window) -> int:
    return max(window.rows.count) * max(window.cols.count)


def max_gradient(
    g: np.ndarray, index: np.ndarray, window: Window, size: Pair
) -> np.ndarray:
    """Each element collects from the windows whose index it is."""
    result = np.zeros((*g.shape[:2], *size), g.dtype)
    width = max(window.cols.count)
    for rows in covers(window.rows, size[0]):
        g_rows, i_rows = g.take(rows.window, 2), index.take(rows.window, 2)
        for cols in covers(window.cols, size[1]):
            own = rows.tap[:, None] * width + cols.tap
            valid = rows.valid[:, None] & cols.valid
            wins = (i_rows.take(cols.window, 3) == own) & valid
            result += np.where(wins, g_rows.take(cols.window, 3), 0)
    return result


def average_gradient(g: np.ndarray, window: Window, size: Pair) -> np.ndarray:
    """Columns, then rows, of the divided cotangent."""
    divisors = np.multiply.outer(window.rows.divisor, window.cols.divisor)
    with np.errstate(all="ignore"):
        g = g / (divisors.astype(g.dtype) if window.divisor is None else window.divisor)
        g = g.astype(g.dtype, copy=False)
        for axis, windows in ((2, window.rows), (3, window.cols)):
            shape = (-1, 1) if axis == 2 else (-1,)
            g = sum(  # type: ignore[assignment]
                np.where(
                    c.valid.reshape(shape), g.take(c.window, axis), g.dtype.type(0)
                )
                for c in covers(windows, size[axis - 2])
            )
    return g


def _attrs_of_input(g: TensorType, input_size: Pair) -> TensorType:
    return g.with_shape((*g.shape[:2], *input_size))


def register_max_gradient(
    name: str, forward: Windows, infer: Callable[..., TensorType], *inputs: Example
) -> Vjp:
    """Register ``<name>_index`` and ``<name>_grad``, and return the vjp."""

    def infer_index(x: TensorType, **attrs: Any) -> TensorType:
        shape = infer(x, **attrs).shape
        return TensorType(index_dtype(forward(x, **attrs)), shape)

    def index(x: np.ndarray, **attrs: Any) -> np.ndarray:
        return largest_tap(x, forward(TensorType(x.dtype.name, x.shape), **attrs))

    def infer_grad(
        g: TensorType, index: TensorType, *, input_size: Pair, **attrs: Any
    ) -> TensorType:
        x = _require_cotangent(f"{name}_grad", g, infer, input_size, attrs)
        if index != infer_index(x, **attrs):
            raise DtypeError(
                f"{name}_grad: expects the index of its windows",
                facts={"index": index, "expected": infer_index(x, **attrs)},
                hint=f"it is the result of {name}_index with the same attributes",
            )
        return result_type(f"{name}_grad", g, x.shape)

    def grad(
        g: np.ndarray, index: np.ndarray, *, input_size: Pair, **attrs: Any
    ) -> np.ndarray:
        x = _attrs_of_input(TensorType(g.dtype.name, g.shape), input_size)
        return max_gradient(g, index, forward(x, **attrs), input_size)

    def compute_grad(types: tuple[TensorType, ...], attrs: Any) -> WindowGradient:
        options = dict(attrs)
        input_size = options.pop("input_size")
        x = _attrs_of_input(types[0], input_size)
        return WindowGradient(forward(x, **options), input_size)

    def compute_index(types: tuple[TensorType, ...], attrs: Any) -> WindowIndex:
        return WindowIndex(forward(types[0], **attrs))

    def vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
        (x,) = node.inputs
        index = emit(f"{name}_index", x, **node.attrs)
        size = x.type.shape[2:]
        attrs = {**node.attrs, "input_size": size}
        return (emit(f"{name}_grad", cotangents[0], index, **attrs),)

    register(
        Op(
            f"{name}_index",
            infer_index,
            index,
            compute_index,
            examples=inputs,
            derived=True,
        )
    )
    examples = (_grad_example(e, infer, forward) for e in inputs)
    register(
        Op(
            f"{name}_grad",
            infer_grad,
            grad,
            compute_grad,
            examples=tuple(examples),
            derived=True,
        )
    )
    return vjp


def register_average_gradient(
    name: str, forward: Windows, infer: Callable[..., TensorType], *inputs: Example
) -> Vjp:
    """Register ``<name>_grad``, and return the vjp."""

    def infer_grad(g: TensorType, *, input_size: Pair, **attrs: Any) -> TensorType:
        x = _require_cotangent(f"{name}_grad", g, infer, input_size, attrs)
        return result_type(f"{name}_grad", g, x.shape)

    def grad(g: np.ndarray, *, input_size: Pair, **attrs: Any) -> np.ndarray:
        x = _attrs_of_input(TensorType(g.dtype.name, g.shape), input_size)
        return average_gradient(g, forward(x, **attrs), input_size)

    def compute_grad(types: tuple[TensorType, ...], attrs: Any) -> WindowGradient:
        options = dict(attrs)
        input_size = options.pop("input_size")
        x = _attrs_of_input(types[0], input_size)
        return WindowGradient(forward(x, **options), input_size)

    def vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
        attrs = {**node.attrs, "input_size": node.inputs[0].type.shape[2:]}
        return (emit(f"{name}_grad", cotangents[0], **attrs),)

    examples = (_grad_example(e, infer, None) for e in inputs)
    register(
        Op(
            f"{name}_grad",
            infer_grad,
            grad,
            compute_grad,
            examples=tuple(examples),
            derived=True,
        )
    )
    return vjp


def _require_cotangent(
    op: str,
    g: TensorType,
    infer: Callable[..., TensorType],
    input_size: Pair,
    attrs: dict[str, Any],
) -> TensorType:
    """The type of the forward op's input, when ``g`` is a cotangent of its output."""
    require_float(g, op=op)
    x = _attrs_of_input(g, input_size)
    for a, b in zip(g.shape, infer(x, **attrs).shape, strict=True):
        require_same_dim(op, a, b, {"cotangent": g, "input": x})
    return x


def _grad_example(
    example: Example, infer: Callable[..., TensorType], forward: Windows | None
) -> Example:
    """The forward op's example, seen from its output."""
    (shape,) = example.shapes
    x = TensorType("float64", shape)
    out = infer(x, **example.attrs).shape
    attrs = {**example.attrs, "input_size": shape[2:]}
    if forward is None:
        return Example((out,), attrs)
    taps = _taps(forward(x, **example.attrs))
    return Example((out, out), attrs, below={1: taps})

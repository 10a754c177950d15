"""Padding: zeros, a number, or the image's own elements around it.

With P(i) the position of the input that output i repeats, ``y[i] = x[P(i)]``, or the
value outside of it for ``"constant"``. Gradient: ``dx[j] = Σ_{P(i) = j} g[i]``, a slice
of g for ``"constant"``, else ``pad_grad``, where repeated elements add up.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from jitseq.errors import ShapeError, UnsupportedError
from jitseq.ir.compute import Movement
from jitseq.ir.graph import Node
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import result_type, static
from jitseq.ir.types import TensorType, require_float

PadMode = Literal["constant", "reflect", "replicate", "circular"]

NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def infer_pad(
    x: TensorType,
    *,
    padding: tuple[tuple[int, int], ...],
    mode: PadMode,
    value: float,
) -> TensorType:
    """``padding`` is (before, after) for each dimension; ``value`` fills "constant"."""
    require_float(x, op="pad")
    facts = {"input": x, "padding": padding, "mode": mode}
    if mode != "constant" and mode not in NUMPY_MODES:
        raise UnsupportedError(
            f"pad: there is no mode {mode!r}",
            hint=f"choose one of constant, {', '.join(NUMPY_MODES)}",
        )
    if len(padding) != x.ndim or min(map(min, padding), default=0) < 0:
        raise ShapeError(
            "pad: needs one pair of non-negative sizes for each dimension",
            facts=facts,
            hint="crop with a slice instead of negative padding",
        )
    shape = []
    for size, (before, after) in zip(x.shape, padding):
        if before or after:
            _require_source(mode, static(size), max(before, after), facts)
            size = before + size + after
        shape.append(size)
    return result_type("pad", x, tuple(shape))


def _require_source(
    mode: PadMode, size: int, amount: int, facts: dict[str, object]
) -> None:
    limits = {"reflect": size - 1, "circular": size, "replicate": amount if size else 0}
    if amount > limits.get(mode, amount):
        raise ShapeError(
            f"pad: {mode} cannot take {amount} elements from a dimension of {size}",
            facts=facts,
            hint="pad less, or use mode='constant'",
        )


def pad(
    x: np.ndarray,
    *,
    padding: tuple[tuple[int, int], ...],
    mode: PadMode,
    value: float,
) -> np.ndarray:
    """Constant padding by one copy; the other modes by `numpy.pad`."""
    if mode != "constant":
        return np.pad(x, padding, NUMPY_MODES[mode])  # type: ignore[call-overload,no-any-return]
    shape = [size + sum(pair) for size, pair in zip(x.shape, padding)]
    result = np.full(shape, value, x.dtype)
    inside = (slice(b, b + size) for size, (b, _) in zip(x.shape, padding))
    result[tuple(inside)] = x
    return result


def pad_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    (g,) = cotangents
    padding, mode = node.attrs["padding"], node.attrs["mode"]
    if mode != "constant":
        return (emit("pad_grad", g, padding=padding, mode=mode),)
    for axis, (before, after) in enumerate(padding):
        if before or after:
            stop = before + node.inputs[0].type.shape[axis]
            g = emit("slice", g, dim=axis, start=before, stop=stop)
    return (g,)


def infer_pad_grad(
    g: TensorType, *, padding: tuple[tuple[int, int], ...], mode: PadMode
) -> TensorType:
    """The type that padding by ``padding`` turns into ``g``'s."""
    require_float(g, op="pad_grad")
    sizes = (
        static(size) - sum(pair) if any(pair) else size
        for size, pair in zip(g.shape, padding, strict=True)
    )
    return g.with_shape(tuple(sizes))


def pad_grad(
    g: np.ndarray, *, padding: tuple[tuple[int, int], ...], mode: PadMode
) -> np.ndarray:
    """Axis by axis: the inside, plus each border element where it was taken from."""
    for axis, (before, after) in enumerate(padding):
        if not before and not after:
            continue
        g = np.moveaxis(g, axis, 0)
        size = len(g) - before - after
        sources = np.pad(np.arange(size), (before, after), NUMPY_MODES[mode])  # type: ignore[call-overload]
        inside = g[before : before + size].copy()
        with np.errstate(all="ignore"):
            for i in (*range(before), *range(before + size, len(g))):
                inside[sources[i]] += g[i]
        g = np.moveaxis(inside, 0, axis)
    return np.ascontiguousarray(g)


register(
    Op(
        "pad",
        infer_pad,
        pad,
        lambda types, attrs: Movement("pad"),
        vjp=pad_vjp,
        examples=(
            *(
                Example(
                    ((2, 3, 5, 4),),
                    {
                        "padding": ((0, 0), (0, 0), (1, 2), (3, 0)),
                        "mode": mode,
                        "value": 0.0,
                    },
                )
                for mode in ("constant", *NUMPY_MODES)
            ),
            Example(
                ((3, 4),),
                {"padding": ((0, 0), (2, 1)), "mode": "constant", "value": 1.5},
            ),
        ),
    )
)
register(
    Op(
        "pad_grad",
        infer_pad_grad,
        pad_grad,
        lambda types, attrs: Movement("pad"),
        examples=tuple(
            Example(
                ((2, 3, 8, 7),),
                {"padding": ((0, 0), (0, 0), (1, 2), (3, 0)), "mode": mode},
            )
            for mode in NUMPY_MODES
        ),
        derived=True,
    )
)

"""Gradients of one op, and central differences to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from op_cases import inputs_of

import jitseq as js
from jitseq.ir.op import REGISTRY, Example, Op
from jitseq.ir.tracer import apply

STEP = 1e-6
DIFFERENTIABLE = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if op.vjp is not None and op.name not in ("constant", "batch_norm_train")
    for index, example in enumerate(op.examples)
    if not example.below
]
WITHOUT_VJP = [op for op in REGISTRY.values() if op.vjp is None]


def function(op: Op, example: Example) -> Callable[..., np.ndarray]:
    return lambda *arrays: apply(op.name, *arrays, **example.attrs)


def op_gradients(
    op: Op, example: Example, arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """The result, a random cotangent, and the gradients of all inputs."""
    out, pullback = js.vjp(function(op, example), *arrays)
    g = np.random.default_rng(7).normal(size=out.shape).astype(out.dtype)
    gradients, params = pullback(g)
    assert params == {}
    return out, g, gradients


def directional(
    f: Callable[..., np.ndarray],
    arrays: Sequence[np.ndarray],
    position: int,
    direction: np.ndarray,
    g: np.ndarray,
) -> float:
    """``<g, df/dx · direction>`` for input ``position``, by a central difference."""
    shifted = []
    for sign in (1, -1):
        moved = list(arrays)
        moved[position] = np.asarray(arrays[position] + sign * STEP * direction)
        shifted.append(f(*moved))
    return float(np.sum(g * (shifted[0] - shifted[1]))) / (2 * STEP)


def directions(shape: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Three random directions, and every axis of a few random elements."""
    found = [rng.normal(size=shape) for _ in range(3)]
    size = int(np.prod(shape))
    for index in rng.permutation(size)[:6]:
        unit = np.zeros(size)
        unit[index] = 1.0
        found.append(unit.reshape(shape))
    return found


__all__ = [
    "DIFFERENTIABLE", "STEP", "WITHOUT_VJP", "directional", "directions", "function",
    "inputs_of", "op_gradients",
]  # fmt: skip

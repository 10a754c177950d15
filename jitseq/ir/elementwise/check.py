"""Derivatives of an elementwise function beside finite differences.

A definition and numbers for its attributes enter; `JitseqError` leaves where a
derivative disagrees. Invariant: only points count where the function is finite and
differences of two widths agree, so that kinks and jumps refuse nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jitseq.errors import JitseqError
from jitseq.ir.elementwise.definition import Definition
from jitseq.ir.elementwise.term import (
    Term,
    TypedScalars,
    const,
    evaluate,
    steps,
    substitute,
)

POINTS = 400
STEP = 1e-5
TOLERANCE = 1e-5

Points = dict[str, np.ndarray]


def check_derivatives(definition: Definition, attributes: Mapping[str, float]) -> None:
    """Compare in float64, at points between -100 and 100, most of them near 0.

    Raises `JitseqError` with the worst point of the first derivative that differs by
    more than ``1e-5 (1 + |derivative|)``, and where no point could be compared.
    """
    leaves = {name: const(value) for name, value in attributes.items()}
    points = _points(definition.inputs)
    for name, partial in zip(definition.inputs, definition.partials):
        given = _value(partial, leaves, points)
        wanted, clear = _differences(definition, leaves, points, name)
        if not clear.any():
            raise JitseqError(
                f"elementwise {definition.name}: its derivative could not be checked",
                hint="it is finite nowhere between -100 and 100; pass check=False",
            )
        error = np.abs(given - wanted) / (1 + np.abs(wanted))
        error = np.where(clear, np.where(np.isnan(error), np.inf, error), 0)
        worst = int(np.argmax(error))
        if error[worst] > TOLERANCE:
            raise JitseqError(
                f"elementwise {definition.name}: the derivative to {name} is wrong",
                facts={
                    "at": ", ".join(f"{k}={v[worst]:.6g}" for k, v in points.items()),
                    "given": f"{given[worst]:.6g}",
                    "differences": f"{wanted[worst]:.6g}",
                },
                hint="leave derivative= out to have it derived, or pass check=False "
                "for a gradient that is meant to be another one",
            )


def _points(names: tuple[str, ...]) -> Points:
    """Normally distributed, and with sizes from 0.01 to 100."""
    rng = np.random.default_rng(0)
    half = POINTS // 2
    points = {}
    for name in names:
        near = 2 * rng.standard_normal(half)
        sizes = 10 ** rng.uniform(-2, 2, POINTS - half)
        points[name] = np.append(near, sizes * rng.choice((-1, 1), POINTS - half))
    return points


def _differences(
    definition: Definition, leaves: dict[str, Term], points: Points, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Central differences, and where they can be relied on."""
    x = points[name]

    def slope(step: np.ndarray) -> Any:
        high, low = x + step, x - step
        above = _value(definition.value, leaves, {**points, name: high})
        below = _value(definition.value, leaves, {**points, name: low})
        return (above - below) / (high - low), np.abs(above) + np.abs(below)

    with np.errstate(all="ignore"):
        step = STEP * np.maximum(1, np.abs(x))
        (wanted, size), (wider, _) = slope(step), slope(2 * step)
        rounding = size * np.finfo(np.float64).eps / step
        allowed = TOLERANCE / 10 * (1 + np.abs(wanted))
        clear = np.isfinite(wanted) & (np.abs(wider - wanted) < allowed)
    return wanted, clear & (rounding < allowed)


def _value(term: Term, leaves: dict[str, Term], points: Points) -> np.ndarray:
    program = steps(substitute(term, leaves))
    with np.errstate(all="ignore"):
        result = evaluate(program, TypedScalars(np.dtype(np.float64)), points)
    shape = next(iter(points.values())).shape
    return np.broadcast_to(np.asarray(result, np.float64), shape)

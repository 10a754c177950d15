"""Checks of options and gradients: what enters is refused before a step changes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, JitseqError, ShapeError
from jitseq.ir.tracer import as_array
from jitseq.ir.variable import Variable


class OptimizerError(JitseqError, ValueError, TypeError):
    """Options, parameters or a state that an optimizer or schedule does not accept."""


def require_number(
    value: Any, name: str, low: float = 0.0, below: float = math.inf
) -> float:
    """``value`` as a float; raises unless it is finite and in ``low <= v < below``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number < below:
        bound = "" if below == math.inf else f" and less than {below:g}"
        raise OptimizerError(
            f"Invalid {name}: {value}",
            facts={"expected": f"a finite number of at least {low:g}{bound}"},
        )
    return number


def require_betas(betas: Any) -> None:
    """Raise unless ``betas`` is a pair of numbers in 0 … 1, 1 excluded."""
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise OptimizerError(f"Invalid betas: {betas}", hint="betas=(0.9, 0.999)")
    for index, beta in enumerate(betas):
        require_number(beta, f"beta parameter at index {index}", below=1.0)


def gradient_of(parameter: Variable, label: str) -> np.ndarray | None:
    """The parameter's gradient, or None where it has none.

    Raises `ShapeError` or `DtypeError` for a gradient of another shape or dtype.
    """
    gradient = getattr(parameter, "grad", None)
    if gradient is None:
        return None
    array = as_array(gradient)
    facts = {
        "gradient": f"{array.dtype.name}{list(array.shape)}",
        "parameter": f"{parameter.dtype.name}{list(parameter.shape)}",
    }
    if array.shape != parameter.shape:
        raise ShapeError(f"{label}: its gradient has another shape", facts=facts)
    if array.dtype != parameter.dtype or array.dtype.kind != "f":
        raise DtypeError(f"{label}: its gradient has another dtype", facts=facts)
    return array

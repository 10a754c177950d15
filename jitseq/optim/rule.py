"""`Rule`: how one element of a parameter is updated, written once.

An element of a parameter and of its gradient, its state and a few run-time numbers
enter; the new element and state leave. Invariant: a rule's expression uses the
operators and the namespace ``m`` of `jitseq.ir.scalar` only and no number of its own
that a user can change, so that one compiled update serves every learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.ir.scalar import NumpyScalars


@dataclass(frozen=True)
class Rule:
    """``update(m, p, g, *state, *numbers, **dict(flags)) -> (p, *state)``.

    state    names of arrays with the parameter's shape, zero at first unless the
             optimizer's ``first_value`` says otherwise
    numbers  names of the run-time numbers; `Optimizer.numbers` gives their values
    flags    options that choose the formula, such as ``maximize``

    Two equal rules are the same program.
    """

    update: Callable[..., tuple[Any, ...]]
    state: tuple[str, ...]
    numbers: tuple[str, ...]
    flags: tuple[tuple[str, bool], ...] = ()

    def apply(
        self,
        parameter: np.ndarray,
        gradient: np.ndarray,
        state: Sequence[np.ndarray],
        numbers: Sequence[float],
    ) -> tuple[np.ndarray, ...]:
        """The new parameter and state, as new arrays of the same dtype and shape."""
        with np.errstate(all="ignore"):
            updated = self.update(
                NumpyScalars, parameter, gradient, *state, *numbers, **dict(self.flags)
            )
        return tuple(np.asarray(array, parameter.dtype) for array in updated)


def directed(g: Any, p: Any, weight_decay: Any, maximize: bool, decays: bool) -> Any:
    """The direction of descent: ``±g``, plus ``weight_decay · p`` where it decays."""
    g = -g if maximize else g
    return g + p * weight_decay if decays else g

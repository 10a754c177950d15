"""RMSprop (Tieleman and Hinton, Lecture 6.5, 2012), also centered and with momentum.

``g ← ±g + λ p``, ``s ← α s + (1 - α) g²``, ``v = s``, or ``s - a²`` centered with
``a ← α a + (1 - α) g`` (Graves, Generating sequences, 2013); ``d = g / (√v + ε)``,
``p ← p - lr d``, or with momentum ``b ← μ b + d`` and ``p ← p - lr b``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jitseq.optim.checks import require_number
from jitseq.optim.optimizer import Optimizer
from jitseq.optim.rule import Rule, directed

NUMBERS = ("lr", "weight_decay", "alpha", "fresh", "eps", "momentum")
"""``fresh`` is 1 - alpha."""


def rmsprop(
    m: Any,
    p: Any,
    g: Any,
    square: Any,
    *rest: Any,
    centered: bool,
    moves: bool,
    maximize: bool,
    decays: bool,
) -> tuple[Any, ...]:
    """One element; ``rest`` is the optional average and buffer, then the numbers."""
    *optional, lr, weight_decay, alpha, fresh, eps, momentum = rest
    g = directed(g, p, weight_decay, maximize, decays)
    square = square * alpha + g * g * fresh
    state, variance = [square], square
    if centered:
        average = optional[0] * alpha + g * fresh
        state.append(average)
        # Rounding must not make it negative: its root would be NaN for ever.
        variance = m.maximum(square - average * average, 0.0)
    step = g / (m.sqrt(variance) + eps)
    if moves:
        step = optional[-1] * momentum + step
        state.append(step)
    return (p - step * lr, *state)


class RMSprop(Optimizer):
    """RMSprop with PyTorch's options.

    State ``step``, ``square_avg``, ``grad_avg`` if ``centered``, ``momentum_buffer``
    with momentum. Raises `OptimizerError` for options negative or not finite.
    """

    state_names = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
            "momentum": momentum, "centered": centered, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, options: Mapping[str, Any]) -> None:
        require_number(options["lr"], "learning rate")
        require_number(options["eps"], "epsilon value")
        require_number(options["momentum"], "momentum value")
        require_number(options["weight_decay"], "weight_decay value")
        require_number(options["alpha"], "alpha value")

    def rule(self, group: Mapping[str, Any]) -> Rule:
        centered, moves = bool(group["centered"]), group["momentum"] > 0
        keeps = (True, centered, moves)
        flags = (
            ("centered", centered),
            ("moves", moves),
            ("maximize", bool(group["maximize"])),
            ("decays", group["weight_decay"] != 0),
        )
        state = tuple(name for name, kept in zip(self.state_names, keeps) if kept)
        return Rule(rmsprop, state, NUMBERS, flags)

    def numbers(
        self, group: Mapping[str, Any], state: Mapping[str, Any]
    ) -> tuple[float, ...]:
        alpha = float(group["alpha"])
        options = (group["lr"], group["weight_decay"], alpha, 1 - alpha)
        return tuple(map(float, (*options, group["eps"], group["momentum"])))

"""Stochastic gradient descent, with Nesterov's or Polyak's momentum.

``g ← ±g + λ p``; without momentum ``p ← p - lr g``, else ``b ← μ b + (1 - τ) g``
(at first ``b ← g``) and ``p ← p - lr b``, or ``p - lr (g + μ b)`` after Nesterov.
Sutskever et al., On the importance of initialization and momentum, 2013.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jitseq.optim.checks import OptimizerError, require_number
from jitseq.optim.optimizer import Optimizer
from jitseq.optim.rule import Rule, directed


def descend(
    m: Any, p: Any, g: Any, lr: Any, weight_decay: Any, *, maximize: bool, decays: bool
) -> tuple[Any, ...]:
    """One element of plain descent."""
    return (p - directed(g, p, weight_decay, maximize, decays) * lr,)


def descend_with_momentum(
    m: Any,
    p: Any,
    g: Any,
    buffer: Any,
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    fresh: Any,
    *,
    nesterov: bool,
    maximize: bool,
    decays: bool,
) -> tuple[Any, ...]:
    """One element; ``fresh`` is ``1 - dampening``, and 1 at the first update."""
    g = directed(g, p, weight_decay, maximize, decays)
    buffer = buffer * momentum + g * fresh
    step = g + buffer * momentum if nesterov else buffer
    return p - step * lr, buffer


class SGD(Optimizer):
    """Gradient descent with PyTorch's options; state ``momentum_buffer``.

    Raises `OptimizerError` for negative or non-finite options, and for ``nesterov``
    without momentum or with dampening.
    """

    state_names = ("momentum_buffer",)
    counts_steps = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening,
            "weight_decay": weight_decay, "nesterov": nesterov, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, options: Mapping[str, Any]) -> None:
        require_number(options["lr"], "learning rate")
        require_number(options["momentum"], "momentum value")
        require_number(options["weight_decay"], "weight_decay value")
        require_number(options["dampening"], "dampening", low=float("-inf"))
        plain = options["momentum"] == 0 or options["dampening"] != 0
        if options["nesterov"] and plain:
            raise OptimizerError(
                "Nesterov momentum requires a momentum and zero dampening"
            )

    def rule(self, group: Mapping[str, Any]) -> Rule:
        flags = {
            "maximize": bool(group["maximize"]), "decays": group["weight_decay"] != 0
        }  # fmt: skip
        numbers = ("lr", "weight_decay")
        if group["momentum"] == 0:
            return Rule(descend, (), numbers, tuple(flags.items()))
        flags["nesterov"] = bool(group["nesterov"])
        return Rule(
            descend_with_momentum,
            ("momentum_buffer",),
            (*numbers, "momentum", "fresh"),
            tuple(flags.items()),
        )

    def numbers(
        self, group: Mapping[str, Any], state: Mapping[str, Any]
    ) -> tuple[float, ...]:
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        if group["momentum"] == 0:
            return lr, weight_decay
        fresh = 1 - float(group["dampening"]) if "momentum_buffer" in state else 1.0
        return lr, weight_decay, float(group["momentum"]), fresh

"""Adagrad (Duchi et al., Adaptive subgradient methods, 2011).

``g ← ±g + λ p``, ``s ← s + g²``, ``p ← p - lr / (1 + (t - 1) η) · g / (√s + ε)`` at
step t.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jitseq.ir.variable import Variable
from jitseq.optim.checks import require_number
from jitseq.optim.optimizer import Optimizer
from jitseq.optim.rule import Rule, directed


def adagrad(
    m: Any,
    p: Any,
    g: Any,
    total: Any,
    step_size: Any,
    weight_decay: Any,
    eps: Any,
    *,
    maximize: bool,
    decays: bool,
) -> tuple[Any, ...]:
    """One element."""
    g = directed(g, p, weight_decay, maximize, decays)
    total = total + g * g
    return p - g * step_size / (m.sqrt(total) + eps), total


class Adagrad(Optimizer):
    """Adagrad with PyTorch's options; state ``step`` and ``sum``, there at once.

    Raises `OptimizerError` for options that are negative or not finite.
    """

    state_names = ("sum",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            value = self.first_value("sum", group)
            for p in group["params"]:
                total = Variable(np.full(p.shape, value, p.dtype))
                self.state[p] = {"step": 0, "sum": total}

    def first_value(self, name: str, group: Mapping[str, Any]) -> float:
        return float(group["initial_accumulator_value"])

    def check(self, options: Mapping[str, Any]) -> None:
        require_number(options["lr"], "learning rate")
        require_number(options["lr_decay"], "lr_decay value")
        require_number(options["weight_decay"], "weight_decay value")
        start = options["initial_accumulator_value"]
        require_number(start, "initial_accumulator_value value")
        require_number(options["eps"], "epsilon value")

    def rule(self, group: Mapping[str, Any]) -> Rule:
        flags = (
            ("maximize", bool(group["maximize"])),
            ("decays", group["weight_decay"] != 0),
        )
        return Rule(adagrad, ("sum",), ("step_size", "weight_decay", "eps"), flags)

    def numbers(
        self, group: Mapping[str, Any], state: Mapping[str, Any]
    ) -> tuple[float, ...]:
        past = state.get("step", 0)
        step_size = float(group["lr"]) / (1 + past * float(group["lr_decay"]))
        return step_size, float(group["weight_decay"]), float(group["eps"])

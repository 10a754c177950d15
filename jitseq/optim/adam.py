"""Adam and AdamW.

With ``g ← ±g`` (Adam: ``+ λ p``; AdamW: ``p ← (1 - lr λ) p``) at step t:
``a ← β₁ a + (1 - β₁) g``, ``s ← β₂ s + (1 - β₂) g²``, and
``p ← p - lr / (1 - β₁ᵗ) · a / (√s / √(1 - β₂ᵗ) + ε)``; AMSGrad divides by the largest
s so far. Kingma and Ba, Adam, 2015; Reddi et al., On the convergence of Adam, 2018;
Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from jitseq.optim.checks import require_betas, require_number
from jitseq.optim.optimizer import Optimizer
from jitseq.optim.rule import Rule, directed

NUMBERS = (
    "step_size", "decay", "beta1", "fresh1", "beta2", "fresh2", "correction", "eps"
)  # fmt: skip
"""``decay`` is λ, or 1 - lr λ decoupled; ``fresh`` 1 - β; ``correction`` √(1 - β₂ᵗ)."""


def adam(
    m: Any,
    p: Any,
    g: Any,
    average: Any,
    square: Any,
    *rest: Any,
    amsgrad: bool,
    decoupled: bool,
    maximize: bool,
    decays: bool,
) -> tuple[Any, ...]:
    """One element; ``rest`` is the largest s so far (AMSGrad), then the numbers."""
    *largest, step_size, decay, beta1, fresh1, beta2, fresh2, correction, eps = rest
    g = directed(g, p, decay, maximize, decays and not decoupled)
    p = p * decay if decays and decoupled else p
    average = average * beta1 + g * fresh1
    square = square * beta2 + g * g * fresh2
    largest = [m.maximum(largest[0], square)] if amsgrad else []
    scale = m.sqrt(largest[0] if amsgrad else square) / correction + eps
    return (p - average * step_size / scale, average, square, *largest)


class Adam(Optimizer):
    """Adam with PyTorch's options; state ``step``, ``exp_avg``, ``exp_avg_sq``.

    With ``amsgrad`` also ``max_exp_avg_sq``. Raises `OptimizerError` for options that
    are negative or not finite, and betas outside of 0 … 1.
    """

    state_names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, options: Mapping[str, Any]) -> None:
        require_number(options["lr"], "learning rate")
        require_number(options["eps"], "epsilon value")
        require_number(options["weight_decay"], "weight_decay value")
        require_betas(options["betas"])

    def rule(self, group: Mapping[str, Any]) -> Rule:
        amsgrad = bool(group["amsgrad"])
        flags = (
            ("amsgrad", amsgrad),
            ("decoupled", bool(group["decoupled_weight_decay"])),
            ("maximize", bool(group["maximize"])),
            ("decays", group["weight_decay"] != 0),
        )
        return Rule(adam, self.state_names[: 2 + amsgrad], NUMBERS, flags)

    def numbers(
        self, group: Mapping[str, Any], state: Mapping[str, Any]
    ) -> tuple[float, ...]:
        step = state.get("step", 0) + 1
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        beta1, beta2 = map(float, group["betas"])
        if group["decoupled_weight_decay"]:
            decay = 1 - lr * decay
        return (
            lr / (1 - beta1**step), decay, beta1, 1 - beta1, beta2, 1 - beta2,
            math.sqrt(1 - beta2**step), float(group["eps"]),
        )  # fmt: skip


class AdamW(Adam):
    """`Adam` whose weight decay shrinks the parameter itself; otherwise the same."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
        )

"""`ReduceLROnPlateau`: smaller learning rates once a metric has stopped to improve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, SupportsFloat

from jitseq.optim.checks import OptimizerError
from jitseq.optim.lr_scheduler.base import (
    load_attributes,
    per_group,
    require_optimizer,
)
from jitseq.optim.optimizer import Optimizer


class ReduceLROnPlateau:
    """``lr ← factor · lr`` after ``patience`` epochs without a better metric.

    Better is ``m < best (1 - threshold)`` for mode ``min`` and threshold mode ``rel``,
    ``m < best - threshold`` for ``abs``, and the mirror images for ``max``; NaN is
    never better. Then ``cooldown`` epochs do not count. The lr stays above
    ``min_lr`` and changes by more than ``eps`` or not at all. Raises
    `OptimizerError`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 <= factor < 1:
            raise OptimizerError(f"Factor should be < 1.0 and not negative: {factor}")
        if mode not in ("min", "max"):
            raise OptimizerError(f"mode {mode!r} is unknown, use 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise OptimizerError(
                f"threshold mode {threshold_mode!r} is unknown, use 'rel' or 'abs'"
            )
        self.optimizer = require_optimizer(optimizer)
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs: list[float] = per_group(min_lr, "min_lr", optimizer)
        one = not isinstance(min_lr, (list, tuple))
        self.default_min_lr = min_lr if one else None
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.mode_worse = self.best
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = self._current()

    def step(self, metrics: SupportsFloat) -> None:
        """Look at the metric of one more epoch."""
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._current()

    @property
    def in_cooldown(self) -> bool:
        """Whether bad epochs do not count just now."""
        return self.cooldown_counter > 0

    def get_last_lr(self) -> list[float]:
        """The learning rates after the last step, by group."""
        return self._last_lr

    def _current(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _is_better(self, metric: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "rel":
            bound = self.best * (1.0 - sign * self.threshold)
        else:
            bound = self.best - sign * self.threshold
        return metric < bound if self.mode == "min" else metric > bound

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise OptimizerError(
                    f"the optimizer has {len(groups)} groups, min_lr was given for "
                    f"{len(self.min_lrs)}",
                    hint="extend schedule.min_lrs",
                )
            self.min_lrs = per_group(self.default_min_lr, "min_lr", self.optimizer)
        for group, least in zip(groups, self.min_lrs, strict=True):
            old = float(group["lr"])
            new = max(old * self.factor, least)
            if old - new > self.eps:
                group["lr"] = new

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything but the optimizer."""
        return deepcopy({k: v for k, v in vars(self).items() if k != "optimizer"})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state, of this or of PyTorch's schedule of this name.

        Raises `OptimizerError` before anything changes when a key is missing.
        """
        load_attributes(self, state_dict, leave=("optimizer",))

"""Schedules that follow the epoch alone.

Each multiplies the current learning rate, as PyTorch's chainable forms do, so that
several schedules may act on one optimizer; `LambdaLR` scales the initial one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from types import FunctionType
from typing import Any

from jitseq.optim.checks import OptimizerError
from jitseq.optim.lr_scheduler.base import (
    LRScheduler,
    load_attributes,
    per_group,
    require_count,
)
from jitseq.optim.optimizer import Optimizer

Factor = Callable[[int], float]


class StepLR(LRScheduler):
    """``lr ← γ lr`` every ``step_size`` epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int,
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.step_size = require_count(step_size, "step_size")
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._current()
        return [lr * self.gamma for lr in self._current()]


class MultiStepLR(LRScheduler):
    """``lr ← γ lr`` at each of the ``milestones``; twice at one given twice."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        times = self.milestones[self.last_epoch]
        return [lr * self.gamma**times if times else lr for lr in self._current()]


class ExponentialLR(LRScheduler):
    """``lr ← γ lr`` every epoch."""

    def __init__(
        self, optimizer: Optimizer, gamma: float, last_epoch: int = -1
    ) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        factor = 1.0 if self._is_initial else self.gamma
        return [lr * factor for lr in self._current()]


class LinearLR(LRScheduler):
    """From ``start_factor`` to ``end_factor`` times the lr, in ``total_iters`` epochs.

    With f the factor of the epoch before and d its change: ``lr ← (1 + d / f) lr``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise OptimizerError(
                "Starting multiplicative factor expected to be greater than 0 and "
                f"less or equal to 1, got {start_factor}"
            )
        if not 0 <= end_factor <= 1:
            raise OptimizerError(
                "Ending multiplicative factor expected to be between 0 and 1, "
                f"got {end_factor}"
            )
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = require_count(total_iters, "total_iters", 0)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [lr * self.start_factor for lr in self._current()]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._current()
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return [lr * (1.0 + rise / before) for lr in self._current()]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial lr to ``eta_min`` in ``T_max`` epochs, and back.

    Loshchilov and Hutter, SGDR, 2017, without restarts:
    ``η + (lr₀ - η) (1 + cos(π t / T)) / 2``, computed from the epoch before.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_max = require_count(T_max, "T_max")
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        low, period, now = self.eta_min, self.T_max, self.last_epoch
        if self._is_initial:
            return self._current()
        if (now - 1 - period) % (2 * period) == 0:  # the epoch before was at eta_min
            rise = 1 - math.cos(math.pi / period)
            pairs = zip(self.base_lrs, self._current(), strict=True)
            return [lr + (base - low) * rise / 2 for base, lr in pairs]
        share = (1 + math.cos(math.pi * now / period)) / (
            1 + math.cos(math.pi * (now - 1) / period)
        )
        return [share * (lr - low) + low for lr in self._current()]


class LambdaLR(LRScheduler):
    """``lr = lr₀ · f(epoch)``, with one function, or one for each group.

    A function is not saved; an object with ``__call__`` saves its attributes.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Factor | list[Factor],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas: list[Any] = per_group(lr_lambda, "lr_lambda", optimizer)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        pairs = zip(self.lr_lambdas, self.base_lrs, strict=True)
        return [base * factor(self.last_epoch) for factor, base in pairs]

    def state_dict(self) -> dict[str, Any]:
        kept = {
            name: deepcopy(value)
            for name, value in vars(self).items()
            if name not in ("optimizer", "lr_lambdas")
        }
        attributes = [
            None if isinstance(factor, FunctionType) else deepcopy(vars(factor))
            for factor in self.lr_lambdas
        ]
        return {**kept, "lr_lambdas": attributes}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        attributes = per_group(
            list(state_dict["lr_lambdas"]), "lr_lambdas", self.optimizer
        )
        load_attributes(self, state_dict, ("optimizer", "_is_initial", "lr_lambdas"))
        for factor, values in zip(self.lr_lambdas, attributes, strict=True):
            if values is not None:
                vars(factor).update(deepcopy(values))

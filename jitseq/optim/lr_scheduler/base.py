"""`LRScheduler`: sets the learning rate of every group, once each ``step``.

An optimizer enters; its groups' ``lr`` changes, to PyTorch's value to the last bit.
Invariant: a schedule's attributes have PyTorch's names, so that their `state_dict`s
load into each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from jitseq.optim.checks import OptimizerError
from jitseq.optim.optimizer import Optimizer


class LRScheduler:
    """Base of all schedules; a subclass defines `get_lr`.

    The first step is made at once, so that epoch 0 is in force. ``last_epoch`` is -1,
    or the epoch to go on from, for groups that have ``initial_lr`` already. Raises
    `OptimizerError`.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = require_optimizer(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise OptimizerError(
                    f"param 'initial_lr' is not specified in param_groups[{number}] "
                    "when resuming a schedule",
                    hint="load the optimizer's state first, or leave last_epoch out",
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def get_lr(self) -> list[float]:
        """The learning rates for ``last_epoch``, from those of the epoch before."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rates that this schedule has set last, by group."""
        return self._last_lr

    def step(self) -> None:
        """Move to the next epoch (or batch), after the optimizer's step."""
        self._step_count += 1
        self.last_epoch += 1
        groups = self.optimizer.param_groups
        for group, lr in zip(groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr: list[float] = self._current()

    def _current(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything but the optimizer."""
        own = {k: v for k, v in self.__dict__.items() if k != "optimizer"}
        return deepcopy(own)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state, of this or of PyTorch's schedule of this name.

        Raises `OptimizerError` before anything changes when a key is missing.
        """
        load_attributes(self, state_dict, leave=("optimizer", "_is_initial"))


def require_optimizer(optimizer: Any) -> Optimizer:
    """``optimizer``; raises `OptimizerError` unless it is an `Optimizer`."""
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(f"{type(optimizer).__name__} is not an Optimizer")
    return optimizer


def load_attributes(
    schedule: Any, state: Mapping[str, Any], leave: tuple[str, ...]
) -> None:
    """Set every attribute but those in ``leave`` from ``state``, which has them all."""
    names = [name for name in vars(schedule) if name not in leave]
    missing = [name for name in names if name not in state]
    if missing:
        raise OptimizerError(
            f"the state does not fit {type(schedule).__name__}",
            facts={"missing": missing},
            hint="load a state that the same kind of schedule has saved",
        )
    for name in names:
        setattr(schedule, name, deepcopy(state[name]))


def require_count(value: Any, name: str, minimum: int = 1) -> int:
    """``value`` as an int of at least ``minimum``; raises `OptimizerError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise OptimizerError(
            f"Expected integer {name} of at least {minimum}, but got {value}"
        )
    return value


def per_group(value: Any, name: str, optimizer: Optimizer) -> list[Any]:
    """One value for each group: a list of as many, or one value for all."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise OptimizerError(f"expected {count} values for {name}, got {len(value)}")
    return list(value)

"""`OneCycleLR`: warm up, then anneal, with the momentum moving the other way.

Smith and Topin, Super-convergence, 2018. Invariant: an epoch's values depend on its
number alone, through two or three phases that meet at their ends.
"""

from __future__ import annotations

import math
from typing import Any

from jitseq.optim.checks import OptimizerError
from jitseq.optim.lr_scheduler.base import (
    LRScheduler,
    per_group,
    require_count,
    require_optimizer,
)
from jitseq.optim.optimizer import Optimizer


class OneCycleLR(LRScheduler):
    """From ``max_lr / div_factor`` to ``max_lr`` and down by ``final_div_factor``.

    ``total_steps``, or ``epochs · steps_per_epoch``, steps of one batch each; the
    first ``pct_start`` of them rise. ``three_phase`` falls as fast as it rose first.
    ``cycle_momentum`` moves ``momentum``, or the first beta, between
    ``max_momentum`` and ``base_momentum``. Raises `OptimizerError`, also for a step
    beyond the last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        require_optimizer(optimizer)
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        _check(optimizer, pct_start, anneal_strategy, cycle_momentum)
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = "betas" in optimizer.defaults
        peaks = per_group(max_lr, "max_lr", optimizer)
        high = per_group(max_momentum, "max_momentum", optimizer)
        low = per_group(base_momentum, "base_momentum", optimizer)
        if last_epoch == -1:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if last_epoch == -1 and cycle_momentum:
            for group, most, least in zip(optimizer.param_groups, high, low):
                group["max_momentum"], group["base_momentum"] = most, least
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        step = self.last_epoch
        if step > self.total_steps:
            raise OptimizerError(
                f"Tried to step {step} times. The specified number of total steps is "
                f"{self.total_steps}"
            )
        phase, share = self._at(step)
        groups = self.optimizer.param_groups
        if self.cycle_momentum:
            for group in groups:
                self._set_momentum(
                    group, self._between(group, phase, "momentum", share)
                )
        return [self._between(group, phase, "lr", share) for group in groups]

    def step(self) -> None:
        """Move to the next batch; one beyond the last leaves everything as it was."""
        before = (self._step_count, self.last_epoch)
        try:
            super().step()
        except OptimizerError:
            self._step_count, self.last_epoch = before
            raise

    def _at(self, step: int) -> tuple[dict[str, Any], float]:
        """The phase of a step, and how much of it has passed, 0 … 1."""
        start = 0.0
        for phase in self._schedule_phases[:-1]:
            if step <= phase["end_step"]:
                break
            start = phase["end_step"]
        else:
            phase = self._schedule_phases[-1]
        length = phase["end_step"] - start
        return phase, (step - start) / length if length else 1.0

    def _between(
        self, group: dict[str, Any], phase: dict[str, Any], what: str, share: float
    ) -> float:
        start: float = group[phase[f"start_{what}"]]
        end: float = group[phase[f"end_{what}"]]
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _set_momentum(self, group: dict[str, Any], momentum: float) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def _total(total: Any, epochs: Any, steps: Any) -> int:
    if total is not None:
        return require_count(total, "total_steps")
    if epochs is None or steps is None:
        raise OptimizerError(
            "You must define either total_steps OR (epochs AND steps_per_epoch)"
        )
    return require_count(epochs, "epochs") * require_count(steps, "steps_per_epoch")


def _check(
    optimizer: Optimizer, pct_start: Any, strategy: str, cycle_momentum: bool
) -> None:
    if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
        raise OptimizerError(
            f"Expected float between 0 and 1 pct_start, but got {pct_start}"
        )
    if strategy not in ("cos", "linear"):
        raise OptimizerError(
            f"anneal_strategy must be one of 'cos' or 'linear', instead got {strategy}"
        )
    if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
        raise OptimizerError(
            "optimizer must support momentum or beta1 with `cycle_momentum` option "
            "enabled",
            hint="pass cycle_momentum=False",
        )


def _phases(total: int, pct_start: float, three: bool) -> list[dict[str, Any]]:
    """Where each phase ends, and the group's values at its start and end."""
    rise = _phase(float(pct_start * total) - 1, "initial_lr", "max_lr", "max", "base")
    if not three:
        return [rise, _phase(total - 1, "max_lr", "min_lr", "base", "max")]
    fall_end = float(2 * pct_start * total) - 2
    return [
        rise,
        _phase(fall_end, "max_lr", "initial_lr", "base", "max"),
        _phase(total - 1, "initial_lr", "min_lr", "max", "max"),
    ]


def _phase(
    end_step: float, start_lr: str, end_lr: str, start: str, end: str
) -> dict[str, Any]:
    return {
        "end_step": end_step,
        "start_lr": start_lr,
        "end_lr": end_lr,
        "start_momentum": f"{start}_momentum",
        "end_momentum": f"{end}_momentum",
    }

"""The native programs of a training step.

Arrays enter; parameters, optimizer state and buffers change in place, and the loss
leaves. Invariant: everything that can refuse a step has been asked before a program
starts, and a program that has started runs to its end, so no step is done by half. The
versions of all that changed move even where an interrupt ends the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jitseq.ir.types import type_of
from jitseq.ir.variable import EPOCH, STRUCTURE, Variable
from jitseq.runtime.lookup import Counts, Signatures
from jitseq.runtime.step_program import Planner, StepProgram
from jitseq.runtime.training_checks import Trained, trace_loss, trained

if TYPE_CHECKING:
    from jitseq.runtime.training import TrainStep


class NativeStep:
    """Finds or makes the program of each step, and runs it."""

    def __init__(self, step: TrainStep) -> None:
        self.step = step
        self.counts = Counts("train_step")
        self._signatures = Signatures(step.dynamic_batch)
        self._programs: dict[Any, StepProgram] = {}
        self._current: dict[Any, StepProgram] = {}
        self._options: list[Any] = []
        self._members: list[list[Variable]] = []
        self._rules: list[Any] = []
        self._structure = -1
        self._work: list[Trained] = []
        self._waiting: dict[Variable, Variable] = {}
        self.latest: StepProgram | None = None

    def __call__(self, inputs: Sequence[np.ndarray], updates: bool) -> float:
        """One step, with the update or (for accumulation) without."""
        program = self.find(inputs, updates)
        program.check(inputs, program.bound.batch(inputs))
        share = 1 / self.step.accumulate
        return program.run(inputs, self.step.optimizer, share, self.step.threads)

    def find(self, inputs: Sequence[np.ndarray], updates: bool = True) -> StepProgram:
        """The current program for ``inputs``; compiled unless there is one."""
        self._look_at_options()
        program = self._current.get((updates, self._signatures.key(inputs)))
        if program is None or not program.is_current(self.step.optimizer):
            program = self._again(inputs, updates)
            self._current[(updates, self._signatures.key(inputs))] = program
        else:
            self.counts.hits += 1
        self.latest = program
        if program.bound.epoch != int(EPOCH[0]):
            program.bound.refresh(int(EPOCH[0]))
        return program

    def _look_at_options(self) -> None:
        """Check what the optimizer holds, where it or the model has changed."""
        optimizer = self.step.optimizer
        groups = optimizer.param_groups
        options = [(*group.values(),) for group in groups]
        members = [group["params"] for group in groups]
        same = options == self._options and members == self._members
        structure = int(STRUCTURE[0])
        if same and structure == self._structure:
            return
        work = trained(self.step.model, self.step.loss, optimizer)
        rules = [
            (optimizer.rule(group), list(map(id, group["params"])))
            for group in optimizer.param_groups
        ]
        if structure != self._structure or rules != self._rules:
            self._current.clear()
        self._work, self._rules = work, rules
        self._options, self._structure = options, structure
        self._members = [list(params) for params in members]

    def _again(self, inputs: Sequence[np.ndarray], updates: bool) -> StepProgram:
        """Trace; then take the program that was made for this graph, or make one."""
        step = self.step
        traced = trace_loss(step._target, inputs, step.dynamic_batch)
        self._signatures.learn(inputs, traced.static_reason is not None)
        planner = Planner(traced, step.optimizer, self._work)
        plan = planner.plan(step.accumulate > 1, updates, self._waiting, step.clip_norm)
        known = self._programs.get(plan.key)
        if known is not None and known.is_current(step.optimizer):
            self.counts.hits += 1
            return known
        program = StepProgram(plan, step._disabled, step.backend)
        types = ", ".join(str(type_of(array)) for array in inputs)
        what = "model, options or shapes changed" if self._programs else "first step"
        self._programs[plan.key] = program
        self.counts.miss(f"{what} ({types})", program.origin)
        return program

"""One compiled training step: planned by `Planner`, compiled, and run.

A traced loss and what the optimizer does enter; a program bound to parameters, state
and buffers leaves. Invariant: new state belongs to the optimizer only once a step has
used it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jitseq.ir.graph import Graph, Value
from jitseq.ir.ops.update import GATHER_IN, register_update
from jitseq.ir.text import graph_text
from jitseq.ir.trace import Traced
from jitseq.ir.types import TensorType
from jitseq.ir.variable import EPOCH, Variable
from jitseq.optim.optimizer import Group, Optimizer
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.step import Change, Count, feed_counts, step_graph
from jitseq.runtime.fed import Checks, count_calls, drawn, identity
from jitseq.runtime.report import Profile, Report
from jitseq.runtime.runnable import Bindings, runnable
from jitseq.runtime.training_checks import Trained, require_trained

State = dict[str, Variable]


class Numbers(NamedTuple):
    """The run-time numbers of parameters of one group, an input of the program."""

    value: Value
    group: Group
    parameters: tuple[Variable, ...]


@dataclass(frozen=True)
class Plan:
    """A step before it is compiled.

    ``variables`` are by the names of the graph's params. ``states`` are the state
    arrays that the step changes. ``waiting`` are the sums of gradients.
    """

    traced: Traced
    graph: Graph
    variables: Mapping[str, Variable]
    states: Mapping[Variable, State]
    numbers: tuple[Numbers, ...]
    share: Value | None
    counts: tuple[Count, ...]
    updates: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for plans whose program would be the same."""
        variables = (self.variables[param.name] for param in self.graph.params)
        return (graph_text(self.graph), *map(identity, variables))


class Planner:
    """Turns a traced loss into the graph of a step."""

    def __init__(
        self, traced: Traced, optimizer: Optimizer, work: Sequence[Trained]
    ) -> None:
        self.traced = traced
        self.optimizer = optimizer
        self.groups = {one.parameter: one.group for one in work}
        self.variables = dict(traced.variables)
        self.values = {traced.variables[p.name]: p for p in traced.graph.params}
        self.trained = [v for v in self.values if v in self.groups]
        require_trained([self.values[v] for v in self.trained])

    def plan(
        self,
        share: bool,
        updates: bool,
        waiting: dict[Variable, Variable],
        clip_norm: float | None,
    ) -> Plan:
        """A step that ``updates``, or one that only adds its share to ``waiting``."""
        dtype = self.traced.graph.outputs[0].type.dtype
        part = Value(TensorType(dtype, (1,)), "share") if share else None
        totals = {}
        for variable in self.trained if share else ():
            total = waiting.get(variable)
            if total is None:
                total = waiting[variable] = Variable(np.zeros_like(variable.numpy()))
            name = f"{self.values[variable].name}.gradient"
            totals[self.values[variable]] = self._param(total, name)
        changes: list[Change] = []
        numbers: list[Numbers] = []
        states: dict[Variable, State] = {}
        if updates:
            changes = self._updates(numbers, states)
        else:
            changes = [
                Change(param, total, GATHER_IN, (), part, {})
                for param, total in totals.items()
            ]
        assigned = [(self._param(v, "buffer"), new) for v, new in self.traced.updates]
        graph = step_graph(
            self.traced.graph,
            changes,
            assigned,
            totals if updates else {},
            part if updates else None,
            clip_norm if updates else None,
        )
        graph, counts = feed_counts(graph)
        return Plan(
            self.traced, graph, self.variables, states, tuple(numbers), part, counts,
            updates,
        )  # fmt: skip

    def _param(self, variable: Variable, name: str) -> Value:
        """The value of a variable that the trace may not have read."""
        if variable not in self.values:
            free, count = name, 1
            while free in self.variables:
                free, count = f"{name}#{count}", count + 1
            type = TensorType(variable.dtype.name, variable.shape)
            self.values[variable] = Value(type, free)
            self.variables[free] = variable
        return self.values[variable]

    def _updates(
        self, numbers: list[Numbers], states: dict[Variable, State]
    ) -> list[Change]:
        """The rule of each parameter; parameters of one group share their numbers."""
        changes = []
        shared: dict[Any, list[Variable]] = {}
        inputs: dict[Any, Value] = {}
        for variable in self.trained:
            group, param = self.groups[variable], self.values[variable]
            rule = self.optimizer.rule(group)
            name = rule.update.__name__
            count = len(rule.numbers)
            op = register_update(name, rule.update, len(rule.state), count)
            known = self.optimizer.state.get(variable, {})
            states[variable] = {
                key: known[key]
                if key in known
                else Variable(
                    np.full(
                        variable.shape,
                        self.optimizer.first_value(key, group),
                        variable.dtype,
                    )
                )
                for key in rule.state
            }
            place = (id(group), param.type.dtype, known.get("step", 0), bool(known))
            if place not in inputs:
                type = TensorType(param.type.dtype, (count,))
                inputs[place] = Value(type, f"numbers{len(inputs)}")
            shared.setdefault(place, []).append(variable)
            arrays = tuple(
                self._param(array, f"{param.name}.{key}")
                for key, array in states[variable].items()
            )
            flags = dict(rule.flags)
            changes.append(Change(param, param, op, arrays, inputs[place], flags))
        for place, variables in shared.items():
            group = self.groups[variables[0]]
            numbers.append(Numbers(inputs[place], group, tuple(variables)))
        return changes


class StepProgram:
    """A compiled plan."""

    def __init__(
        self, plan: Plan, disabled: frozenset[str], backend: str = "cpu"
    ) -> None:
        self.plan = plan
        given = len(plan.traced.graph.inputs)
        self.code = runnable(
            plan.graph,
            given,
            plan.counts,
            plan.variables,
            disabled,
            int(EPOCH[0]),
            backend,
        )
        self.check = Checks(plan.traced.graph)
        """What a step asks before it runs: of its inputs and their number."""

    @property
    def bound(self) -> Bindings:
        return self.code.bound

    @property
    def fused(self) -> FusedGraph:
        return self.code.fused

    @property
    def origin(self) -> str:
        """Where the code was found: "memory", "disk" or "compiled"."""
        return self.code.origin

    def report(self) -> Report:
        """How the step was compiled."""
        return self.code.report(self.plan.traced.static_reason)

    def profile(
        self,
        inputs: Sequence[np.ndarray],
        disabled: frozenset[str],
        repeats: int | None,
    ) -> Profile:
        """Time each kernel on copies of all that the step changes."""
        fed = (value.type for value, _ in self.plan.traced.feeds)
        feeds = [np.zeros(type.shape, type.dtype) for type in fed]
        numbers = {
            value: [0.0] * value.type.inner_shape[0]
            for value in (self.plan.share, *(one.value for one in self.plan.numbers))
            if value is not None
        }
        return self.code.profile([*inputs, *feeds], numbers, disabled, repeats)

    def is_current(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer's state is still held by the arrays of this program."""
        for variable, arrays in self.plan.states.items():
            known = optimizer.state.get(variable)
            if known is None:
                continue
            for name, array in arrays.items():
                if known.get(name, array) is not array:
                    return False
        return True

    def run(
        self, inputs: Sequence[np.ndarray], optimizer: Optimizer, share: float,
        threads: int,
    ) -> float:  # fmt: skip
        """One step; returns the loss."""
        numbers = self._numbers(optimizer, share)
        given = [*inputs, *drawn(self.plan.traced)]
        try:
            (loss,) = self.code.run(given, threads, numbers)
        finally:
            self._commit(optimizer)
        return float(loss.item())

    def _numbers(self, optimizer: Optimizer, share: float) -> dict[Value, Any]:
        """What the host computes for this step."""
        found: dict[Value, Any] = {}
        if self.plan.share is not None:
            found[self.plan.share] = share
        for value, group, parameters in self.plan.numbers:
            state = optimizer.state.get(parameters[0], {})
            found[value] = optimizer.numbers(group, state)
        return found

    def _commit(self, optimizer: Optimizer) -> None:
        """New state, counts."""
        for variable, arrays in self.plan.states.items():
            state = optimizer.state.get(variable)
            if state is None:
                if not (arrays or optimizer.counts_steps):
                    continue
                state = optimizer.state[variable] = {}
            state.update(arrays)
            if optimizer.counts_steps:
                state["step"] = state.get("step", 0) + 1
        count_calls(self.plan.traced)

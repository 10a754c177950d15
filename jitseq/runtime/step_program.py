"""One compiled training step: planned and compiled by `StepBuilder`, then run.

A traced loss and what the optimizer does enter; a program bound to parameters, state
and buffers leaves. Invariant: new state belongs to the optimizer only once a step has
used it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.ops.update import GATHER_IN, register_update
from jitseq.ir.text import graph_text
from jitseq.ir.trace import Traced
from jitseq.ir.types import TensorType
from jitseq.ir.variable import EPOCH, Variable, mark_all_changed
from jitseq.optim.optimizer import Group, Optimizer
from jitseq.passes.pipeline import optimise
from jitseq.passes.step import Change, Count, feed_counts, step_graph
from jitseq.runtime.bound import Bound
from jitseq.runtime.executable import Executable, executable
from jitseq.runtime.report import Profile, Report
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
        variables = (id(self.variables[param.name]) for param in self.graph.params)
        return (graph_text(self.graph), *variables)


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
    """A compiled plan and the memory of what it is fed."""

    def __init__(self, plan: Plan, disabled: frozenset[str]) -> None:
        self.plan = plan
        fused = optimise(plan.graph, disabled)
        self.fused = fused
        self.code: Executable
        self.code, self.origin = executable(fused, selected_target(), disabled)
        changed = set(fused.changed.values())
        static = {
            p.name: plan.variables[p.name]
            for p in fused.graph.params
            if p not in changed
        }
        loss = fused.graph.outputs[0].type
        self.bound = Bound(fused, self.code, static, [loss], int(EPOCH[0]))
        self.variables = [
            plan.variables[name] for name in self.code.manifest.variables
        ]
        self._pinned: list[tuple[Variable, np.ndarray, int]] = []
        self.loss = np.zeros(loss.shape, loss.dtype)
        self._fed = [np.zeros(v.type.shape, v.type.dtype) for v in self._host_inputs()]
        self._last: list[Any] = [None] * len(self._fed)

    @property
    def statistics(self) -> list[Node]:
        """Layers that need more than one value a channel."""
        nodes = self.plan.traced.graph.nodes
        return [node for node in nodes if node.op == "batch_norm_train"]

    def report(self) -> Report:
        """How the step was compiled."""
        notes = ()
        reason = self.plan.traced.static_reason
        if reason:
            notes = (f"compiled for this batch size: {reason}",)
        return Report(
            self.code.manifest.kernels,
            self.fused.refusals,
            self.code.manifest.arena_bytes,
            self.code.compile_seconds,
            self.code.origin,
            selected_target().cpu,
            notes,
        )

    def profile(
        self, inputs: Sequence[np.ndarray], disabled: frozenset[str], repeats: int | None
    ) -> Profile:
        """Time each kernel on copies of all that the step changes."""
        from jitseq.runtime.inspect import profile

        arrays, n = self.arrays(inputs), self.bound.batch(inputs)
        target = selected_target()
        return profile(self.bound, arrays, n, target, disabled, repeats)

    def _host_inputs(self) -> list[Value]:
        """Inputs behind the call's own and the feeds, in the graph's order."""
        first = len(self.plan.traced.graph.inputs)
        return list(self.fused.graph.inputs[first:])

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
        traced = self.plan.traced
        n = self.bound.batch(inputs)
        self._write_numbers(optimizer, n, share)
        feeds = [source() for _, source in traced.feeds]
        arrays = [*inputs, *feeds, *self._fed, self.loss]
        addresses = [array.ctypes.data for array in inputs]
        addresses += [array.ctypes.data for array in feeds]
        addresses += self._addresses()
        try:
            self.bound.run(addresses, arrays, n, threads)
        finally:
            self._commit(optimizer)
        return float(self.loss)

    def arrays(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Everything that the program reads and writes, copied: for a trial run."""
        feeds = [np.zeros(v.type.shape, v.type.dtype) for v, _ in self.plan.traced.feeds]
        changing = [*self._fed, self.loss, *(v.numpy() for v in self.variables)]
        return [*inputs, *feeds, *(array.copy() for array in changing)]

    def _addresses(self) -> list[int]:
        """Of host inputs, the loss and the variables; looked up when they moved."""
        if any(v._array is not array for v, array, _ in self._pinned):
            self._pinned = []
        if not self._pinned:
            self._pinned = [(v, v._array, v._array.ctypes.data) for v in self.variables]
            self._own = [a.ctypes.data for a in (*self._fed, self.loss)]
        return [*self._own, *(address for _, _, address in self._pinned)]

    def _write_numbers(self, optimizer: Optimizer, n: int, share: float) -> None:
        by_value: dict[Value, Any] = {c.value: c.factor * n for c in self.plan.counts}
        if self.plan.share is not None:
            by_value[self.plan.share] = share
        for value, group, parameters in self.plan.numbers:
            state = optimizer.state.get(parameters[0], {})
            by_value[value] = optimizer.numbers(group, state)
        for k, value in enumerate(self._host_inputs()):
            if by_value[value] != self._last[k]:
                self._fed[k][...] = by_value[value]
                self._last[k] = by_value[value]

    def _commit(self, optimizer: Optimizer) -> None:
        """Versions of what changed, new state, counts."""
        mark_all_changed(self.variables)
        self.bound.epoch = int(EPOCH[0])
        for variable, arrays in self.plan.states.items():
            state = optimizer.state.get(variable)
            if state is None:
                if not (arrays or optimizer.counts_steps):
                    continue
                state = optimizer.state[variable] = {}
            state.update(arrays)
            if optimizer.counts_steps:
                state["step"] = state.get("step", 0) + 1
        for counter, by in Counter(self.plan.traced.counted).items():
            counter.assign(counter.numpy() + by)

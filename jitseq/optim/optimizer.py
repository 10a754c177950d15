"""`Optimizer`: groups of parameters, their options and state, and the eager step.

Parameters with gradients enter; `step` changes them. Invariant: a step computes every
new value before it changes anything, so a step that fails leaves parameters and state
as they were. A compiled step reads the same `rule`, `numbers` and `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.ir.variable import Variable
from jitseq.optim.checks import OptimizerError, gradient_of
from jitseq.optim.groups import new_group
from jitseq.optim.rule import Rule
from jitseq.optim.state import load_state, saved_state

Group = dict[str, Any]


@dataclass(frozen=True)
class _Update:
    """What a step will do to one parameter."""

    parameter: Variable
    rule: Rule
    values: tuple[np.ndarray, ...]
    """The new parameter, then the new state in the order of ``rule.state``."""


class Optimizer:
    """Base of all optimizers; a subclass defines `rule`, `numbers` and `check`.

    ``params`` are parameters, ``(name, parameter)`` pairs, or dicts with the key
    ``params`` and options that differ from ``defaults``. ``state[parameter]`` holds
    the state by name: `Variable`s of the parameter's shape and the number ``step``.
    Raises `OptimizerError` where PyTorch raises.
    """

    state_names: tuple[str, ...] = ()
    """Every name that a rule of this optimizer may keep as state."""

    counts_steps = True
    """Whether the state of a parameter holds ``step``, the number of its updates."""

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.state: dict[Variable, dict[str, Any]] = {}
        self.param_groups: list[Group] = []
        self.check({**self.defaults})
        if isinstance(params, Variable):
            raise OptimizerError(
                "params should be an iterable of parameters or dicts, got a parameter",
                hint="pass a list: [parameter]",
            )
        groups = list(params)
        if not groups:
            raise OptimizerError(
                "optimizer got an empty parameter list",
                hint="pass model.parameters()",
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    # What a subclass defines

    def rule(self, group: Mapping[str, Any]) -> Rule:
        """The update of a group's parameters."""
        raise NotImplementedError

    def numbers(
        self, group: Mapping[str, Any], state: Mapping[str, Any]
    ) -> tuple[float, ...]:
        """Values of ``rule.numbers`` for the next update of a parameter.

        ``state`` is the parameter's state before the update; empty before the first.
        """
        raise NotImplementedError

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `OptimizerError` for options that are not accepted."""
        raise NotImplementedError

    def first_value(self, name: str, group: Mapping[str, Any]) -> float:
        """What the state array ``name`` is filled with at first."""
        return 0.0

    # Groups

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with their own options; missing ones are the defaults."""
        group = new_group(param_group, self.defaults, self.param_groups)
        self.check(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    parameter.grad = None if set_to_none else np.zeros_like(gradient)

    # Stepping

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what ``closure`` does.

        Raises `OptimizerError`, `ShapeError` or `DtypeError` before anything changes.
        """
        loss = None if closure is None else closure()
        updates = [
            self._update(group, parameter, gradient)
            for group, parameter, gradient in self._work()
        ]
        for update in updates:
            self._commit(update)
        return loss

    def _work(self) -> list[tuple[Group, Variable, np.ndarray]]:
        """Groups, parameters and gradients of a step, everything checked."""
        work = []
        for number, group in enumerate(self.param_groups):
            self.check(group)
            names = group.get("param_names", range(len(group["params"])))
            for name, parameter in zip(names, group["params"], strict=True):
                label = f"parameter {name} of group {number}"
                gradient = gradient_of(parameter, label)
                if gradient is not None:
                    work.append((group, parameter, gradient))
        return work

    def _update(
        self, group: Group, parameter: Variable, gradient: np.ndarray
    ) -> _Update:
        rule = self.rule(group)
        state = self.state.get(parameter, {})
        arrays = [
            state[name].numpy()
            if name in state
            else np.full(
                parameter.shape, self.first_value(name, group), parameter.dtype
            )
            for name in rule.state
        ]
        numbers = self.numbers(group, state)
        values = rule.apply(parameter.numpy(), gradient, arrays, numbers)
        return _Update(parameter, rule, values)

    def _commit(self, update: _Update) -> None:
        value, *arrays = update.values
        update.parameter.assign(value)
        if not (arrays or self.counts_steps):
            return
        state = self.state.setdefault(update.parameter, {})
        for name, array in zip(update.rule.state, arrays, strict=True):
            if name in state:
                state[name].assign(array)
            else:
                state[name] = Variable(array)
        if self.counts_steps:
            state["step"] = state.get("step", 0) + 1

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Copies of state and options in PyTorch's layout, parameters by number.

        ``{"state": {0: {"exp_avg": array, …}}, "param_groups": [{…, "params": [0]}]}``
        """
        return saved_state(self.param_groups, self.state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state of this or of PyTorch's optimizer of the same name.

        Arrays may be tensors; they are cast to the parameter's dtype. Raises
        `OptimizerError` or `ShapeError` before anything changes.
        """
        groups, state = load_state(self, state_dict)
        self.param_groups[:] = groups
        self.state = state

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
        return "\n".join([*lines, ")"])

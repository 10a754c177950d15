"""Saving and loading of an optimizer's state, in PyTorch's layout.

State by parameter enters, state by number leaves, and back. Invariant: loading builds
groups and state anew and checks all of it; the caller swaps them in at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from jitseq.errors import JitseqError, ShapeError
from jitseq.ir.tracer import as_array
from jitseq.ir.variable import Variable
from jitseq.optim.checks import OptimizerError, require_number

if TYPE_CHECKING:
    from jitseq.optim.optimizer import Optimizer

Groups = list[dict[str, Any]]
State = dict[Variable, dict[str, Any]]


def saved_state(
    groups: Sequence[Mapping[str, Any]], state: Mapping[Variable, Mapping[str, Any]]
) -> dict[str, Any]:
    """``{"state": {number: {name: array}}, "param_groups": [{…}]}``, all copied."""
    numbers: dict[Variable, int] = {}
    saved = []
    for group in groups:
        for parameter in group["params"]:
            numbers[parameter] = len(numbers)
        options = {key: deepcopy(v) for key, v in group.items() if key != "params"}
        saved.append({**options, "params": [numbers[p] for p in group["params"]]})
    arrays = {
        numbers[parameter]: {name: _saved(value) for name, value in entries.items()}
        for parameter, entries in state.items()
    }
    return {"state": arrays, "param_groups": saved}


def _saved(value: Any) -> np.ndarray:
    """An array's copy; the step as PyTorch keeps it, a float32."""
    if isinstance(value, Variable):
        return value.numpy().copy()
    return np.asarray(value, np.float32)


def load_state(
    optimizer: Optimizer, state_dict: Mapping[str, Any]
) -> tuple[Groups, State]:
    """Groups and state for ``optimizer``, which is not changed.

    Raises `OptimizerError` for groups or names that do not fit, `ShapeError` for
    arrays of another shape.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(
        state_dict
    ):
        raise OptimizerError(
            "an optimizer's state dict has the keys 'state' and 'param_groups'"
        )
    saved = state_dict["param_groups"]
    groups = _merged_groups(optimizer, saved)
    owners = {
        number: (group, parameter)
        for group, given in zip(groups, saved, strict=True)
        for number, parameter in zip(given["params"], group["params"], strict=True)
    }
    state: State = {}
    for number, entries in state_dict["state"].items():
        if number not in owners:
            raise OptimizerError(f"the state of parameter {number} has no parameter")
        group, parameter = owners[number]
        label = f"state of parameter {number}"
        state[parameter] = _loaded(optimizer, group, parameter, entries, label)
    return groups, {
        parameter: entries for parameter, entries in state.items() if entries
    }


def _merged_groups(optimizer: Optimizer, saved: Sequence[Mapping[str, Any]]) -> Groups:
    """The saved options around the optimizer's own parameters."""
    own = optimizer.param_groups
    if len(own) != len(saved):
        raise OptimizerError(
            "loaded state dict has a different number of parameter groups",
            facts={"loaded": len(saved), "optimizer": len(own)},
        )
    groups = []
    for group, given in zip(own, saved, strict=True):
        if len(given["params"]) != len(group["params"]):
            raise OptimizerError(
                "loaded state dict contains a parameter group that doesn't match the "
                "size of optimizer's group",
                facts={"loaded": len(given["params"]), "own": len(group["params"])},
            )
        merged = {**optimizer.defaults, **deepcopy(dict(given))}
        merged["params"] = group["params"]
        if "param_names" in group:
            merged["param_names"] = group["param_names"]
        optimizer.check(merged)
        groups.append(merged)
    return groups


def _loaded(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    parameter: Variable,
    entries: Mapping[str, Any],
    label: str,
) -> dict[str, Any]:
    known = optimizer.state_names
    given = {name: value for name, value in entries.items() if value is not None}
    unknown = [name for name in given if name not in (*known, "step")]
    needed = (*optimizer.rule(group).state, *(("step",) * optimizer.counts_steps))
    missing = [name for name in needed if name not in given] if given else []
    if unknown or missing:
        raise OptimizerError(
            f"{label} does not fit {type(optimizer).__name__}",
            facts={"unknown": unknown, "missing": missing},
            hint="load a state that the same kind of optimizer has saved",
        )
    loaded: dict[str, Any] = {
        name: Variable(_fitting(given[name], parameter, f"{label}: {name}"))
        for name in given
        if name != "step"
    }
    if optimizer.counts_steps and given:
        loaded["step"] = int(require_number(given["step"], f"{label}: step"))
    return loaded


def _fitting(value: Any, parameter: Variable, label: str) -> np.ndarray:
    try:
        array = as_array(value)
    except JitseqError as error:
        raise OptimizerError(f"{label}: {error.message}") from None
    if array.shape != parameter.shape or array.dtype.kind not in "fiu":
        raise ShapeError(
            f"{label} does not fit its parameter",
            facts={
                "got": f"{array.dtype.name}{list(array.shape)}",
                "expected": f"{parameter.dtype.name}{list(parameter.shape)}",
            },
        )
    return array.astype(parameter.dtype)

"""Parameter groups: a user's dict enters, a complete and checked group leaves.

Invariant: a parameter is in one group, once, and all groups have names or none has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from jitseq.ir.variable import Variable
from jitseq.optim.checks import OptimizerError


def new_group(
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """``given`` with ``defaults`` filled in, for an optimizer that has ``groups``.

    Raises `OptimizerError` where PyTorch raises, and for a parameter given twice.
    """
    if not isinstance(given, Mapping) or "params" not in given:
        raise OptimizerError(
            f"param_group must be a dict with the key 'params', got {given!r}"[:200]
        )
    params, names = _split_names(given["params"])
    options = {key: value for key, value in given.items() if key != "params"}
    group = {"params": params, **deepcopy({**defaults, **options})}
    if names:
        group["param_names"] = names
    _check_new(group, groups)
    return group


def _split_names(params: Any) -> tuple[list[Variable], list[str]]:
    if isinstance(params, Variable):
        params = [params]
    if isinstance(params, (set, frozenset)):
        raise OptimizerError(
            "optimizer parameters need to be organized in ordered collections",
            hint="the order of a set changes between runs; use a list",
        )
    items = list(params)
    named = [item for item in items if isinstance(item, tuple)]
    if named and len(named) != len(items):
        raise OptimizerError("all optimizer params should be with/without names")
    found = [item[1] if isinstance(item, tuple) else item for item in items]
    for parameter in found:
        if not isinstance(parameter, Variable):
            kind = type(parameter).__name__
            raise OptimizerError(
                f"optimizer can only optimize parameters, got {kind}",
                hint="pass model.parameters(), or nn.Parameter(array)",
            )
    return found, [name for name, _ in named]


def _check_new(group: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    params = group["params"]
    if len(set(params)) != len(params):
        raise OptimizerError("a parameter group holds a parameter twice")
    others = {parameter for other in groups for parameter in other["params"]}
    if not others.isdisjoint(params):
        raise OptimizerError("some parameters appear in more than one parameter group")
    if any(("param_names" in group) != ("param_names" in other) for other in groups):
        raise OptimizerError("all optimizer param groups should be with/without names")

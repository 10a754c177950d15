"""What a training step asks for before it computes anything.

Model, loss, optimizer and arrays enter; the parameters that a step updates, and the
traced loss, leave. Invariant: nothing here changes a parameter, a buffer or the
optimizer, so a step that is refused has done nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, ShapeError
from jitseq.ir.graph import Graph, Value
from jitseq.ir.ops.labels import check_labels
from jitseq.ir.trace import Traced, trace
from jitseq.ir.types import FLOAT_DTYPES, type_of
from jitseq.ir.variable import Variable
from jitseq.optim.checks import OptimizerError
from jitseq.optim.optimizer import Group, Optimizer

SAME_ELEMENTS = ("reshape", "permute")
"""Ops behind which every label is still the label that was given."""


@dataclass(frozen=True)
class Trained:
    """One parameter that a step may update, with its group's options."""

    group: Group
    parameter: Variable
    label: str
    """How messages name it: its path in the model, else its place in the group."""


def composed(model: Callable[..., Any], loss: Callable[[Any, Any], Any]) -> Any:
    """``loss(model(*inputs), y)`` as one traceable function of ``(*inputs, y)``."""

    def loss_of(*arrays: Any) -> Any:
        return loss(model(*arrays[:-1]), arrays[-1])

    loss_of.__wrapped__ = model  # type: ignore[attr-defined]
    if hasattr(model, "named_modules"):
        loss_of.named_modules = model.named_modules  # type: ignore[attr-defined]
    return loss_of


def trained(model: Any, loss: Any, optimizer: Optimizer) -> list[Trained]:
    """The parameters with ``requires_grad`` that the optimizer holds, in its order.

    Where the model is a module, each has to be a parameter of the model or the loss.

    Raises:
        OptimizerError: options out of range; a parameter of another model, or with
            another dtype or shape than its state; no parameter is left to update.
    """
    names = _parameter_names(model, loss)
    found = []
    for number, group in enumerate(optimizer.param_groups):
        optimizer.check(group)
        for place, parameter in enumerate(group["params"]):
            label = f"parameter {place} of group {number}"
            if names is not None:
                label = _own_name(names, group, place, label)
            if parameter.requires_grad:
                _check_state(optimizer, parameter, label)
                found.append(Trained(group, parameter, label))
    if not found:
        raise OptimizerError(
            "train_step: no parameter of the optimizer requires a gradient",
            hint="call requires_grad_() on the parameters that are to be trained",
        )
    return found


def _parameter_names(model: Any, loss: Any) -> dict[Variable, str] | None:
    """Names of the parameters of model and loss; None for a plain function."""
    own = getattr(inspect.unwrap(model), "named_parameters", None)
    if own is None:
        return None
    names: dict[Variable, str] = {}
    if hasattr(loss, "named_parameters"):
        names = {
            parameter: f"loss.{name}" for name, parameter in loss.named_parameters()
        }
    return names | {parameter: name for name, parameter in own()}


def _own_name(
    names: Mapping[Variable, str], group: Group, place: int, label: str
) -> str:
    parameter = group["params"][place]
    if parameter in names:
        return names[parameter]
    given = group.get("param_names")
    known = {} if given is None else {"name": given[place]}
    raise OptimizerError(
        f"train_step: {label} is not a parameter of the model",
        facts={**known, "parameter": type_of(parameter.numpy())},
        hint="make the optimizer from model.parameters(), and again after a layer of "
        "the model was replaced",
    )


def _check_state(optimizer: Optimizer, parameter: Variable, label: str) -> None:
    for name, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Variable):
            continue
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            raise OptimizerError(
                f"train_step: {label} no longer fits its state {name!r}",
                facts={
                    "parameter": type_of(parameter.numpy()),
                    "state": type_of(value.numpy()),
                },
                hint="optimizer.load_state_dict(optimizer.state_dict()) converts the "
                "state to the parameter's dtype",
            )


def check_arrays(inputs: Sequence[np.ndarray]) -> None:
    """Raise `TypeError` for less than x and y, `ShapeError` for an empty array."""
    if len(inputs) < 2:
        raise TypeError(f"a training step takes inputs and y, got {len(inputs)} arrays")
    for array, name in zip(inputs, _names(len(inputs)), strict=True):
        if not array.size:
            raise ShapeError(
                f"train_step: {name} is empty",
                facts={name: type_of(array)},
                hint="a step needs one sample at least",
            )


def _names(count: int) -> list[str]:
    """How messages name the arrays of a step: x, or x1, x2, …, and y."""
    inputs = ["x"] if count == 2 else [f"x{i}" for i in range(1, count)]
    return [*inputs, "y"]


def trace_loss(
    target: Callable[..., Any], inputs: Sequence[np.ndarray], dynamic_batch: bool
) -> Traced:
    """The trace of a loss, which is the first output; new values of buffers follow.

    Raises:
        ShapeError: the loss is not one number; or the model, or the loss, does not
            accept the shapes (where leading extents differ, that is what it says).
        DtypeError: it does not accept the dtypes, or is no floating-point number.
    """
    types = [type_of(array) for array in inputs]
    try:
        traced = trace(target, types, dynamic_batch=dynamic_batch)
    except ShapeError as error:
        extents = {type.shape[0] for type in types if type.ndim}
        if len(extents) < 2 or error.module is inspect.unwrap(target):
            raise
        raise ShapeError(
            "train_step: the arrays hold different numbers of samples",
            facts=dict(zip(_names(len(types)), types, strict=True)),
            hint=error.message,
        ) from error
    loss = traced.graph.outputs[0].type
    several = loss.has_batch or any(extent != 1 for extent in loss.shape)
    if traced.structure.kind is not None or several:
        raise ShapeError(
            "train_step: the loss must be one number",
            facts={"got": loss if traced.structure.kind is None else "several arrays"},
            hint='use reduction="mean" or "sum"',
        )
    if loss.dtype not in FLOAT_DTYPES:
        raise DtypeError(f"train_step: the loss is {loss.dtype}, not a float")
    return traced


def require_trained(wrt: Sequence[Value]) -> None:
    """Raise `OptimizerError` unless the loss depends on something to be trained."""
    if not wrt:
        raise OptimizerError(
            "train_step: the loss reads no parameter of the optimizer",
            hint="make the optimizer from the parameters that the model uses",
        )


def label_inputs(graph: Graph) -> tuple[tuple[int, dict[str, int]], ...]:
    """Inputs that reach a `labels` node as they are or in another shape.

    Each by its position, with the keywords of `check_labels`.
    """
    positions = {value: i for i, value in enumerate(graph.inputs)}
    producers = graph.producers()
    found = []
    for node in graph.nodes:
        if node.op != "labels":
            continue
        source: Value = node.inputs[0]
        while source in producers and producers[source].op in SAME_ELEMENTS:
            source = producers[source].inputs[0]
        if source in positions:
            limits = {key: node.attrs[key] for key in ("classes", "ignore_index")}
            found.append((positions[source], limits))
    return tuple(found)


def check_label_inputs(graph: Graph, inputs: Sequence[np.ndarray]) -> None:
    """Raise `RangeError` for class labels out of range.

    ``inputs`` are the arrays of the first ``len(inputs)`` inputs.
    """
    for position, limits in label_inputs(graph):
        check_labels(inputs[position], **limits)

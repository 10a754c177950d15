"""Tracing: a module or a function of arrays → Graph.

The leading extent of the inputs is traced as the symbolic batch; where the function
needs the number itself, the trace is made again with the sample's own batch size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jitseq.errors import JitseqError, NeedsStaticBatch, TraceError
from jitseq.ir.builder import Builder, Source
from jitseq.ir.graph import Graph, Value
from jitseq.ir.tracer import Tracer, as_array
from jitseq.ir.types import BATCH, TensorType
from jitseq.ir.variable import Variable


@dataclass(frozen=True)
class Traced:
    """A graph, the variables behind its params, and the shape of the result.

    ``structure`` rebuilds what the function returned from the graph's first outputs.
    ``static_reason`` says why the batch size is fixed, where it is. A call also

    - computes the ``feeds``, the graph's last inputs: each by its source, in order;
    - gives the variables in ``updates`` their values, the graph's last outputs;
    - adds one to each of ``counted``, once for each time that it is listed.
    """

    graph: Graph
    variables: Mapping[str, Variable]
    structure: Structure
    static_reason: str | None
    feeds: tuple[tuple[Value, Source], ...] = ()
    updates: tuple[tuple[Variable, Value], ...] = ()
    counted: tuple[Variable, ...] = ()

    @property
    def results(self) -> tuple[Value, ...]:
        """The outputs that the function returned: those in front of the updates."""
        return self.graph.outputs[: len(self.graph.outputs) - len(self.updates)]


@dataclass(frozen=True)
class Structure:
    """None for one array, else the container and what it holds.

    ``rebuild`` is not needed when ``kind`` is None or a flat tuple.
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    parts: tuple[Structure, ...] = ()

    @property
    def is_plain(self) -> bool:
        """One array, or a flat tuple of two or more."""
        if self.kind is None:
            return True
        flat = all(part.kind is None for part in self.parts)
        return self.kind is tuple and flat and len(self.parts) > 1

    def rebuild(self, leaves: list[Any]) -> Any:
        """The container; takes its arrays from the front of ``leaves``."""
        if self.kind is None:
            return leaves.pop(0)
        items = [part.rebuild(leaves) for part in self.parts]
        if self.kind is dict:
            return dict(zip(self.keys, items, strict=True))
        named = hasattr(self.kind, "_fields")
        return self.kind(*items) if named else self.kind(items)


def trace(
    target: Callable[..., Any], types: Sequence[TensorType], dynamic_batch: bool = True
) -> Traced:
    """Trace ``target`` for inputs of these (concrete) types."""
    if dynamic_batch and types and types[0].ndim:
        try:
            return _trace(target, _with_batch(types), None)
        except (NeedsStaticBatch, JitseqError) as error:
            reason = str(error).split("\n")[0] or "an operation needs the batch size"
        return _trace(target, types, reason)
    return _trace(target, types, "dynamic_batch is off" if not dynamic_batch else None)


def _with_batch(types: Sequence[TensorType]) -> list[TensorType]:
    """Inputs whose leading extent is the first one's share the symbolic batch."""
    batch = types[0].shape[0]
    return [
        type.with_shape((BATCH, *type.shape[1:]))
        if type.ndim and type.shape[0] == batch
        else type
        for type in types
    ]


def _trace(
    target: Callable[..., Any], types: Sequence[TensorType], reason: str | None
) -> Traced:
    builder = Builder()
    builder.module_names.update(module_names(target))
    names = input_names(target, len(types))
    inputs = [builder.add_input(t, name) for t, name in zip(types, names, strict=True)]
    with builder.tracing():
        result = target(*map(Tracer, inputs))
        leaves: list[Value] = []
        structure = _flatten(result, builder, leaves)
    if not leaves:
        raise TraceError(
            f"the traced function returned {result!r}, which holds no array",
            hint="return an array, or a tuple, list or dict of arrays",
        )
    return Traced(
        builder.finish(leaves),
        builder.variables,
        structure,
        reason,
        tuple(builder.feeds),
        builder.updates,
        tuple(builder.counted),
    )


def _flatten(result: Any, builder: Builder, leaves: list[Value]) -> Structure:
    if isinstance(result, Tracer):
        leaves.append(result.value)
        return Structure(None)
    if isinstance(result, dict):
        parts = tuple(_flatten(item, builder, leaves) for item in result.values())
        return Structure(dict, tuple(result), parts)
    if isinstance(result, tuple | list):
        parts = tuple(_flatten(item, builder, leaves) for item in result)
        kind = type(result) if hasattr(result, "_fields") else tuple
        return Structure(kind if isinstance(result, tuple) else list, (), parts)
    if isinstance(result, Variable):
        leaves.append(builder.param(result))
        return Structure(None)
    if result is None or isinstance(result, str):
        raise TraceError(
            f"the traced function returned {result!r}",
            hint="return an array, or a tuple, list or dict of arrays",
        )
    leaves.append(builder.constant(as_array(result)))
    return Structure(None)


def module_names(target: Any) -> dict[int, str]:
    """Paths of the modules that a target is or closes over, by ``id``."""
    if hasattr(target, "named_modules"):
        return {id(module): name for name, module in target.named_modules()}
    names: dict[int, str] = {}
    for root, value in closed_over(target).items():
        if hasattr(value, "named_modules"):
            for name, module in value.named_modules(prefix=root):
                names.setdefault(id(module), name)
    return names


def closed_over(target: Any) -> dict[str, Any]:
    """Names and values that a Python function uses from outside of itself."""
    function = inspect.unwrap(target)
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function):
        return {}
    found = inspect.getclosurevars(function)
    return {**found.globals, **found.nonlocals}


def input_names(target: Any, count: int) -> list[str]:
    """The target's own parameter names where it has them."""
    function = getattr(target, "forward", target)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain][:count]
    return names + [f"input{i}" for i in range(len(names), count)]

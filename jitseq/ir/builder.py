"""Builds a Graph one node at a time, inferring every type.

Invariants: while a builder is active on a thread (`tracing`), `apply` on its tracers
appends nodes here, and each node carries the path of the layer that is being traced. A
variable that the function updates is read with its new value from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jitseq.errors import TraceError
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.types import TensorType
from jitseq.ir.variable import Constant, Variable

Source = Callable[[], np.ndarray]
"""Computes what a feed holds, anew for each call."""

_active = threading.local()


def active_builder() -> Builder | None:
    """The builder that is tracing on this thread, if any."""
    return getattr(_active, "builder", None)


class Builder:
    """Collects the nodes of one graph."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.variables: dict[str, Variable] = {}
        self.layer_outputs: dict[str, Value] = {}
        self.feeds: list[tuple[Value, Source]] = []
        self.counted: list[Variable] = []
        self._updates: dict[int, tuple[Variable, Value]] = {}
        self._params: dict[int, Value] = {}
        self._names: dict[int, str] = {}
        self._scopes: list[str] = []
        self.module_names: dict[int, str] = {}
        """Path of each module of the traced model, by ``id``."""

    def add_input(self, type: TensorType, name: str) -> Value:
        self.inputs.append(Value(type, name))
        return self.inputs[-1]

    def param(self, variable: Variable) -> Value:
        """The value of a variable: the same each time, until it is updated."""
        if id(variable) in self._updates:
            return self._updates[id(variable)][1]
        value = self._params.get(id(variable))
        if value is None:
            name = self._unique(self._names.get(id(variable), "param"), self.variables)
            value = Value(TensorType(variable.dtype.name, variable.shape), name)
            self._params[id(variable)] = value
            self.variables[name] = variable
        return value

    def feed(self, name: str, type: TensorType, source: Source) -> Value:
        """An input that ``source`` computes at each call, behind the call's own.

        ``source()`` returns an array of ``type``; sources are called in the order of
        their feeds, once for each call.
        """
        inputs = (*self.inputs, *(value for value, _ in self.feeds))
        taken = {value.name for value in inputs}
        value = Value(type, self._unique(self._inside(name), taken))
        self.feeds.append((value, source))
        return value

    def update(self, variable: Variable, value: Value) -> None:
        """After the call ``variable`` holds ``value``, which has its dtype and shape.

        Raises `TraceError` for a value of another type.
        """
        type = TensorType(variable.dtype.name, variable.shape)
        if value.type != type:
            raise TraceError(
                "a variable keeps its dtype and shape",
                facts={"got": value.type, "expected": type},
                hint="convert the input, or the model with model.to(…)",
            )
        self._updates[id(variable)] = (variable, value)

    @property
    def updates(self) -> tuple[tuple[Variable, Value], ...]:
        """Updated variables and their last values."""
        return tuple(self._updates.values())

    def count_call(self, variable: Variable) -> None:
        """After the call ``variable``, an integer, is one larger."""
        self.counted.append(variable)

    def constant(self, array: np.ndarray) -> Value:
        """An array that the traced function closes over, copied now."""
        return self.param(Constant(array))

    def emit(self, op: str, inputs: Iterable[Value], **attrs: Any) -> Value:
        """Append a node with one output and return it."""
        inputs = tuple(inputs)
        type = get_op(op).infer(*(value.type for value in inputs), **attrs)
        node = Node(op, inputs, attrs, (Value(type),), self.path, len(self.nodes))
        self.nodes.append(node)
        return node.output

    def _inside(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    @property
    def path(self) -> str:
        return self._scopes[-1] if self._scopes else ""

    @contextmanager
    def layer(
        self, path: str, variables: Iterable[tuple[str, Variable]]
    ) -> Iterator[None]:
        """Attribute the nodes emitted inside to ``path``, and name its variables."""
        for name, variable in variables:
            self._names.setdefault(id(variable), f"{path}.{name}" if path else name)
        self._scopes.append(path)
        try:
            yield
        finally:
            self._scopes.pop()

    def record_layer_output(self, path: str, value: Value) -> None:
        self.layer_outputs[self._unique(path, self.layer_outputs)] = value

    @staticmethod
    def _unique(name: str, taken: Any) -> str:
        if name not in taken:
            return name
        count = 1
        while f"{name}#{count}" in taken:
            count += 1
        return f"{name}#{count}"

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Make this the active builder of the thread."""
        previous = active_builder()
        _active.builder = self
        try:
            yield
        finally:
            _active.builder = previous

    def finish(self, outputs: Iterable[Value]) -> Graph:
        """The graph; its inputs end with the feeds, its outputs with the updates."""
        return Graph(
            (*self.inputs, *(value for value, _ in self.feeds)),
            tuple(self._params.values()),
            tuple(self.nodes),
            (*outputs, *(value for _, value in self.updates)),
            dict(self.layer_outputs),
        )

"""Builds a Graph one node at a time, inferring every type.

Invariant: while a builder is active on a thread (`tracing`), `apply` on its tracers
appends nodes here; each node carries the path of the layer that is being traced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.op import get_op
from jitseq.ir.types import TensorType
from jitseq.ir.variable import Variable

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
        self._params: dict[int, Value] = {}
        self._names: dict[int, str] = {}
        self._scopes: list[str] = []
        self.module_names: dict[int, str] = {}
        """Path of each module of the traced model, by ``id``."""

    def add_input(self, type: TensorType, name: str) -> Value:
        self.inputs.append(Value(type, name))
        return self.inputs[-1]

    def param(self, variable: Variable) -> Value:
        """The value of a variable; the same value each time."""
        value = self._params.get(id(variable))
        if value is None:
            name = self._unique(self._names.get(id(variable), "param"), self.variables)
            value = Value(TensorType(variable.dtype.name, variable.shape), name)
            self._params[id(variable)] = value
            self.variables[name] = variable
        return value

    def constant(self, array: np.ndarray) -> Value:
        """An array that the traced function closes over, copied now."""
        return self.param(Variable(array))

    def emit(self, op: str, inputs: Iterable[Value], **attrs: Any) -> Value:
        """Append a node with one output and return it."""
        inputs = tuple(inputs)
        type = get_op(op).infer(*(value.type for value in inputs), **attrs)
        node = Node(op, inputs, attrs, (Value(type),), self.path, len(self.nodes))
        self.nodes.append(node)
        return node.output

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
        return Graph(
            tuple(self.inputs),
            tuple(self._params.values()),
            tuple(self.nodes),
            tuple(outputs),
            dict(self.layer_outputs),
        )

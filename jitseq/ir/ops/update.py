"""Ops that change a variable in place: optimizer updates, and assignment.

``(p, g, *state, numbers) -> (p, *state)``: a parameter, its gradient, arrays of the
same type, and a vector of run-time numbers enter; the new parameter and state leave,
in the memory of the old. ``assign(p, value)`` gives p a new value; ``gather_in(a, g,
numbers)`` adds ``numbers[0] g`` to a. Invariant: an update is the last reader of what
it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Update
from jitseq.ir.graph import Graph, Value
from jitseq.ir.op import REGISTRY, Example, Op, register
from jitseq.ir.scalar import NumpyScalars
from jitseq.ir.types import TensorType, require_float

UpdateExpr = Callable[..., tuple[Any, ...]]


def register_update(
    name: str, expr: UpdateExpr, states: int, numbers: int, *examples: Example
) -> str:
    """The op of ``expr(m, p, g, *state, *numbers, **flags) -> (p, *state)``.

    The same expression gets the same op; another one of that name gets a new name.
    """
    full, count = name, 1
    while full in REGISTRY:
        known = REGISTRY[full].compute
        if isinstance(known, Update) and known == Update(expr, states, numbers):
            return full
        count += 1
        full = f"{name}_{count}"

    def infer(*types: TensorType, **flags: bool) -> tuple[TensorType, ...]:
        """All arrays have one type; ``numbers`` is a vector."""
        p = types[0]
        require_float(*types, op=full)
        arrays, vectors = types[: 2 + states], types[2 + states :]
        expected = ((numbers,),) if numbers else ()
        if set(arrays) != {p} or tuple(v.shape for v in vectors) != expected:
            raise ShapeError(
                f"{full}: expects arrays of one type and {numbers} numbers",
                facts={f"input {i}": type for i, type in enumerate(types)},
            )
        return (p,) * (1 + states)

    def reference(*inputs: np.ndarray, **flags: bool) -> tuple[np.ndarray, ...]:
        arrays, vectors = inputs[: 2 + states], inputs[2 + states :]
        values = [number for vector in vectors for number in vector]
        with np.errstate(all="ignore"):
            updated = expr(NumpyScalars, *arrays, *values, **flags)
        return tuple(np.asarray(array, inputs[0].dtype) for array in updated)

    compute = Update(expr, states, numbers)
    register(Op(full, infer, reference, compute, examples=examples))
    return full


def changed_in_place(graph: Graph) -> dict[Value, Value]:
    """The outputs of updates, and the params whose memory they take."""
    changed: dict[Value, Value] = {}
    for node in graph.nodes:
        record = REGISTRY[node.op].compute if node.op in REGISTRY else None
        if isinstance(record, Update):
            variables = (node.inputs[0], *node.inputs[2 : 2 + record.states])
            changed.update(zip(node.outputs, variables, strict=True))
    return changed


ASSIGN = register_update(
    "assign", lambda m, p, g: (g,), 0, 0, Example(((3, 5), (3, 5))), Example(((), ()))
)
GATHER_IN = register_update(
    "gather_in",
    lambda m, a, g, share: (a + g * share,),
    0,
    1,
    Example(((3, 5), (3, 5), (1,))),
)

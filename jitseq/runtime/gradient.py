"""Eager gradients: `vjp` and `value_and_grad`, computed by the ops' references.

A target and arrays enter; results and a pullback leave. The target is traced for these
arrays, differentiated, and interpreted. Invariants: a pullback answers for the values
that inputs, parameters and random numbers had when it was made, however they change
later, and may be called any number of times; what it returns is the caller's own. A
call that fails changes no buffer, another one updates each once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, JitseqError, ShapeError
from jitseq.ir.graph import Value
from jitseq.ir.interpret import Environment, evaluate
from jitseq.ir.trace import Structure, Traced, trace
from jitseq.ir.types import FLOAT_DTYPES, TensorType, type_of
from jitseq.ir.variable import Variable
from jitseq.nn.foreign import call_with_tensors, is_torch_tensor, to_array
from jitseq.passes.autodiff import differentiate
from jitseq.runtime.training_checks import composed

Gradients = tuple[tuple[Any, ...], dict[str, np.ndarray]]
Pullback = Callable[[Any], Gradients]


def vjp(target: Callable[..., Any], *arrays: Any) -> tuple[Any, Pullback]:
    """The result of ``target(*arrays)``, and its vector-Jacobian product.

    Args:
        target: a module, or a function of arrays that calls modules and functionals.
        arrays: float32 or float64 arrays; others, such as labels, get no gradient.

    Returns:
        ``(out, pullback)``. ``pullback(cotangent)``, where the cotangent is built as
        ``out`` is, gives ``(input_grads, param_grads)``: a tuple with an array for
        each input (None for integers), and a dict with an array for each parameter
        that the target used and that has ``requires_grad``, by its name in
        ``state_dict()``.

    Raises:
        ShapeError, DtypeError: the target does not accept the arrays, or the
            pullback its cotangent.
        UnsupportedError: an operation has no gradient.

    What a call in training mode does to buffers happens once, before the return.
    """
    if any(map(is_torch_tensor, arrays)):
        result: tuple[Any, Pullback] = call_with_tensors(
            lambda *inputs: vjp(target, *inputs), arrays, {}
        )
        return result
    taped = _Taped(target, [to_array(array) for array in arrays])
    taped.update_buffers()
    return taped.result, taped.pullback


def value_and_grad(
    target: Callable[..., Any], loss: Callable[[Any, Any], Any]
) -> Callable[..., tuple[float, dict[str, np.ndarray]]]:
    """A function of ``(*inputs, y)`` that gives the loss and its parameter gradients.

    ``loss(target(*inputs), y)`` must be one number. Returns ``(value, param_grads)``
    with a float and a dict as in `vjp`; raises as `vjp`, and `ShapeError` for a loss
    that is not one number.
    """

    loss_of = composed(target, loss)

    def call(*arrays: Any) -> tuple[float, dict[str, np.ndarray]]:
        require_inputs_and_y(arrays)
        inputs = [to_array(array) for array in arrays]
        taped = _Taped(loss_of, inputs, inputs_too=False)
        value = taped.result
        if not isinstance(value, np.ndarray) or value.size != 1:
            raise not_one_number(type_of(value) if hasattr(value, "dtype") else value)
        _, gradients = taped.pullback(np.ones_like(value))
        taped.update_buffers()
        return float(value.item()), gradients

    return call


def require_inputs_and_y(arrays: Sequence[Any]) -> None:
    """Raise `JitseqError` for less than two arrays."""
    if len(arrays) < 2:
        raise JitseqError(
            f"value_and_grad: expects inputs and y, got {len(arrays)} arrays",
            hint="call value_and_grad(model, loss)(x, y)",
        )


def not_one_number(got: object) -> ShapeError:
    """What is raised for a loss that is several numbers."""
    return ShapeError(
        "value_and_grad: the loss must be one number",
        facts={"got": got},
        hint='use reduction="mean" or "sum"',
    )


class _Taped:
    """One call, with what its backward pass reads."""

    def __init__(
        self,
        target: Callable[..., Any],
        inputs: Sequence[np.ndarray],
        inputs_too: bool = True,
    ) -> None:
        traced = trace(target, [type_of(x) for x in inputs], dynamic_batch=False)
        self._count = len(inputs)
        self._structure = traced.structure
        self._results = traced.results
        self._names = trained_names(target, traced)
        own = traced.graph.inputs[: self._count]
        wrt = [v for v in own if inputs_too and _is_float(v)]
        wrt += [param for param in traced.graph.params if param.name in self._names]
        of = [value for value in self._results if _is_float(value)]
        self._joint = joint = differentiate(traced.graph, wrt, of)
        known = dict(zip(own, inputs, strict=True))
        known |= {value: source() for value, source in traced.feeds}
        known |= {p: traced.variables[p.name].numpy() for p in joint.graph.params}
        external = tuple(known)
        backward = joint.graph.nodes[joint.forward :]
        kept = {value for node in backward for value in node.inputs}
        kept.update(joint.gradients)
        evaluate(joint.graph.nodes[: joint.forward], known, {*kept, *joint.outputs})
        leaves = [np.array(known[value]) for value in self._results]
        self.result = self._structure.rebuild(leaves)
        self._updates = [
            (variable, np.array(known[value])) for variable, value in traced.updates
        ]
        self._counted = traced.counted
        self._saved: Environment = {v: known[v] for v in kept if v in known}
        for value in external:
            if value in self._saved:
                self._saved[value] = np.array(self._saved[value])

    def update_buffers(self) -> None:
        """Do what the call does to variables; the call has succeeded."""
        for variable, value in self._updates:
            variable.assign(value)
        for variable in self._counted:
            variable.assign(variable.numpy() + 1)

    def pullback(self, cotangent: Any) -> Gradients:
        """Gradients of the inputs in order, and of the parameters by name.

        A torch tensor as cotangent gives the gradients of the inputs as tensors.
        """
        if is_torch_tensor(cotangent):
            found: Gradients = call_with_tensors(self.pullback, (cotangent,), {})
            return found
        joint = self._joint
        leaves = leaves_of(self._structure, cotangent)
        given = checked_cotangents([v.type for v in self._results], leaves)
        known = dict(self._saved)
        known |= zip(joint.cotangents, given, strict=True)
        evaluate(joint.graph.nodes[joint.forward :], known, joint.gradients)
        of = {
            value: np.array(known[gradient])
            for value, gradient in zip(joint.wrt, joint.gradients, strict=True)
        }
        inputs = joint.graph.inputs[: self._count]
        params = {self._names[v.name]: g for v, g in of.items() if v not in inputs}
        return tuple(of.get(value) for value in inputs), params


def _is_float(value: Value) -> bool:
    return value.type.dtype in FLOAT_DTYPES


def trained_names(target: Callable[..., Any], traced: Traced) -> dict[str, str]:
    """Names in ``state_dict()`` of the params that require a gradient."""
    own = getattr(inspect.unwrap(target), "named_parameters", None)
    names = {} if own is None else {id(p): name for name, p in own()}
    trained: Mapping[str, Variable] = {
        name: v for name, v in traced.variables.items() if v.requires_grad
    }
    return {name: names.get(id(v), name) for name, v in trained.items()}


def leaves_of(structure: Structure, cotangent: Any) -> list[np.ndarray]:
    """The arrays of a cotangent that is built as the result is."""
    if structure.kind is None:
        return [to_array(cotangent)]
    parts = cotangent
    if structure.kind is dict and isinstance(cotangent, Mapping):
        parts = [cotangent.get(key) for key in structure.keys]
    fits = isinstance(parts, (tuple, list)) and len(parts) == len(structure.parts)
    if not fits or any(part is None for part in parts):
        raise ShapeError(
            "pullback: the cotangent must be built as the result is",
            facts={
                "got": type(cotangent).__name__,
                "expected": f"{structure.kind.__name__} of {len(structure.parts)}",
            },
            hint="give one array for each array of the result",
        )
    pairs = zip(structure.parts, parts, strict=True)
    return [leaf for part, item in pairs for leaf in leaves_of(part, item)]


def checked_cotangents(
    results: Sequence[TensorType], leaves: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The cotangents of the floating-point results, in their dtypes.

    Args:
        results: the types of all results of the call.
        leaves: an array for each of them.
    """
    found = []
    for type, leaf in zip(results, leaves, strict=True):
        if type.dtype not in FLOAT_DTYPES:
            continue
        if leaf.dtype.kind not in "biuf":
            raise DtypeError(
                f"pullback: the cotangent cannot be {leaf.dtype}",
                facts={"expected": type},
                hint="give real numbers",
            )
        if leaf.shape != type.shape:
            raise ShapeError(
                "pullback: the cotangent needs the shape of the result",
                facts={"got": type_of(leaf), "expected": type},
                hint="np.ones_like(out) is the cotangent of out.sum()",
            )
        found.append(leaf.astype(type.dtype, copy=False))
    return found

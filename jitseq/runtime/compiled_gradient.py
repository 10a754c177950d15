"""Compiled gradients: pullbacks, and losses with their gradients.

The programs of a compiled callable and arrays enter; what `jitseq.runtime.gradient`
gives leaves. A pullback is one program that computes the forward values again, block
by block, so that they stay in cache until its backward part reads them. Invariant: a
pullback answers for the inputs, parameters and random numbers of its call, and changes
no variable.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jitseq.ir.graph import Graph, Value
from jitseq.ir.trace import Structure, Traced
from jitseq.ir.types import FLOAT_DTYPES, TensorType
from jitseq.nn.foreign import call_with_tensors, is_torch_tensor
from jitseq.passes.autodiff import differentiate
from jitseq.passes.simplify import drop_dead, simplify
from jitseq.runtime import gradient
from jitseq.runtime.arguments import readable_all
from jitseq.runtime.fed import concrete
from jitseq.runtime.gradient import Gradients, Pullback
from jitseq.runtime.programs import Programs
from jitseq.runtime.runnable import Runnable
from jitseq.runtime.training_checks import composed

if TYPE_CHECKING:
    from jitseq.runtime.compiled import Compiled


def vjp(
    programs: Programs, inputs: Sequence[np.ndarray], threads: int
) -> tuple[Any, Pullback]:
    """As `jitseq.runtime.gradient.vjp`, for contiguous arrays that are not empty."""
    program = programs.find(inputs)
    traced, names = program.traced, program.names
    joint = programs.joint(program, _backward)
    packed = joint.bound.snapshot()  # before the call moves a buffer
    copies = [np.array(array) for array in inputs]
    outputs, feeds = programs.run(program, inputs, threads)
    n = program.bound.batch(inputs)
    own = traced.graph.inputs[: len(inputs)]
    kept = _Pulled(
        joint,
        packed,
        [*copies, *feeds],
        [value.type.dtype in FLOAT_DTYPES for value in own],
        list(names.values()),
        traced.structure,
        [concrete(value.type, n) for value in traced.results],
        threads,
    )
    return traced.structure.rebuild(list(outputs)), kept.pullback


class _Pulled:
    """One call, with what its gradients depend on."""

    def __init__(
        self,
        joint: Runnable,
        packed: Any,
        given: Sequence[np.ndarray],
        wanted: Sequence[bool],
        names: Sequence[str],
        structure: Structure,
        results: Sequence[TensorType],
        threads: int,
    ) -> None:
        self._joint = joint
        self._packed = packed
        self._given = given
        self._wanted = wanted
        self._names = names
        self._structure = structure
        self._results = results
        self._threads = threads

    def pullback(self, cotangent: Any) -> Gradients:
        """Gradients of the inputs in order, and of the parameters by name.

        A torch tensor as cotangent gives the gradients of the inputs as tensors.
        """
        if is_torch_tensor(cotangent):
            found: Gradients = call_with_tensors(self.pullback, (cotangent,), {})
            return found
        leaves = gradient.leaves_of(self._structure, cotangent)
        cotangents = gradient.checked_cotangents(self._results, leaves)
        given = [*self._given, *(np.require(g, None, ("C", "A")) for g in cotangents)]
        gradients = iter(self._joint.run(given, self._threads, packed=self._packed))
        inputs = tuple(next(gradients) if want else None for want in self._wanted)
        return inputs, dict(zip(self._names, gradients, strict=True))


def _backward(traced: Traced, names: Mapping[str, str]) -> Graph:
    """Gradients of the results; behind the inputs of the trace come cotangents."""
    own = traced.graph.inputs[: len(traced.graph.inputs) - len(traced.feeds)]
    wrt = [value for value in own if value.type.dtype in FLOAT_DTYPES]
    wrt += _params(traced, names)
    graph = traced.graph.replace(traced.graph.nodes, outputs=traced.results)
    joint = differentiate(simplify(drop_dead(graph)), wrt)
    return drop_dead(replace(joint.graph, outputs=joint.gradients))


def _params(traced: Traced, names: Mapping[str, str]) -> list[Value]:
    return [param for param in traced.graph.params if param.name in names]


class _LossPrograms(Programs):
    """Programs whose results are a loss and the gradients of the parameters."""

    def _require(self, traced: Traced) -> None:
        super()._require(traced)
        loss = traced.graph.outputs[0].type
        if traced.structure.kind is not None:
            raise gradient.not_one_number("several arrays")
        if any(extent != 1 for extent in loss.shape):
            raise gradient.not_one_number(loss)

    def _text(self, traced: Traced, names: Mapping[str, str]) -> str:
        return "\n".join([*names, super()._text(traced, names)])

    def _graph(self, traced: Traced, names: Mapping[str, str]) -> Graph:
        graph = simplify(drop_dead(traced.graph))
        loss = graph.outputs[:1]
        joint = differentiate(graph, _params(traced, names), of=loss, seed=1.0)
        new_values = joint.outputs[1:]
        return replace(
            joint.graph, outputs=(joint.outputs[0], *joint.gradients, *new_values)
        )


def value_and_grad(
    compiled: Compiled, loss: Callable[[Any, Any], Any]
) -> Callable[..., tuple[float, dict[str, np.ndarray]]]:
    """As `jitseq.runtime.gradient.value_and_grad`, with the options of ``compiled``.

    ``cache_info()`` of the function that is returned says what became of its calls.
    """
    target = compiled.target
    eagerly = gradient.value_and_grad(target, loss)
    refresh = getattr(target, "refresh", None)
    programs = _LossPrograms(
        _one_number(composed(target, loss)),
        f"loss of {compiled.__name__}",
        bool(compiled.options["dynamic_batch"]),
        frozenset(compiled.options["disable_passes"]),
        compiled.backend,
    )

    def call(*arrays: Any) -> tuple[float, dict[str, np.ndarray]]:
        gradient.require_inputs_and_y(arrays)
        inputs = readable_all(arrays)
        if refresh is not None:
            refresh()
        if compiled.runs_eagerly() or not all(array.size for array in inputs):
            return eagerly(*inputs)
        program = programs.find(inputs)
        (value, *gradients), _ = programs.run(program, inputs, compiled.threads)
        names = program.names.values()
        return float(value.item()), dict(zip(names, gradients, strict=True))

    call.cache_info = programs.counts.info  # type: ignore[attr-defined]
    return call


def _one_number(loss_of: Callable[..., Any]) -> Callable[..., Any]:
    """The same; a loss with a batch is traced for the present size, which may be 1."""

    def checked(*arrays: Any) -> Any:
        value = loss_of(*arrays)
        if getattr(value, "shape", ()):
            operator.index(value.shape[0])
        return value

    checked.__wrapped__ = loss_of  # type: ignore[attr-defined]
    if hasattr(loss_of, "named_modules"):
        checked.named_modules = loss_of.named_modules  # type: ignore[attr-defined]
    return checked

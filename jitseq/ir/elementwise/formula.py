"""Ops made of functions that users write.

A Python function enters; leaves a `Definition`, and from it an op and one more for each
derivative, registered under names that appear in graphs. Invariant: a name belongs to
one meaning for ever, since graphs that exist hold it: a different function of the same
name is registered as ``name_2``, an equal one finds the op that is there. Redefining a
function at module level asks compiled programs to be traced again.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, reduce
from types import FunctionType
from typing import Any

import numpy as np

from jitseq.errors import JitseqError, UnsupportedError
from jitseq.ir.compute import Pointwise
from jitseq.ir.elementwise.definition import Definition, place_of
from jitseq.ir.elementwise.derivative import derivative, times
from jitseq.ir.elementwise.parse import parse
from jitseq.ir.elementwise.term import (
    Step,
    Term,
    TypedScalars,
    attribute,
    const,
    evaluate,
    is_const,
    leaf_names,
    steps,
    substitute,
    text,
    variable,
)
from jitseq.ir.graph import Node, Value
from jitseq.ir.op import REGISTRY, Cotangents, Emit, Op, Vjp, register
from jitseq.ir.ops.checks import result_type
from jitseq.ir.ops.cotangent import unbroadcast
from jitseq.ir.ops.pointwise import broadcast_shape
from jitseq.ir.types import Shape, TensorType, require_float
from jitseq.ir.variable import advance_epoch

COTANGENT = "cotangent of the result"
"""An input of derivatives; no parameter can have this name."""


@dataclass(frozen=True, eq=False)
class Formula:
    """A term as an op's expression: ``formula(m, *inputs, **attributes)``."""

    term: Term
    inputs: tuple[str, ...]

    @cached_property
    def meaning(self) -> str:
        """What the disk cache knows it by."""
        return f"({', '.join(self.inputs)}) {text(self.term)}"

    def __call__(self, m: Any, *inputs: Any, **attributes: float) -> Any:
        numbers = tuple((name, repr(value)) for name, value in attributes.items())
        program = _program(self, numbers)
        return evaluate(program, m, dict(zip(self.inputs, inputs, strict=True)))


@lru_cache(maxsize=512)
def _program(
    formula: Formula, numbers: tuple[tuple[str, str], ...]
) -> tuple[Step, ...]:
    """The steps for known attributes, which are constants then; 0 is not -0."""
    leaves = {name: const(float(number)) for name, number in numbers}
    return steps(substitute(formula.term, leaves))


def define(
    function: Callable[..., Any], derivatives: Callable[..., Any] | None = None
) -> Definition:
    """Parse a function, and the one that returns its derivatives.

    ``derivatives`` has the same positional parameters and returns a number for each;
    where it is None they are derived from the function.

    Raises:
        UnsupportedError: there is no source, or a construct has no form in kernels.
        JitseqError: something else than a Python function, or parameters do not fit.
    """
    function = _checked(function, "elementwise")
    name = re.sub(r"\W", "_", function.__name__.strip("<>"), flags=re.ASCII)
    signature = inspect.signature(function)
    inputs = _checked_inputs(name, signature)
    leaves = _leaves(signature)
    try:
        (value,) = parse(function, name, leaves)
        if derivatives is None:
            partials = tuple(derivative(value, item) for item in inputs)
        else:
            partials = _given(name, leaves, inputs, derivatives)
    except RecursionError:
        raise UnsupportedError(
            f"elementwise {name}: its expressions are nested too deeply",
            hint="split it into several functions, called one after the other",
        ) from None
    given = derivatives is not None
    return Definition(name, place_of(function), signature, value, partials, given)


def _checked(function: Callable[..., Any], what: str) -> FunctionType:
    if isinstance(function, FunctionType):
        return function
    raise JitseqError(
        f"{what}: a {type(function).__name__} is not a Python function",
        hint="decorate a function of numbers that is written with def",
    )


def _checked_inputs(name: str, signature: inspect.Signature) -> tuple[str, ...]:
    parameters = signature.parameters.values()
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise UnsupportedError(
                f"elementwise {name}: {p} takes any number of arguments",
                hint="name each argument",
            )
        if p.default is not p.empty and not _is_default(p):
            raise UnsupportedError(
                f"elementwise {name}: the default of {p.name} is no number",
                facts={"got": repr(p.default)},
                hint="defaults are ints or floats, of the size of float64",
            )
    inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    if not inputs:
        raise UnsupportedError(
            f"elementwise {name}: it has no argument for an array",
            hint="arguments before the * are arrays, those behind it numbers",
        )
    return inputs


def _is_default(parameter: inspect.Parameter) -> bool:
    """Whether an array's default is a number, and that of a number is one or a flag."""
    default = parameter.default
    if isinstance(default, bool):
        return parameter.kind is parameter.KEYWORD_ONLY
    try:
        return isinstance(default, (int, float)) and isinstance(float(default), float)
    except OverflowError:
        return False


def _leaves(signature: inspect.Signature) -> dict[str, Term]:
    return {
        p.name: attribute(p.name) if p.kind is p.KEYWORD_ONLY else variable(p.name)
        for p in signature.parameters.values()
    }


def _given(
    name: str,
    leaves: dict[str, Term],
    inputs: tuple[str, ...],
    derivatives: Callable[..., Any],
) -> tuple[Term, ...]:
    """The terms of a user's derivatives; its inputs are matched by position."""
    function = _checked(derivatives, f"elementwise {name}: derivative")
    signature = inspect.signature(function)
    own = _checked_inputs(f"{name}: derivative", signature)
    others = _leaves(signature).keys() - set(own)
    if len(own) != len(inputs) or not others <= leaves.keys() - set(inputs):
        raise JitseqError(
            f"elementwise {name}: its derivative takes other arguments",
            facts={"function": ", ".join(leaves), "derivative": str(signature)},
            hint="give it the same ones",
        )
    matched = {**leaves, **{mine: leaves[i] for mine, i in zip(own, inputs)}}
    known = {key: matched[key] for key in (*own, *others)}
    partials = parse(function, f"{name}: derivative", known, several=True)
    if len(partials) != len(inputs):
        raise JitseqError(
            f"elementwise {name}: its derivative returns {len(partials)} numbers",
            facts={"arguments": ", ".join(inputs)},
            hint="return one for each argument before the *",
        )
    return partials


_LOCK = threading.RLock()
_op_of_meaning: dict[str, Op] = {}
_meaning_at: dict[tuple[str, str], str] = {}


def op_of(definition: Definition) -> Op:
    """The op of a definition, registered on first use; equal ones share it."""
    meaning = definition.meaning
    with _LOCK:
        known = _op_of_meaning.get(meaning)
        if known is None or REGISTRY.get(known.name) is not known:
            known = _op_of_meaning[meaning] = _registered(definition)
    return known


def announce(definition: Definition) -> None:
    """A function was defined: if another one had its name, programs look again.

    Functions inside of functions are made anew at each call; they replace nothing.
    """
    place, meaning = definition.place, definition.meaning
    if "<locals>" in place[1]:
        return
    with _LOCK:
        replaced = _meaning_at.get(place, meaning) != meaning
        _meaning_at[place] = meaning
    if replaced:
        advance_epoch()


def _registered(definition: Definition) -> Op:
    name, count = definition.name, 1
    while not REGISTRY.keys().isdisjoint((name, *_gradient_names(name, definition))):
        count += 1
        name = f"{definition.name}_{count}"
    vjp = _vjp(name, definition)
    return register(_op(name, definition.value, definition.inputs, vjp))


def _gradient_names(name: str, definition: Definition) -> list[str]:
    """One for each input; letters that kernels' names cannot have become numbers."""
    inputs = definition.inputs
    if len(inputs) == 1:
        return [f"{name}_grad"]
    labels = inputs if all(map(str.isascii, inputs)) else range(len(inputs))
    return [f"{name}_{label}_grad" for label in labels]


def _op(name: str, term: Term, inputs: tuple[str, ...], vjp: Vjp | None) -> Op:
    formula = Formula(term, inputs)
    return Op(
        name,
        partial(_infer, name),
        partial(_reference, formula),
        Pointwise(formula),
        vjp=vjp,
        derived=vjp is None,
    )


def _infer(name: str, *types: TensorType, **attributes: float) -> TensorType:
    """The type after broadcasting."""
    require_float(*types, op=name)

    def joined(x: TensorType, y: TensorType) -> TensorType:
        shape: Shape = broadcast_shape(name, x, y)
        return result_type(name, x, shape)

    return reduce(joined, types)


def _reference(
    formula: Formula, *inputs: np.ndarray, **attributes: float
) -> np.ndarray:
    """The formula over NumPy arrays: a new array of their dtype and joint shape."""
    dtype = inputs[0].dtype
    with np.errstate(all="ignore"):
        result = formula(TypedScalars(dtype), *inputs, **attributes)
    made = np.asarray(result, dtype)
    shape = inputs[0].shape
    if len(inputs) > 1:
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
    if made.shape == shape and not any(made is x for x in inputs):
        return made
    return np.broadcast_to(made, shape).copy()


def _vjp(name: str, definition: Definition) -> Vjp:
    """Cotangents of the inputs, and the ops that compute them."""
    names = _gradient_names(name, definition)
    reads: list[tuple[int, ...]] = []
    for op, term in zip(names, definition.partials):
        read = leaf_names(term)
        used = [i for i, item in enumerate(definition.inputs) if item in read]
        inputs = (COTANGENT, *(definition.inputs[i] for i in used))
        reads.append(tuple(used))
        if not is_const(term, 0) and not is_const(term, 1):
            register(_op(op, times(variable(COTANGENT), term), inputs, None))

    def vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
        (g,) = cotangents
        assert g is not None
        found: list[Value | None] = []
        for op, term, used, x in zip(names, definition.partials, reads, node.inputs):
            if is_const(term, 0):
                found.append(None)
                continue
            own = g
            if not is_const(term, 1):
                own = emit(op, g, *(node.inputs[i] for i in used), **node.attrs)
            found.append(unbroadcast(emit, own, x.type))
        return tuple(found)

    return vjp

"""Scalar expressions as trees, and how they are evaluated over any namespace.

Terms enter, built one function at a time; leave the steps that compute them, each
distinct subexpression once, and a text that means the same to every process. Invariant:
what does not depend on an input is a constant, computed in float64; no rule here
changes a value, not even the sign of a zero.

A condition is a term too, a comparison or `isnan`, and only the first operand of a
``where`` may be one. ``custom`` is its first operand: the others are what a user says
of its derivative (see `jitseq.ir.elementwise.derivative`).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.ir.scalar import NumpyScalars

ARITHMETIC = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "div": operator.truediv, "neg": operator.neg,
}  # fmt: skip
LEAVES = ("const", "input", "attribute")


@dataclass(frozen=True, eq=False)
class Term:
    """A function of terms, or a leaf: a number, or the name of what a call gives."""

    op: str
    args: tuple[Term, ...] = ()
    value: float | str | None = None


def const(value: float) -> Term:
    return Term("const", value=float(value))


def variable(name: str) -> Term:
    """An input: an array's element."""
    return Term("input", value=name)


def attribute(name: str) -> Term:
    """A number that is known when kernels are made."""
    return Term("attribute", value=name)


def is_const(term: Term, value: float | None = None) -> bool:
    """Whether it is a number, or ``value``; -0 is 0."""
    return term.op == "const" and value in (None, term.value)


def make(op: str, *args: Term) -> Term:
    """``op`` of terms; a number where it can be known."""
    if op == "where":
        return _where(*args)
    if op != "custom" and all(map(is_const, args)):
        return const(_folded(op, [term.value for term in args]))
    return Term(op, args)


def _where(mask: Term, yes: Term, no: Term) -> Term:
    if is_const(mask):
        return yes if mask.value else no
    same = is_const(yes) and is_const(no) and repr(yes.value) == repr(no.value)
    return yes if yes is no or same else Term("where", (mask, yes, no))


def _folded(op: str, values: Sequence[Any]) -> float:
    numbers = [np.float64(value) for value in values]
    with np.errstate(all="ignore"):
        return float(_function(op, NumpyScalars)(*numbers))


def _function(op: str, m: Any) -> Any:
    return ARITHMETIC.get(op) or getattr(m, op)


def substitute(term: Term, leaves: Mapping[str, Term]) -> Term:
    """The term with other terms in place of inputs and attributes of these names."""
    done: dict[Term, Term] = {}

    def replaced(term: Term) -> Term:
        if term not in done:
            done[term] = made(term)
        return done[term]

    def made(term: Term) -> Term:
        if term.op in LEAVES:
            return leaves.get(str(term.value), term) if term.op != "const" else term
        return make(term.op, *map(replaced, term.args))

    return replaced(term)


def leaf_names(term: Term) -> set[str]:
    """Inputs and attributes that the value depends on."""
    return {str(step.value) for step in steps(term) if step.op in LEAVES[1:]}


@dataclass(frozen=True)
class Step:
    """One operation; ``args`` are the numbers of earlier steps."""

    op: str
    args: tuple[int, ...]
    value: float | str | None


def steps(term: Term) -> tuple[Step, ...]:
    """What computes a term, operands first; equal subexpressions are one step.

    The last step is the result.
    """
    found: dict[tuple[str, tuple[int, ...], str], int] = {}
    order: list[Step] = []
    known: dict[Term, int] = {}

    def place(term: Term) -> int:
        if term.op == "custom":
            return place(term.args[0])
        if term not in known:
            args = tuple(map(place, term.args))
            key = (term.op, args, repr(term.value))
            if key not in found:
                found[key] = len(order)
                order.append(Step(term.op, args, term.value))
            known[term] = found[key]
        return known[term]

    place(term)
    return tuple(order)


def evaluate(program: Sequence[Step], m: Any, inputs: Mapping[str, Any]) -> Any:
    """The last step's value over the namespace ``m``; without attributes."""
    results: list[Any] = []
    for step in program:
        if step.op == "const":
            results.append(step.value)
        elif step.op == "input":
            results.append(inputs[str(step.value)])
        else:
            operands = (results[i] for i in step.args)
            results.append(_function(step.op, m)(*operands))
    return results[-1]


def text(term: Term) -> str:
    """One line that is equal for terms with equal steps, and for no others."""
    return "; ".join(
        f"{step.op} {step.value!r}"
        if step.op in LEAVES
        else f"{step.op} {' '.join(map(str, step.args))}"
        for step in steps(term)
    )


class TypedScalars:
    """The namespace over NumPy arrays where numbers have the arrays' dtype."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def where(self, mask: Any, a: Any, b: Any) -> Any:
        yes, no = np.asarray(a, self.dtype), np.asarray(b, self.dtype)
        return NumpyScalars.where(mask, yes, no)

    def __getattr__(self, name: str) -> Any:
        return getattr(NumpyScalars, name)

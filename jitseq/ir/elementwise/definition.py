"""What an elementwise function is: a term for its value, terms for its derivatives.

Invariant: names in the terms are those of the signature. Positional parameters are
inputs, elements of arrays; keyword-only parameters are attributes, numbers that are
known when kernels are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jitseq.ir.elementwise.term import Term, const, make, substitute, text


@dataclass(frozen=True, eq=False)
class Definition:
    """One function.

    ``name``      as in Python, made of letters that kernels' names may have
    ``place``     module and qualified name, by which it is found again
    ``value``     the result
    ``partials``  the derivative to each input
    ``given``     whether the author wrote the partials
    """

    name: str
    place: tuple[str, str]
    signature: inspect.Signature
    value: Term
    partials: tuple[Term, ...]
    given: bool

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(p.name for p in self._parameters(False))

    @cached_property
    def attributes(self) -> dict[str, float | None]:
        """Attributes and their defaults; None where there is none."""
        return {
            p.name: None if p.default is p.empty else float(p.default)
            for p in self._parameters(True)
        }

    def _parameters(self, keyword_only: bool) -> list[inspect.Parameter]:
        return [
            p
            for p in self.signature.parameters.values()
            if (p.kind is p.KEYWORD_ONLY) == keyword_only
        ]

    @cached_property
    def meaning(self) -> str:
        """Equal for functions that compute the same from parameters of equal names."""
        terms = (self.value, *self.partials)
        return f"{self.name}{self.signature} = {' | '.join(map(text, terms))}"

    def at(self, inputs: Sequence[Term], named: Mapping[str, Term]) -> Term:
        """The value for other terms; raises TypeError as a call would.

        Where the author wrote the derivative, the term carries it along.
        """
        bound = self.signature.bind(*inputs, **named)
        bound.apply_defaults()
        leaves = {
            name: value if isinstance(value, Term) else const(value)
            for name, value in bound.arguments.items()
        }
        value = substitute(self.value, leaves)
        if not self.given:
            return value
        partials = (substitute(partial, leaves) for partial in self.partials)
        return make("custom", value, *(leaves[name] for name in self.inputs), *partials)


def place_of(function: object) -> tuple[str, str]:
    """Module and qualified name."""
    return str(getattr(function, "__module__", "")), function.__qualname__  # type: ignore[attr-defined]

"""`elementwise`: a user's function of numbers becomes an op; and a layer that calls it.

A Python function enters, once; leaves a function of arrays that computes eagerly, is
traced, fuses and differentiates like any other pointwise op. Invariant: its body never
runs in Python; what a call computes is fixed when the function is decorated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from jitseq.ir.elementwise.check import check_derivatives
from jitseq.ir.elementwise.formula import announce, define, op_of
from jitseq.ir.op import REGISTRY, Op
from jitseq.ir.tracer import apply
from jitseq.nn.functional.arguments import Array, OptionError, operand
from jitseq.nn.module import Module

Scalar = Callable[..., Any]


class ElementwiseFunction:
    """What `elementwise` makes of a function; called like it, on arrays.

    ``definition`` says what it computes.
    """

    __name__: str
    __qualname__: str

    def __init__(
        self, function: Scalar, derivative: Scalar | None = None, check: bool = True
    ) -> None:
        self.definition = define(function, derivative)
        functools.update_wrapper(self, function)
        defaults = self.definition.attributes
        self._count = len(self.definition.inputs)
        self._defaults = {k: v for k, v in defaults.items() if v is not None}
        self._complete = len(self._defaults) == len(defaults)
        if derivative is not None and check and self._complete:
            self.check()
        self._op: Op | None = None
        announce(self.definition)

    @property
    def op(self) -> str:
        """The name of its op in graphs, which is registered on first use."""
        op = self._op
        if op is None or REGISTRY.get(op.name) is not op:
            op = self._op = op_of(self.definition)
        return op.name

    def __call__(self, *inputs: Array, **named: Any) -> Any:
        """The function of each element.

        Args:
            inputs: arrays or numbers, one for each parameter before the ``*``; they
                broadcast. All arrays are float32, or all float64.
            named: parameters by name; those behind the ``*`` are numbers.

        Returns:
            An array of the inputs' dtype and of their joint shape.

        Raises:
            ShapeError: shapes do not broadcast.
            DtypeError: integers, or dtypes that differ.
            OptionError: a parameter behind the ``*`` is no number.
            TypeError: arguments do not fit the signature.
        """
        attributes = self._defaults
        if named or len(inputs) != self._count or not self._complete:
            inputs, attributes = self._bound(inputs, named)
        return apply(self.op, *map(_number_or_operand, inputs), **attributes)

    def _bound(
        self, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, float]]:
        try:
            bound = self.definition.signature.bind(*inputs, **named)
        except TypeError as error:
            raise TypeError(f"{self.__name__}(): {error}") from None
        bound.apply_defaults()
        return bound.args, {k: self.number(k, v) for k, v in bound.kwargs.items()}

    def number(self, name: str, value: Any) -> float:
        """An attribute's value as a float; raises `OptionError`."""
        if name not in self.definition.attributes:
            raise OptionError(
                f"{self.__name__}: there is no number {name!r} behind the *",
                facts={"signature": self.definition.signature},
            )
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise OptionError(
                f"{self.__name__}: {name} must be a number",
                facts={"got": type(value).__name__},
                hint="arrays are for the parameters before the *",
            )
        try:
            return float(value)
        except OverflowError:
            raise OptionError(f"{self.__name__}: {name} is too large") from None

    def check(self, **attributes: float) -> None:
        """Compare the derivatives with finite differences, in float64.

        Args:
            attributes: numbers for the parameters behind the ``*``; defaults otherwise.

        Raises:
            JitseqError: a derivative disagrees, or could be checked nowhere.
            OptionError: an attribute is unknown, missing or no number.
        """
        numbers = {
            **self._defaults,
            **{k: self.number(k, v) for k, v in attributes.items()},
        }
        missing = self.definition.attributes.keys() - numbers.keys()
        if missing:
            raise OptionError(
                f"{self.__name__}: check needs numbers for {', '.join(sorted(missing))}"
            )
        check_derivatives(self.definition, numbers)

    def __repr__(self) -> str:
        return f"<elementwise {self.__name__}{self.definition.signature}>"

    def __reduce__(self) -> str:
        """By name, as functions are."""
        return self.__qualname__


def _number_or_operand(x: Any) -> Any:
    is_number = isinstance(x, (int, float)) and not isinstance(x, bool)
    return x if is_number else operand(x)


@overload
def elementwise(
    function: Scalar, *, derivative: Scalar | None = None, check: bool = True
) -> ElementwiseFunction: ...
@overload
def elementwise(
    function: None = None, *, derivative: Scalar | None = None, check: bool = True
) -> Callable[[Scalar], ElementwiseFunction]: ...
def elementwise(
    function: Scalar | None = None,
    *,
    derivative: Scalar | None = None,
    check: bool = True,
) -> ElementwiseFunction | Callable[[Scalar], ElementwiseFunction]:
    """Make an op of a Python function of numbers; a decorator.

    Args:
        function: parameters before a ``*`` are elements of arrays, those behind it
            numbers that stay the same in a kernel. Its body has arithmetic, ``if``,
            comparisons, assignments, and functions of ``math`` and NumPy.
        derivative: a function of the same parameters that returns the derivative to
            each parameter before the ``*``, a tuple for several; derived from
            ``function`` when None.
        check: whether ``derivative`` is compared with finite differences, now where
            all numbers have defaults; False for a gradient that is another one on
            purpose. `ElementwiseFunction.check` compares later.

    Raises:
        UnsupportedError: there is no source, or a construct has no form in kernels;
            names the line.
        JitseqError: ``derivative`` disagrees, or its parameters differ.

    >>> @elementwise
    ... def leaky(x, *, slope=0.1):
    ...     return x if x > 0 else slope * x
    >>> leaky(np.array([-1.0, 2.0]), slope=0.5)
    array([-0.5,  2. ])
    """

    def decorated(function: Scalar) -> ElementwiseFunction:
        return ElementwiseFunction(function, derivative, check)

    return decorated if function is None else decorated(function)


class Elementwise(Module):
    """Calls an elementwise function, with its numbers as attributes of the layer.

    Raises `OptionError` for what `elementwise` has not made, and for numbers that the
    function lacks or that the layer cannot hold under their names.
    """

    def __init__(self, function: ElementwiseFunction, **attributes: float) -> None:
        super().__init__()
        if not isinstance(function, ElementwiseFunction):
            raise OptionError(
                "Elementwise needs a function made by jitseq.elementwise",
                facts={"got": type(function).__name__},
            )
        self.function = function
        known = function.definition.attributes
        numbers = {name: value for name, value in known.items() if value is not None}
        numbers.update({k: function.number(k, v) for k, v in attributes.items()})
        for name in known:
            if name not in numbers:
                raise OptionError(f"{function.__name__}: {name} has no default")
            if hasattr(self, name):
                raise OptionError(f"a layer cannot hold a number named {name!r}")
            setattr(self, name, numbers[name])

    def forward(self, *inputs: Array) -> Array:
        numbers = {k: getattr(self, k) for k in self.function.definition.attributes}
        return self.function(*inputs, **numbers)

    def extra_repr(self) -> str:
        known = self.function.definition.attributes
        numbers = [f"{name}={getattr(self, name)}" for name in known]
        return ", ".join([self.function.__name__, *numbers])

"""Parameters and buffers: the variables that a module owns.

Arrays enter, named state leaves. Invariant: the value is read through read-only
views and changed only through `Variable`'s methods, so that compiled programs see
every change; while a function is traced the value cannot be read at all, because
the program would keep it for ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import DtypeError, TraceError, UnsupportedError
from jitseq.ir.builder import active_builder
from jitseq.ir.tracer import UFUNCS, apply
from jitseq.ir.variable import Variable, advance_epoch
from jitseq.nn.foreign import to_array


def _owned(value: Any) -> np.ndarray:
    """The array of ``value``; Python numbers and lists of them become float32."""
    array = to_array(value)
    plain = isinstance(value, (float, list, tuple))
    return array.astype(np.float32) if plain and array.dtype == np.float64 else array


class _ModuleVariable(Variable):
    """A variable that takes part in arithmetic as an array does."""

    def _refuse_while_traced(self) -> None:
        if active_builder() is not None:
            raise TraceError(
                "the traced function reads the value of a parameter",
                facts={"shape": self.shape},
                hint="compute on the parameter itself with jitseq.nn.functional or "
                "+ - * /, so that the program follows its later values",
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._refuse_while_traced()
        return super().__array__(dtype, copy)

    def __getitem__(self, key: Any) -> Any:
        self._refuse_while_traced()
        return super().__getitem__(key)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, **options: Any
    ) -> Any:
        if any(isinstance(x, Variable) for x in options.get("out", ())):
            raise UnsupportedError(
                f"np.{ufunc.__name__} with a parameter as its output",
                hint="assign instead: parameter[...] = value",
            )
        if active_builder() is None:
            arrays = [x.numpy() if isinstance(x, Variable) else x for x in inputs]
            return getattr(ufunc, method)(*arrays, **options)
        op = UFUNCS.get(ufunc.__name__)
        if op is None or method != "__call__" or options:
            raise UnsupportedError(
                f"np.{ufunc.__name__} on a parameter while a function is traced",
                hint=f"use jitseq.nn.functional, or one of np.{', np.'.join(UFUNCS)}",
            )
        return apply(op, *inputs)

    def __add__(self, other: Any) -> Any:
        return apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return apply("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return apply("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return apply("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return apply("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return apply("div", other, self)

    def __neg__(self) -> Any:
        return apply("neg", self)


class Parameter(_ModuleVariable):
    """A trained array. ``value`` is copied; Python numbers become float32.

    ``grad`` is ``None`` or an array of the parameter's shape and dtype. Raises
    `DtypeError` when a parameter that is not floating point requires a gradient.
    """

    def __init__(self, value: Any, requires_grad: bool = True) -> None:
        array = _owned(value)
        if requires_grad and array.dtype.kind != "f":
            raise DtypeError(
                f"a parameter that requires a gradient cannot be {array.dtype.name}",
                hint="use floating point, requires_grad=False, or nn.Buffer",
            )
        super().__init__(array, requires_grad)
        self.grad: np.ndarray | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether training computes ``grad`` and updates this parameter."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self._requires_grad = bool(flag)
        advance_epoch()

    def requires_grad_(self, flag: bool = True) -> Parameter:
        """Set ``requires_grad`` and return this parameter."""
        self.requires_grad = flag
        return self

    def cast(self, dtype: Any) -> None:
        """Convert value and gradient in place to another dtype."""
        super().cast(dtype)
        self.grad = None if self.grad is None else self.grad.astype(dtype)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{self.numpy()!r}"


class Buffer(_ModuleVariable):
    """State that is saved and moved with a module, but not trained.

    A buffer that is not ``persistent`` is left out of the module's ``state_dict``.
    """

    def __init__(self, value: Any, persistent: bool = True) -> None:
        super().__init__(_owned(value))
        self.persistent = persistent

    def __repr__(self) -> str:
        return f"Buffer containing:\n{self.numpy()!r}"

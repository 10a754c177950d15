"""`Tracer`, the stand-in for an array while a function is traced, and `apply`.

``apply(op, *inputs, **attrs)`` is the one door through which layers and functionals
compute: on arrays it checks types and runs the op's NumPy reference (eager mode); as
soon as one input is a tracer it appends a node to the active builder.
"""

from __future__ import annotations

import operator
from typing import Any, NoReturn

import numpy as np

from jitseq.errors import DtypeError, ShapeError, TraceError, UnsupportedError
from jitseq.ir.builder import active_builder
from jitseq.ir.graph import Value
from jitseq.ir.op import get_op
from jitseq.ir.types import type_of
from jitseq.ir.variable import Variable


def as_array(x: Any) -> np.ndarray:
    """An ndarray of native byte order from anything with ``__array__``/``__dlpack__``.

    Nested lists become what ``np.asarray`` makes of them: float64 or int64.

    Raises:
        DtypeError: ``x`` holds anything but numbers.
        ShapeError: rows of a nested list differ in length.
    """
    if isinstance(x, Variable):
        return x.numpy()
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
            x = np.from_dlpack(x)
        else:
            x = _from_nested(x)
    if x.dtype.kind not in "biufc":
        what = "Python objects" if x.dtype == object else f"dtype {x.dtype}"
        raise DtypeError(
            f"an array of {what} cannot be computed on",
            hint="make an array of numbers: np.asarray(x, dtype=np.float32)",
        )
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    return np.asarray(x)  # a masked array or matrix is computed on as an array


def _from_nested(x: Any) -> np.ndarray:
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ShapeError(
            f"a {type(x).__name__} that is not an array: {error}",
            hint="all rows need the same length",
        ) from None


def apply(op: str, *inputs: Any, **attrs: Any) -> Any:
    """Apply a primitive to arrays, variables or tracers."""
    if any(isinstance(x, Tracer) for x in inputs) or _reads_variable(inputs):
        return _trace(op, inputs, attrs)
    record = get_op(op)
    arrays = _promote([as_array(x) if not _is_scalar(x) else x for x in inputs])
    record.infer(*map(type_of, arrays), **attrs)
    return record.reference(*arrays, **attrs)


def _reads_variable(inputs: tuple[Any, ...]) -> bool:
    """Whether a trace must record this, to follow a variable's later values."""
    return active_builder() is not None and any(isinstance(x, Variable) for x in inputs)


def _is_scalar(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _promote(inputs: list[Any]) -> list[np.ndarray]:
    """Python numbers take the dtype of the arrays beside them."""
    dtype = next((x.dtype for x in inputs if isinstance(x, np.ndarray)), np.float32)
    return [x if isinstance(x, np.ndarray) else np.asarray(x, dtype) for x in inputs]


def _trace(op: str, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Tracer:
    builder = active_builder()
    if builder is None:
        raise TraceError(
            "a traced value was used after its trace had ended",
            hint="return it from the traced function instead of storing it",
        )
    dtype = next(x.dtype for x in inputs if isinstance(x, (Tracer, Variable)))
    values = [_as_value(x, dtype) for x in inputs]
    return Tracer(builder.emit(op, values, **attrs))


def _as_value(x: Any, dtype: np.dtype[Any]) -> Value:
    builder = active_builder()
    assert builder is not None
    if isinstance(x, Tracer):
        return x.value
    if isinstance(x, Variable):
        return builder.param(x)
    if _is_scalar(x):
        return builder.emit("constant", (), value=float(x), dtype=dtype.name)
    return builder.constant(as_array(x))


class UnknownAttributeError(UnsupportedError, AttributeError):
    """Something that arrays have and traced values do not."""


class Tracer:
    """What a traced function sees in place of an array; knows shape and dtype only."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Value) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.value.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.value.type.dtype)

    @property
    def ndim(self) -> int:
        return self.value.type.ndim

    def __repr__(self) -> str:
        return f"Tracer({self.value.type})"

    def reshape(self, *shape: Any) -> Tracer:
        from jitseq.nn import functional

        target = (
            shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        )
        result: Tracer = functional.reshape(self, tuple(target))
        return result

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tracer:
        from jitseq.nn import functional

        result: Tracer = functional.flatten(self, start_dim, end_dim)
        return result

    def __neg__(self) -> Any:
        return apply("neg", self)

    def __getattr__(self, name: str) -> NoReturn:
        raise UnknownAttributeError(
            f"a traced value has no attribute {name!r}",
            hint="use jitseq.nn.functional, + - * / or NumPy functions on it",
        )

    def _unknown(self, *_: object) -> NoReturn:
        raise TraceError(
            "the traced function needs the value of an array to decide what to do",
            facts={"value": self.value.type},
            hint="compute both branches and combine them, or keep this code outside "
            "of the compiled function",
        )

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a traced value without dimensions")
        return operator.index(self.shape[0])  # asks for a fixed batch size

    def __getitem__(self, key: Any) -> NoReturn:
        raise UnsupportedError(
            "indexing a traced value",
            hint="index the arrays outside of the compiled function",
        )

    __bool__ = __int__ = __float__ = __index__ = __iter__ = _unknown
    __array__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _unknown

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, **options: Any
    ) -> Any:
        op = UFUNCS.get(ufunc.__name__)
        if op is None or method != "__call__" or options:
            raise UnsupportedError(
                f"np.{ufunc.__name__} on a traced value",
                hint=f"use jitseq.nn.functional, or one of np.{', np.'.join(UFUNCS)}",
            )
        return apply(op, *inputs)


UFUNCS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div",
    "negative": "neg", "maximum": "maximum", "minimum": "minimum", "exp": "exp",
    "log": "log", "tanh": "tanh", "sqrt": "sqrt", "absolute": "abs",
}  # fmt: skip


def _install_operators() -> None:
    """Give `Tracer` the arithmetic operators, each one op."""
    for name, op in {
        "add": "add",
        "sub": "sub",
        "mul": "mul",
        "truediv": "div",
    }.items():

        def forward(self: Tracer, other: Any, op: str = op) -> Any:
            return apply(op, self, other)

        def backward(self: Tracer, other: Any, op: str = op) -> Any:
            return apply(op, other, self)

        setattr(Tracer, f"__{name}__", forward)
        setattr(Tracer, f"__r{name}__", backward)


_install_operators()

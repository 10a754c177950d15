"""Types of values: a dtype and a shape whose batch extent may be symbolic.

Invariant: `BATCH` may stand in dimension 0 only, and any arithmetic on it raises
`NeedsStaticBatch`, so an op that would need the number makes the tracer start
again with the sample's own batch size instead of baking it in silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from jitseq.errors import DtypeError, NeedsStaticBatch


class BatchDim:
    """The symbolic batch extent ``n``. One instance, `BATCH`, compared by identity."""

    __slots__ = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise NeedsStaticBatch

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __int__ = __index__ = _refuse

    def __repr__(self) -> str:
        return "n"


BATCH = BatchDim()
Dim = Any  # int or BATCH
Shape = tuple[Dim, ...]

SHORT_NAMES = {
    "float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32",
    "uint8": "u8", "bool": "bool",
}  # fmt: skip


FLOAT_DTYPES = ("float32", "float64")
_NAMES = {np.dtype(name): name for name in FLOAT_DTYPES}  # `dtype.name` takes 1.5 µs


@dataclass(frozen=True)
class TensorType:
    """dtype name (NumPy's) and shape, for example ``f32[n, 3, 28, 28]``."""

    dtype: str
    shape: Shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def has_batch(self) -> bool:
        return bool(self.shape) and self.shape[0] is BATCH

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape without a symbolic batch dimension: all numbers."""
        return self.shape[1:] if self.has_batch else self.shape

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def __str__(self) -> str:
        dims = ", ".join(str(dim) for dim in self.shape)
        return f"{SHORT_NAMES.get(self.dtype, self.dtype)}[{dims}]"


def type_of(array: np.ndarray) -> TensorType:
    """The static type of an array."""
    return TensorType(_NAMES.get(array.dtype) or array.dtype.name, array.shape)


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two extents are known to be equal."""
    return a is b or (a is not BATCH and b is not BATCH and a == b)


def require_float(*types: TensorType, op: str) -> None:
    """Raise `DtypeError` unless all types are the same of float32 and float64."""
    for type in types:
        if type.dtype not in FLOAT_DTYPES:
            raise DtypeError(
                f"{op}: computes on float32 and float64, got {type.dtype}",
                facts={"input": type},
                hint="convert the input first, for example x.astype(np.float32)",
            )
    if len({type.dtype for type in types}) > 1:
        raise DtypeError(
            f"{op}: operands have different dtypes",
            facts={f"operand {i}": type for i, type in enumerate(types)},
            hint="convert the input with x.astype(…), or the model with model.to(…)",
        )

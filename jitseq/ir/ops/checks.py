"""Checks that type inference shares: types and attributes in, errors or types out.

Invariant: a type returned by `result_type` has non-negative extents and fits memory
addresses; the batch extent is never looked at as a number.
"""

from __future__ import annotations

import math

import numpy as np

from jitseq.errors import NeedsStaticBatch, ShapeError
from jitseq.ir.types import BATCH, Dim, Shape, TensorType, require_float, same_dim

MAX_BYTES = 2**62


def result_type(op: str, source: TensorType, shape: Shape) -> TensorType:
    """The type with the dtype of ``source``; `ShapeError` above ``2**62`` bytes."""
    result = source.with_shape(shape)
    size = math.prod(result.inner_shape) * np.dtype(source.dtype).itemsize
    if size > MAX_BYTES:
        raise ShapeError(
            f"{op}: the output would have {size} bytes",
            facts={"input": source, "output": result},
            hint="check the sizes given to the operation",
        )
    return result


def require_images(op: str, x: TensorType) -> None:
    """Raise unless ``x`` is a float tensor ``[N, C, H, W]`` with non-empty images."""
    require_float(x, op=op)
    if x.ndim != 4:
        raise ShapeError(
            f"{op}: expects an input of 4 dimensions [N, C, H, W], got {x.ndim}",
            facts={"input": x},
            hint="add the missing axis with reshape, for example x[None]",
        )
    if min(x.shape[1:]) < 1:
        raise ShapeError(
            f"{op}: channels, rows and columns must not be empty",
            facts={"input": x},
            hint="only the batch may have size 0",
        )


def require_at_least(op: str, low: int, **options: tuple[int, ...]) -> None:
    """Raise unless every number of every option is ``low`` or more."""
    for name, values in options.items():
        if min(values) < low:
            raise ShapeError(
                f"{op}: {name} must be at least {low}, got {values}",
                hint=f"choose a larger {name}",
            )


def require_vector(op: str, role: str, length: int, given: TensorType) -> None:
    """Raise unless ``given`` is one number for each of ``length`` channels."""
    if given.shape != (length,):
        raise ShapeError(
            f"{op}: {role} must have shape [{length}]",
            facts={role: given},
            hint=f"give {role} one number for each of the {length} channels",
        )


def static(dim: Dim) -> int:
    """The extent as a number; `NeedsStaticBatch` if it is the symbolic batch."""
    if dim is BATCH:
        raise NeedsStaticBatch
    return int(dim)


def normal_dim(op: str, x: TensorType, dim: int) -> int:
    """``dim`` counted from the front; `ShapeError` when ``x`` has no such axis."""
    if not -x.ndim <= dim < x.ndim:
        raise ShapeError(
            f"{op}: there is no dimension {dim} in an input of {x.ndim} dimensions",
            facts={"input": x},
            hint=f"choose one of {-x.ndim} … {x.ndim - 1}"
            if x.ndim
            else "the input is a single number",
        )
    return dim % x.ndim


def require_same_dim(op: str, a: Dim, b: Dim, facts: dict[str, object]) -> None:
    """Raise unless the extents are equal; a batch may or may not equal a number."""
    if same_dim(a, b):
        return
    if a is BATCH or b is BATCH:
        raise NeedsStaticBatch
    raise ShapeError(
        f"{op}: sizes {a} and {b} do not fit",
        facts=facts,
        hint="make the sizes equal, for example with reshape or slice",
    )

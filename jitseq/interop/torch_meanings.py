"""Functions with torch's signatures on jitseq values.

Arrays, variables or tracers enter and leave, and so do the sizes (ints, tuples) that
torch code computes with. Invariant: whatever torch would do that jitseq cannot is
refused with `UnsupportedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitseq.errors import UnsupportedError
from jitseq.ir.tracer import Tracer, apply
from jitseq.ir.variable import Variable
from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import dimension, need_number

Function = Callable[..., Any]
Sizes = int | Sequence[int] | None


def is_array(x: Any) -> bool:
    """Whether ``x`` is a tensor to torch (and not a size or another Python value)."""
    return isinstance(x, np.ndarray | np.generic | Tracer | Variable)


# arithmetic


def binary(on_arrays: Function, on_numbers: Function) -> Function:
    """One function where an operand is a tensor, another one for sizes."""

    def function(input: Any, other: Any) -> Any:
        arrays = is_array(input) or is_array(other)
        return (on_arrays if arrays else on_numbers)(input, other)

    return function


def scaled(function: Function) -> Function:
    """With torch's ``alpha``, the factor of the second operand."""

    def scaled(input: Any, other: Any, *, alpha: float = 1) -> Any:
        return function(input, other if alpha == 1 else other * alpha)

    return scaled


def of_sizes(function: Function, name: str) -> Function:
    """An operator that is covered for sizes only."""

    def on_numbers(input: Any, other: Any) -> Any:
        if is_array(input) or is_array(other):
            raise UnsupportedError(f"{name} of tensors", hint="+ - * / are covered")
        return function(input, other)

    return on_numbers


POWERS: dict[float, Function] = {
    -1: lambda x: F.div(1.0, x),
    -0.5: lambda x: F.div(1.0, F.sqrt(x)),
    0.5: F.sqrt,
    1: lambda x: x,
    2: lambda x: F.mul(x, x),
    3: lambda x: F.mul(F.mul(x, x), x),
}


def power(input: Any, exponent: Any) -> Any:
    """``x ** exponent`` for the exponents of `POWERS`."""
    if not is_array(input) and not is_array(exponent):
        return input**exponent
    if not is_array(input) or exponent not in POWERS:
        raise UnsupportedError(
            f"pow with exponent {exponent!r}", hint=f"one of {sorted(POWERS)}"
        )
    return POWERS[exponent](input)


def clamp(input: Any, min: float | None = None, max: float | None = None) -> Any:
    """Clip to bounds, either of which may be None."""
    bounded = input if min is None else F.maximum(input, min)
    return bounded if max is None else F.minimum(bounded, max)


def reduction(function: Function) -> Function:
    """Without torch's ``dtype``."""

    def reduce(
        input: Any, dim: Sizes = None, keepdim: bool = False, *, dtype: None = None
    ) -> Any:
        _refuse_dtype(dtype)
        return function(input, dim, keepdim)

    return reduce


def softmax(function: Function) -> Function:
    """Without torch's ``dtype``; the old ``_stacklevel`` has no effect."""

    def along(
        input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: None = None
    ) -> Any:
        _refuse_dtype(dtype if isinstance(_stacklevel, int) else _stacklevel)
        return function(input, dim)

    return along


def _refuse_dtype(dtype: Any) -> None:
    if dtype is not None:
        raise UnsupportedError(
            f"a result of another dtype ({dtype})",
            hint="leave dtype out; results have the dtype of the input",
        )


# shapes


def reshape(input: Any, shape: Any) -> Any:
    """`functional.reshape`."""
    return F.reshape(input, tuple(shape))


def view(input: Any, *shape: Any) -> Any:
    """``x.view(2, 3)`` or ``x.view((2, 3))``."""
    return F.reshape(input, _sizes(shape))


def permute(input: Any, *dims: Any) -> Any:
    """``x.permute(1, 0)`` or ``x.permute((1, 0))``."""
    return F.permute(input, _sizes(dims))


def _sizes(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(values[0]) if isinstance(values[0], Sequence) else values


def unsqueeze(input: Any, dim: int) -> Any:
    """A new axis of extent 1 before dimension ``dim``."""
    place = dim + input.ndim + 1 if dim < 0 else dim
    return F.reshape(input, (*input.shape[:place], 1, *input.shape[place:]))


def squeeze(input: Any, dim: Sizes = None) -> Any:
    """Drop the given dimensions, or all, where the extent is 1."""
    wanted = dim if isinstance(dim, Sequence) else (dim,)
    dims = [dimension(d, input, "squeeze") for d in wanted if d is not None]
    dims = list(range(input.ndim)) if dim is None else dims
    if 0 in dims:
        need_number(input.shape[0])
    kept = [n for i, n in enumerate(input.shape) if i not in dims or n != 1]
    return F.reshape(input, kept)


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Join along a new axis."""
    return F.cat([unsqueeze(x, dim) for x in tensors], dim)


def narrow(input: Any, dim: int, start: int, length: int) -> Any:
    """Positions ``start`` to ``start + length`` of one dimension."""
    axis = dimension(dim, input, "narrow")
    need_number(input.shape[axis])
    return apply("slice", input, dim=axis, start=start, stop=start + length)


def split(input: Any, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
    """Parts of the given sizes, or of one size (the last part may be smaller)."""
    axis = dimension(dim, input, "split")
    need_number(input.shape[axis])
    extent = int(input.shape[axis])
    sizes = split_size
    if isinstance(sizes, int):
        sizes = [min(sizes, extent - i) for i in range(0, max(extent, 1), sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(narrow(input, axis, a, n) for a, n in zip(starts, sizes))


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most ``chunks`` equal parts; the last one may be smaller."""
    axis = dimension(dim, input, "chunk")
    need_number(input.shape[axis])
    return split(input, -(-int(input.shape[axis]) // chunks) or 1, axis)


def getitem(input: Any, key: Any) -> Any:
    """``x[key]``: of a tuple or dict, or of an array by integers and slices."""
    if not is_array(input):
        return input[key]
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = _without_ellipsis(keys, input.ndim)
    shape = []
    x = input
    axis = 0
    for part in keys:
        if part is None:
            shape.append(1)
            continue
        if isinstance(part, int):
            at = part + int(x.shape[axis]) if part < 0 else part
            x = narrow(x, axis, at, 1)
        else:
            x = _sliced(x, axis, part)
            shape.append(x.shape[axis])
        axis += 1
    shape = [*shape, *x.shape[axis:]]
    return x if len(shape) == x.ndim == len(keys) else F.reshape(x, shape)


def _without_ellipsis(keys: list[Any], rank: int) -> list[Any]:
    used = sum(part is not None and part is not Ellipsis for part in keys)
    whole = [slice(None)] * (rank - used)
    if Ellipsis not in keys:
        return [*keys, *whole]
    place = keys.index(Ellipsis)
    return [*keys[:place], *whole, *keys[place + 1 :]]


def _sliced(x: Any, axis: int, part: Any) -> Any:
    if not isinstance(part, slice) or part.step not in (None, 1):
        raise UnsupportedError(
            f"indexing with {part!r}", hint="integers and slices of step 1 are covered"
        )
    if part == slice(None):
        return x
    need_number(x.shape[axis])
    start, stop, _ = part.indices(int(x.shape[axis]))
    return narrow(x, axis, start, max(stop - start, 0))


def size(input: Any, dim: int | None = None) -> Any:
    """The shape, or one extent."""
    shape = tuple(input.shape)
    return shape if dim is None else shape[dim]


def attribute(input: Any, name: str) -> Any:
    """``x.shape`` and ``x.ndim``."""
    if name not in ("shape", "ndim"):
        raise UnsupportedError(f"the attribute {name!r} of a tensor")
    return getattr(input, name)


# the rest


def same(input: Any, *, memory_format: Any = None) -> Any:
    """The input itself: memory formats are jitseq's own business."""
    return input


def already(name: str) -> Function:
    """A conversion to the dtype that the input has."""

    def convert(input: Any) -> Any:
        if input.dtype != np.dtype(name):
            raise UnsupportedError(f"conversion from {input.dtype} to {name}")
        return input

    return convert


def dropout_in_evaluation(name: str) -> Function:
    """A function that is `functional.dropout` only where it drops nothing."""

    trains = "alpha" not in name  # torch's default

    def dropout(
        input: Any, p: float = 0.5, training: bool = trains, inplace: bool = False
    ) -> Any:
        if training and p > 0:
            raise UnsupportedError(
                f"{name} in training mode",
                hint="use dropout of single elements, or call model.eval() first",
            )
        return F.dropout(input, p, training)

    return dropout

"""What the functions in generated kernels mean, in plain Python with NumPy.

Pointers, indices, vectors and packs of vectors enter; vectors and packs leave. A
vector is an array of lanes, a scalar a vector of one lane, a pack a tuple of vectors of
one type. Positional arguments are run-time values, keywords are literals of the text.
Functions of lanes take packs too: member by member, a single vector with each.

Invariant: the meanings are those of `codegen/reference.py`, bit by bit, and every
access outside of a buffer is an `IndexError`. What runs compiled has the same names
and arguments in `codegen/numba_cpu/intrinsics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitseq.codegen.reference import DTYPES, LANES, Pointer
from jitseq.ir.random import uniform_at

Vector = np.ndarray
Pack = Vector | tuple[Vector, ...]
COMPARISONS = ("lt", "gt", "le", "ge", "eq", "unordered")


# memory


def load(
    pointer: Pointer,
    index: int,
    *,
    offsets: Sequence[int] = (0,),
    lanes: int = 1,
    valid: int | None = None,
    element: str | None = None,
) -> Pack:
    """A vector for each offset: ``lanes`` elements from ``index + offset``.

    The first ``valid`` lanes are read, the others are zero. ``element`` is the kind of
    the result, by default that of the memory.
    """
    places = range(lanes if valid is None else valid)
    return _packed([
        _read("load", pointer, index + offset, places, lanes, element)
        for offset in offsets
    ])  # fmt: skip


def load_splat(
    pointer: Pointer,
    index: int,
    *,
    offsets: Sequence[int] = (0,),
    lanes: int = 1,
    element: str | None = None,
) -> Pack:
    """For each offset the element at ``index + offset``, in all lanes."""
    return _packed([
        _read("load_splat", pointer, index + offset, (0,) * lanes, lanes, element)
        for offset in offsets
    ])  # fmt: skip


def gather(
    pointer: Pointer,
    index: int,
    *,
    stride: int,
    valid: int,
    offsets: Sequence[int] = (0,),
    lanes: int = 1,
    element: str | None = None,
) -> Pack:
    """Like `load`, of elements that are ``stride`` apart."""
    places = [lane * stride for lane in range(valid)]
    return _packed([
        _read("gather", pointer, index + offset, places, lanes, element)
        for offset in offsets
    ])  # fmt: skip


def store(
    pointer: Pointer,
    index: int,
    value: Pack,
    *,
    offsets: Sequence[int] = (0,),
    valid: int | None = None,
) -> None:
    """Writes a vector, or its first ``valid`` lanes, for each offset, in order."""
    for offset, vector in zip(offsets, _members(value), strict=True):
        lanes = len(vector) if valid is None else valid
        places = _places("store", pointer, index + offset, range(lanes))
        pointer.elements[places] = vector[:lanes]


def uniform(
    pointer: Pointer,
    index: int,
    *,
    stride: int,
    element: str,
    offsets: Sequence[int] = (0,),
    lanes: int = 1,
) -> Pack:
    """Random numbers of the key at ``pointer``; lanes are ``stride`` indices apart."""
    key = pointer.elements[_places("uniform", pointer, 0, range(2))]
    found = []
    for offset in offsets:
        numbers = (index + offset + np.arange(lanes) * stride) % 2**32
        found.append(uniform_at(key, numbers.astype(np.uint32), DTYPES[element]))
    return _packed(found)


def pin(pointer: Pointer, index: int) -> Pointer:
    """The pointer ``index`` elements further."""
    return Pointer(pointer.elements, pointer.origin + index)


def prefetch(pointer: Pointer, index: int, *, offsets: Sequence[int] = (0,)) -> None:
    """No effect on values; may lie outside of the buffer."""


def _read(
    what: str,
    pointer: Pointer,
    index: int,
    places: Sequence[int],
    lanes: int,
    element: str | None,
) -> Vector:
    """The elements at ``index`` + each of ``places``; zero in lanes behind them."""
    dtype = DTYPES[element] if element else pointer.elements.dtype
    vector = np.zeros(lanes, dtype)
    vector[: len(places)] = pointer.elements[_places(what, pointer, index, places)]
    return vector


def _places(what: str, pointer: Pointer, index: int, places: Sequence[int]) -> Vector:
    """Positions in the memory, none of them outside."""
    found = pointer.origin + index + np.asarray(places)
    outside = found[(found < 0) | (found >= pointer.elements.size)]
    if outside.size:
        raise IndexError(f"{what}: element {outside[0]} of {pointer.elements.size}")
    return found


# indices


def imin(a: int, b: int) -> int:
    """The smaller index."""
    return min(a, b)


def imax(a: int, b: int) -> int:
    """The larger index."""
    return max(a, b)


def table(index: int, *, values: Sequence[int]) -> int:
    """``values[index]``."""
    if not 0 <= index < len(values):
        raise IndexError(f"table: entry {index} of {len(values)}")
    return values[index]


def round_down(index: int, *, multiple: int) -> int:
    """The largest multiple that is at most ``index``."""
    return index // multiple * multiple


def to_float(index: int, *, element: str, offsets: Sequence[int] = (0,)) -> Pack:
    """The numbers ``index + offset``, as scalars."""
    return _packed([np.array([index + offset], DTYPES[element]) for offset in offsets])


# vectors and scalars


def const(
    *, value: float | tuple[float, ...], lanes: int = 1, element: str = "f32"
) -> Pack:
    """A number in all lanes; a tuple of numbers makes a pack."""
    values = value if isinstance(value, tuple) else (value,)
    return _packed([np.full(lanes, number, DTYPES[element]) for number in values])


def splat(x: Pack, *, lanes: int) -> Pack:
    """A scalar in all lanes."""
    return _packed([np.repeat(scalar, lanes) for scalar in _members(x)])


def first_lanes(value: Pack, fill: Pack, *, count: int) -> Pack:
    """``value`` in the first ``count`` lanes, ``fill`` in the others."""

    def chosen(a: Vector, b: Vector) -> Vector:
        result: Vector = np.where(np.arange(len(a)) < count, a, b)
        return result

    return _each_member(chosen, value, fill)


def transpose(rows: Pack) -> Pack:
    """Lane j of row i becomes lane i of result j."""
    return _packed(list(np.stack(_members(rows), axis=1)))


def sum_lanes(rows: Pack, *, lanes: int) -> Vector:
    """Lane i is the sum of row i's lanes, zero behind the last row."""
    members = _members(rows)
    sums = np.zeros(lanes, members[0].dtype)
    sums[: len(members)] = [row.sum() for row in members]
    return sums


# packs


def pack(*parts: Pack) -> Pack:
    """One pack of all members."""
    return _packed([vector for part in parts for vector in _members(part)])


def take(p: Pack, *, order: Sequence[int]) -> Pack:
    """The members with these numbers; a single one is a vector."""
    members = _members(p)
    return _packed([members[i] for i in order])


def each(p: Pack, *, times: int) -> Pack:
    """Every member ``times`` times: a, a, b, b."""
    return _packed([vector for vector in _members(p) for _ in range(times)])


def tile(p: Pack, *, times: int) -> Pack:
    """The whole pack ``times`` times: a, b, a, b."""
    return _packed([vector for _ in range(times) for vector in _members(p)])


def _members(p: Pack) -> tuple[Vector, ...]:
    return p if isinstance(p, tuple) else (p,)


def _packed(vectors: Sequence[Vector]) -> Pack:
    return vectors[0] if len(vectors) == 1 else tuple(vectors)


def _each_member(function: Callable[..., Vector], *arguments: Pack) -> Pack:
    """``function`` of the first members, of the second ones, and so on."""
    count = max(len(_members(argument)) for argument in arguments)
    rows = [a if isinstance(a, tuple) else (a,) * count for a in arguments]
    return _packed([function(*vectors) for vectors in zip(*rows, strict=True)])


def _of_lanes(name: str) -> Callable[..., Pack]:
    """The instruction's meaning, with results in the dtype of its last argument."""
    meaning = LANES[name]

    def vector(*lanes: Vector) -> Vector:
        dtype: Any = bool if name in COMPARISONS else lanes[-1].dtype
        return np.atleast_1d(np.asarray(meaning(None, *lanes), dtype))

    def function(*arguments: Pack) -> Pack:
        return _each_member(vector, *arguments)

    function.__name__ = name
    return function


# lanes

add, sub, mul, div = map(_of_lanes, ("add", "sub", "mul", "div"))
neg, abs, sqrt = map(_of_lanes, ("neg", "abs", "sqrt"))
fma = _of_lanes("fma")
lt, gt, le, ge, eq, unordered = map(_of_lanes, COMPARISONS)
select = _of_lanes("select")
maximum, minimum = _of_lanes("maximum"), _of_lanes("minimum")
exp, expm1, log, log1p = map(_of_lanes, ("exp", "expm1", "log", "log1p"))
tanh, erf = _of_lanes("tanh"), _of_lanes("erf")
reduce_add, reduce_maximum = map(_of_lanes, ("reduce_add", "reduce_maximum"))


def outer_fma(
    pointer: Pointer, index: int, w: Pack, acc: Pack, *, offsets: Sequence[int]
) -> Pack:
    """A step of a register tile: ``acc[r, v] + x[r] · w[v]``.

    ``x[r]`` is the element at ``index + offsets[r]``; ``acc`` holds a vector for each
    offset and each member of ``w``, the latter running fastest.
    """
    weights = _members(w)
    x = load_splat(pointer, index, offsets=offsets, lanes=len(weights[0]))
    return _of_lanes("fma")(
        each(x, times=len(weights)), tile(w, times=len(offsets)), acc
    )


def accumulate(
    x: Pointer,
    i: int,
    w: Pointer,
    j: int,
    acc: Pack,
    *,
    rows: Sequence[int],
    columns: Sequence[int],
    x_steps: Sequence[int] = (0,),
    w_steps: Sequence[int] = (0,),
    pinned: bool = False,
    w_pinned: bool = False,
    vectors: bool = False,
    ahead: int | None = None,
) -> Pack:
    """Steps of a register tile: ``acc[r, v]`` plus products of elements and vectors.

    At each step element ``i + x_step + rows[r]`` of ``x`` (or with ``vectors`` the
    vector there) meets the vector at ``j + w_step + columns[v]`` of ``w``. Where there
    are as many columns as sums, each sum has its own, else they are common to all rows.
    Compiled, what is ``pinned`` passes through `pin` at each step, and w is prefetched.
    """
    count, lanes = len(_members(acc)), len(_members(acc)[0])
    read = load if vectors else load_splat
    for x_step, w_step in zip(x_steps, w_steps, strict=True):
        factors = read(x, i + x_step, offsets=rows, lanes=lanes)
        weights = load(w, j + w_step, offsets=columns, lanes=lanes)
        if len(columns) < count:
            weights = tile(weights, times=len(rows))
        acc = fma(each(factors, times=count // len(rows)), weights, acc)
    return acc


FUNCTIONS: tuple[str, ...] = (
    "load", "load_splat", "gather", "store", "uniform", "pin", "prefetch",
    "table", "imin", "imax", "round_down", "to_float",
    "const", "splat", "first_lanes", "transpose", "sum_lanes",
    "add", "sub", "mul", "div", "neg", "abs", "sqrt", "fma", "outer_fma", "accumulate",
    "lt", "gt", "le", "ge", "eq", "unordered", "select", "maximum", "minimum",
    "exp", "expm1", "log", "log1p", "tanh", "erf", "reduce_add", "reduce_maximum",
    "pack", "take", "each", "tile",
)  # fmt: skip
"""The names that a generated kernel may call."""


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Marks a generated kernel, which runs without warnings of NaN and infinity."""
    return np.errstate(all="ignore")(function)

"""Program: loop nests over buffers, the form that every renderer starts from.

Grammar::

    program = kernels, segments of calls, buffers
    kernel  = name "(" buffers, image count, first image ")" body
    body    = a list of instructions; a loop is an instruction that holds a body
    address = buffer or pinned pointer, plus an affine expression of loop variables
    types   = i64 | f32xL | f64xL | maskxL, with L lanes; one lane is a scalar

A kernel for a graphics processor is run by a grid of threads: it asks for the number
of its thread and block, holds memory of a block or of a thread in scratch buffers, and
has guards. All its types are scalars, and all threads run a loop equally often.

Invariant: registers are assigned once and used inside the body that defines them;
values cross loop iterations only as the loop's carried registers. Shapes, strides
and tiles are numbers here; the only run-time quantities are the image count and the
number of the first image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

ELEMENT_BYTES = {"f32": 4, "f64": 8, "i64": 8, "i32": 4, "u32": 4, "u8": 1}


class Type(NamedTuple):
    """Element kind (f32, f64, i64, mask, ptr) and number of lanes."""

    element: str
    lanes: int = 1

    def __str__(self) -> str:
        return f"{self.element}x{self.lanes}" if self.lanes > 1 else self.element


INDEX = Type("i64")


class Reg:
    """A register; compared by identity."""

    __slots__ = ("hint", "type")

    def __init__(self, type: Type, hint: str = "") -> None:
        self.type = type
        self.hint = hint


class Affine:
    """``const + Σ coefficient · register``: every index is one of these."""

    __slots__ = ("const", "terms")

    def __init__(self, terms: tuple[tuple[Reg, int], ...] = (), const: int = 0) -> None:
        self.terms = terms
        self.const = const

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.const + other)
        if not other.terms:
            return Affine(self.terms, self.const + other.const)
        merged = dict(self.terms)
        for reg, coefficient in other.terms:
            merged[reg] = merged.get(reg, 0) + coefficient
        terms = tuple((reg, c) for reg, c in merged.items() if c)
        return Affine(terms, self.const + other.const)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        return Affine(
            tuple((r, c * factor) for r, c in self.terms), self.const * factor
        )

    __rmul__ = __mul__

    def exact_divide(self, divisor: int) -> Affine:
        """The quotient of an expression all of whose parts are multiples."""
        assert self.const % divisor == 0
        assert all(coefficient % divisor == 0 for _, coefficient in self.terms)
        terms = tuple((reg, c // divisor) for reg, c in self.terms)
        return Affine(terms, self.const // divisor)


def affine(value: Affine | Reg | int) -> Affine:
    if isinstance(value, Affine):
        return value
    return Affine((), value) if isinstance(value, int) else Affine(((value, 1),))


@dataclass(frozen=True, eq=False)
class Buffer:
    """A kernel argument: a pointer to elements, disjoint from what others write.

    In a grid of threads, ``space`` may be ``shared`` (by the threads of a block) or
    ``local`` (to one thread): scratch memory of ``size`` elements, no argument.
    """

    name: str
    element: str
    written: bool = False
    space: str = "global"
    size: int = 0


Pointer = Buffer | Reg


class Instr:
    """``results = op(args)``; what ``args`` and ``extra`` hold depends on the op.

    load(pointer, index) / store(pointer, index, value): ``extra`` lanes are valid, or
    all of them when it is None; a masked load reads zero elsewhere.
    load_splat(pointer, index): one element in all lanes.
    gather(pointer, index): ``extra`` is (elements between lanes, valid lanes).
    uniform(key, index): a random number of each lane's index, ``extra`` apart.
    const: ``extra`` is the number. pin(pointer, index): an opaque pointer.
    prefetch(pointer, index): a hint without effect on values.
    table(index): ``extra`` is a tuple of integers. imin, imax, round_down: i64.
    transpose(rows): lane j of row i goes to lane i of result j.
    sum_lanes(rows): lane i is the sum of row i's lanes, zero behind the last row.

    In grids: thread, block, row are numbers of the thread in its block and of the block
    along both axes of the grid; quotient, remainder (by ``extra``, of i64 that are not
    negative); below(a, b): i64 ``a < b``; both(mask, mask). load_where(mask, pointer,
    index) is zero where the mask is false, and reads nothing there. barrier: all
    threads of the block arrive before any goes on, and see what others wrote.
    warp_add, warp_maximum: over ``extra`` threads in a row, the result in all of them.
    Others are arithmetic on lanes, with the names of `jitseq.ir.scalar`.
    """

    __slots__ = ("args", "extra", "op", "results")

    def __init__(
        self, op: str, results: tuple[Reg, ...], args: tuple[Any, ...], extra: Any
    ) -> None:
        self.op = op
        self.results = results
        self.args = args
        self.extra = extra


class Loop:
    """``for var in range(start, stop, step)`` with carried registers.

    ``entering`` are the initial values, ``carried`` the registers inside the body,
    ``yielded`` their values at its end; the last ones are the loop's ``results``.
    """

    __slots__ = (
        "body", "carried", "entering", "results", "start", "step", "stop", "var",
        "yielded",
    )  # fmt: skip

    def __init__(self, var: Reg, start: Affine, stop: Affine, step: int) -> None:
        self.var = var
        self.start = start
        self.stop = stop
        self.step = step
        self.body: list[Item] = []
        self.entering: tuple[Reg, ...] = ()
        self.carried: tuple[Reg, ...] = ()
        self.yielded: tuple[Reg, ...] = ()
        self.results: tuple[Reg, ...] = ()

    @property
    def surely_runs(self) -> bool:
        """Whether the bounds are numbers and leave at least one iteration."""
        fixed = not self.start.terms and not self.stop.terms
        return fixed and self.start.const < self.stop.const


class Guard:
    """``if mask:``; what its body defines is used inside of it only. No barrier."""

    __slots__ = ("body", "mask")

    def __init__(self, mask: Reg) -> None:
        self.mask = mask
        self.body: list[Item] = []


Item = Instr | Loop | Guard


@dataclass(frozen=True, eq=False)
class Kernel:
    """One loop nest, run for ``count`` images, the first of which is ``first``."""

    name: str
    buffers: tuple[Buffer, ...]
    count: Reg
    first: Reg
    body: tuple[Item, ...]
    scratch: tuple[Buffer, ...] = ()


@dataclass(frozen=True)
class Launch:
    """A grid: blocks of ``threads``, enough for all items, times ``rows``.

    There are ``items`` for each image, or in all where the kernel runs once.
    """

    threads: int
    items: int
    items_per_block: int
    per_image: bool
    rows: int = 1

    def blocks(self, images: int) -> int:
        """Along the first axis of the grid."""
        items = self.items * (images if self.per_image else 1)
        return -(-items // self.items_per_block)


@dataclass(frozen=True)
class Argument:
    """Where a buffer lives when a kernel is called.

    ``space`` is ``context`` (slot ``slot`` of the pointer table: inputs, outputs,
    variables, packed parameters, buffers that live as long as the call), ``arena``
    (scratch memory of a thread, for one block) or ``sums`` (what is added up over the
    images of a share). The address is ``base + offset + image · stride``, all in bytes.
    In grids there is also ``images``: slot ``slot``, at ``base + offset · images``.
    """

    space: str
    slot: int
    offset: int
    stride: int


@dataclass(frozen=True)
class Call:
    """Run ``kernel`` (an index) on ``arguments`` for each image of the block.

    ``count`` replaces the number of images where the kernel counts something else.
    ``launch`` is the grid that runs it, on a graphics processor; the call is then made
    for ``least`` to ``most`` images only.
    """

    kernel: int
    arguments: tuple[Argument, ...]
    count: int | None = None
    launch: Launch | None = None
    least: int = 1
    most: int | None = None


@dataclass(frozen=True)
class Sums:
    """``bytes`` of sums over the batch, of one element type, at ``offset``."""

    offset: int
    bytes: int
    element: str


@dataclass(frozen=True)
class Segment:
    """Calls executed for ``block`` images before the next block starts.

    A segment that is not ``batched`` runs once, on one thread. ``sums`` are zeroed
    before the first block; those of several shares are added behind the last.
    """

    calls: tuple[Call, ...]
    block: int
    batched: bool = True
    sums: tuple[Sums, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """What is compiled: kernels, each once, and the calls between them."""

    kernels: tuple[Kernel, ...]
    segments: tuple[Segment, ...]
    context_slots: int
    arena_bytes: int
    batch_bytes: tuple[int, ...]
    """Bytes an image of each whole-batch buffer, in order of their slots."""
    fixed_slot: int = 0
    fixed_bytes: int = 0
    """Memory for what has no batch: packed weights, values between segments."""
    sums_slot: int = 0
    sums_bytes: int = 0
    """Memory for the sums of one share of the batch; the first's become totals."""

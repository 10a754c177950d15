"""Runs a Program of grids with NumPy: the living definition of its instructions.

All threads of a launch take each step together: a register is an array with an element
for each thread. A Program and its context arrays enter; the arrays are written.
Invariant: an access outside of a buffer is an `IndexError`, and a place that two
threads use without a barrier between them, where one of them writes, a `RaceError`.
Scratch memory starts as NaN, so that what was not written is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitseq.codegen.reference import DTYPES, INTEGERS, LANES
from jitseq.ir.program import (
    INDEX,
    Affine,
    Argument,
    Buffer,
    Guard,
    Instr,
    Item,
    Kernel,
    Launch,
    Loop,
    Program,
)
from jitseq.ir.random import uniform_at

NOBODY, SEVERAL = -1, -2


class RaceError(Exception):
    """Two threads use one place at once, and one of them writes."""


class Memory:
    """Elements of one buffer, and who used each of them when.

    ``owner`` is the thread that wrote last and ``written`` the number of barriers
    before; ``reader`` and ``read`` are the same for the last loads.
    """

    def __init__(self, elements: np.ndarray) -> None:
        self.elements = elements
        size = elements.size
        self.owner = np.full(size, NOBODY, np.int64)
        self.written = np.full(size, -1, np.int64)
        self.reader = np.full(size, NOBODY, np.int64)
        self.read = np.full(size, -1, np.int64)

    def load(self, at: np.ndarray, threads: np.ndarray, now: int) -> np.ndarray:
        owner = self.owner[at]
        foreign = (owner != NOBODY) & (owner != threads) & (self.written[at] == now)
        if foreign.any():
            raise RaceError("a thread reads what another writes")
        fresh = self.read[at] != now
        same = fresh | (self.reader[at] == threads)
        self.reader[at] = np.where(same, threads, SEVERAL)
        order = np.argsort(at, kind="stable")
        places, readers = at[order], threads[order]
        shared = (places[1:] == places[:-1]) & (readers[1:] != readers[:-1])
        self.reader[places[1:][shared]] = SEVERAL
        self.read[at] = now
        found: np.ndarray = self.elements[at]
        return found

    def store(
        self, at: np.ndarray, values: np.ndarray, threads: np.ndarray, now: int
    ) -> None:
        if np.unique(at).size != at.size:
            raise RaceError("two threads write one place")
        owner, reader = self.owner[at], self.reader[at]
        written = (owner != NOBODY) & (owner != threads) & (self.written[at] == now)
        read = (self.read[at] == now) & (reader != threads)
        if (written | read).any():
            raise RaceError("a thread writes what another uses")
        self.elements[at] = values
        self.owner[at], self.written[at] = threads, now


def run(program: Program, context: Sequence[np.ndarray], images: int) -> None:
    """Execute all calls for ``images`` images.

    Args:
        program: what `passes.grid.schedule` plans; one segment.
        context: C-contiguous arrays in order of the context slots.
        images: the batch size; 1 for a program without a batch.

    Raises:
        IndexError: a kernel reads or writes outside of its buffer.
        RaceError: threads disturb each other.
    """
    memories = [array.reshape(-1).view(np.uint8) for array in context]
    for segment in program.segments:
        for call in segment.calls:
            if images < call.least or (call.most is not None and images > call.most):
                continue
            kernel = program.kernels[call.kernel]
            elements = [
                _elements(buffer, argument, memories, images)
                for buffer, argument in zip(kernel.buffers, call.arguments, strict=True)
            ]
            assert call.launch is not None
            count = images if call.count is None else call.count
            run_kernel(kernel, elements, count, call.launch, images)


def _elements(
    buffer: Buffer, argument: Argument, memories: Sequence[np.ndarray], images: int
) -> np.ndarray:
    scale = images if argument.space == "images" else 1
    memory = memories[argument.slot][argument.offset * scale :]
    dtype = DTYPES[buffer.element]
    return memory[: memory.size // dtype.itemsize * dtype.itemsize].view(dtype)


def run_kernel(
    kernel: Kernel,
    arguments: Sequence[np.ndarray],
    count: int,
    launch: Launch,
    images: int | None = None,
) -> None:
    """One launch; arguments of written buffers change.

    ``images`` is the batch size where ``count`` counts something else.
    """
    blocks = launch.blocks(count if images is None else images)
    if not blocks:
        return
    grid = _Grid(kernel, arguments, count, launch, blocks)
    with np.errstate(all="ignore"):
        grid.body(kernel.body, np.ones(grid.threads.size, bool))


class _Grid:
    """Values by register: integers, or arrays with an element for each thread."""

    def __init__(
        self,
        kernel: Kernel,
        arguments: Sequence[np.ndarray],
        count: int,
        launch: Launch,
        blocks: int,
    ) -> None:
        total = blocks * launch.rows * launch.threads
        self.threads = np.arange(total)
        number, self.thread = np.divmod(self.threads, launch.threads)
        self.row, self.block = np.divmod(number, blocks)
        self.number = number
        self.values: dict[object, Any] = {kernel.count: count, kernel.first: 0}
        self.memories: dict[Buffer, Memory] = {}
        for buffer, array in zip(kernel.buffers, arguments, strict=True):
            self.memories[buffer] = Memory(array)
        for buffer in kernel.scratch:
            copies = total if buffer.space == "local" else blocks * launch.rows
            dtype = DTYPES[buffer.element]
            fill = np.nan if dtype.kind == "f" else 0
            memory = Memory(np.full(copies * buffer.size, fill, dtype))
            self.memories[buffer] = memory
        self.barriers = 0

    def body(self, body: Sequence[Item], active: np.ndarray) -> None:
        for item in body:
            if isinstance(item, Loop):
                self.loop(item, active)
            elif isinstance(item, Guard):
                inside = active & self.values[item.mask]
                if inside.any():
                    self.body(item.body, inside)
            else:
                self.instruction(item, active)

    def loop(self, loop: Loop, active: np.ndarray) -> None:
        values = self.values
        carried = [values[reg] for reg in loop.entering]
        bounds = (self._uniform(loop.start, active), self._uniform(loop.stop, active))
        for index in range(*bounds, loop.step):
            values[loop.var] = index
            values.update(zip(loop.carried, carried, strict=True))
            self.body(loop.body, active)
            carried = [values[reg] for reg in loop.yielded]
        values.update(zip(loop.results, carried, strict=True))

    def _uniform(self, bound: Affine, active: np.ndarray) -> int:
        value = np.broadcast_to(self.index(bound), active.shape)[active]
        assert (value == value[0]).all(), "the bounds of a loop differ between threads"
        return int(value[0])

    def index(self, expression: Affine) -> Any:
        terms = (c * self.values[register] for register, c in expression.terms)
        return expression.const + sum(terms)

    def instruction(self, instr: Instr, active: np.ndarray) -> None:
        result: Any
        if instr.op in GRID:
            result = GRID[instr.op](self, instr, active)
        elif instr.op in INTEGERS:
            result = self._integers(instr)
        else:
            result = LANES[instr.op](instr, *(self.values[arg] for arg in instr.args))
        if instr.results:
            (register,) = instr.results
            if register.type != INDEX:
                element = register.type.element
                dtype: Any = bool if element == "mask" else DTYPES[element]
                result = np.broadcast_to(np.asarray(result, dtype), self.threads.shape)
            self.values[register] = result

    def _integers(self, instr: Instr) -> Any:
        indices = [self.index(arg) for arg in instr.args]
        if instr.op == "table":
            return np.asarray(instr.extra)[indices[0]]
        if instr.op in ("imin", "imax"):
            return {"imin": np.minimum, "imax": np.maximum}[instr.op](*indices)
        return INTEGERS[instr.op](instr, *indices)

    def places(
        self, pointer: Buffer, index: Affine, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The threads that take part, and the place of each in the memory."""
        threads = self.threads[active]
        at = np.broadcast_to(self.index(index), active.shape)[active]
        size = self.memories[pointer].elements.size
        if pointer.space != "global":
            size = pointer.size
        if at.size and not (at.min() >= 0 and at.max() < size):
            wrong = at[(at < 0) | (at >= size)][0]
            raise IndexError(f"{pointer.name}: element {wrong} of {size}")
        if pointer.space == "shared":
            at = at + self.number[active] * size
        elif pointer.space == "local":
            at = at + threads * size
        return threads, at

    def load(self, pointer: Buffer, index: Affine, active: np.ndarray) -> Any:
        threads, at = self.places(pointer, index, active)
        memory = self.memories[pointer]
        result = np.zeros(active.shape, memory.elements.dtype)
        if pointer.space == "local":
            result[active] = memory.elements[at]
        else:
            result[active] = memory.load(at, threads, self._now(pointer))
        return result

    def _now(self, pointer: Buffer) -> int:
        """Barriers order the threads of a block only, and so shared memory only."""
        return self.barriers if pointer.space == "shared" else 0


def _load(grid: _Grid, instr: Instr, active: np.ndarray) -> Any:
    pointer, index = instr.args
    return grid.load(pointer, index, active)


def _load_where(grid: _Grid, instr: Instr, active: np.ndarray) -> Any:
    mask, pointer, index = instr.args
    return grid.load(pointer, index, active & grid.values[mask])


def _store(grid: _Grid, instr: Instr, active: np.ndarray) -> None:
    pointer, index, value = instr.args
    threads, at = grid.places(pointer, index, active)
    values = np.broadcast_to(grid.values[value], active.shape)[active]
    memory = grid.memories[pointer]
    if pointer.space == "local":
        memory.elements[at] = values
    else:
        memory.store(at, values, threads, grid._now(pointer))


def _barrier(grid: _Grid, instr: Instr, active: np.ndarray) -> None:
    assert active.all(), "a barrier inside of a guard"
    grid.barriers += 1


def _random(grid: _Grid, instr: Instr, active: np.ndarray) -> np.ndarray:
    key, index = instr.args
    numbers = np.broadcast_to(grid.index(index), active.shape) % 2**32
    dtype = DTYPES[instr.results[0].type.element]
    return uniform_at(grid.memories[key].elements[:2], numbers.astype(np.uint32), dtype)


def _butterfly(combine: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Each thread exchanges values with those 16, 8, 4, 2 and 1 numbers away."""

    def across(grid: _Grid, instr: Instr, active: np.ndarray) -> Any:
        assert active.all(), "an exchange inside of a guard"
        value, distance = grid.values[instr.args[0]], instr.extra // 2
        while distance:
            value = combine(value, value[grid.threads ^ distance])
            distance //= 2
        return value

    return across


GRID: dict[str, Callable[[_Grid, Instr, np.ndarray], Any]] = {
    "thread": lambda grid, instr, active: grid.thread,
    "block": lambda grid, instr, active: grid.block,
    "row": lambda grid, instr, active: grid.row,
    "quotient": lambda grid, instr, active: grid.index(instr.args[0]) // instr.extra,
    "remainder": lambda grid, instr, active: grid.index(instr.args[0]) % instr.extra,
    "below": lambda grid, instr, active: (
        grid.index(instr.args[0]) < grid.index(instr.args[1])
    ),
    "both": lambda grid, instr, active: (
        grid.values[instr.args[0]] & grid.values[instr.args[1]]
    ),
    "load": _load,
    "load_splat": _load,
    "load_where": _load_where,
    "store": _store,
    "uniform": _random,
    "barrier": _barrier,
    "warp_add": _butterfly(np.add),
    "warp_maximum": _butterfly(np.maximum),
}

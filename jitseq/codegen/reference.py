"""Runs a Program in plain Python: the living definition of its instructions.

A Program and its context arrays enter; the output arrays are written. Invariant:
every access outside of a buffer is an `IndexError`, and scratch memory starts as NaN,
so what a kernel reads without having written it is seen. For tiny shapes: every
instruction of every iteration is one Python call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitseq.ir.program import (
    INDEX,
    Affine,
    Argument,
    Buffer,
    Instr,
    Item,
    Kernel,
    Loop,
    Program,
    Type,
)
from jitseq.ir.random import uniform_at
from jitseq.ir.scalar import NumpyScalars

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "u32": np.dtype(np.uint32),
    "u8": np.dtype(np.uint8),
}


class Pointer(NamedTuple):
    """Elements of one buffer, and the position that index 0 means."""

    elements: np.ndarray
    origin: int


def run(program: Program, context: Sequence[np.ndarray], images: int) -> None:
    """Execute all segments for ``images`` images.

    Args:
        program: what `passes.memory.plan_memory` returns.
        context: C-contiguous arrays in order of the context slots: inputs, outputs
            (written), variables, packed parameters, whole-batch buffers.
        images: the batch size; 1 for a program without a batch.

    Raises:
        IndexError: a kernel reads or writes outside of its buffer.
    """
    memories = [array.reshape(-1).view(np.uint8) for array in context]
    for segment in program.segments:
        for sums in segment.sums:
            memories[program.sums_slot][sums.offset :][: sums.bytes] = 0
        total = images if segment.batched else 1
        for first in range(0, total, segment.block):
            arena = np.full(program.arena_bytes, 0xFF, np.uint8)
            places = {"arena": arena}
            if program.sums_bytes:
                places["sums"] = memories[program.sums_slot]
            count = min(segment.block, total - first)
            for call in segment.calls:
                kernel = program.kernels[call.kernel]
                pointers = [
                    _pointer(buffer, argument, memories, places, first)
                    for buffer, argument in zip(
                        kernel.buffers, call.arguments, strict=True
                    )
                ]
                number = count if call.count is None else call.count
                run_kernel(kernel, pointers, number, first)


def _pointer(
    buffer: Buffer,
    argument: Argument,
    memories: Sequence[np.ndarray],
    places: Mapping[str, np.ndarray],
    image: int,
) -> Pointer:
    memory = places.get(argument.space, memories[argument.slot])
    dtype = DTYPES[buffer.element]
    whole = memory[: memory.size // dtype.itemsize * dtype.itemsize]
    position, rest = divmod(argument.offset + image * argument.stride, dtype.itemsize)
    assert rest == 0, f"{buffer.name} is not aligned to its elements"
    return Pointer(whole.view(dtype), position)


def run_kernel(
    kernel: Kernel, pointers: Sequence[Pointer], count: int, first: int = 0
) -> None:
    """One kernel on ``count`` images from image ``first``; written buffers change."""
    values: dict[object, Any] = {kernel.count: count, kernel.first: first}
    values |= dict(zip(kernel.buffers, pointers, strict=True))
    with np.errstate(all="ignore"):
        _Frame(values).body(kernel.body)


class _Frame:
    """Values by register: integers for i64, arrays of lanes, or pointers."""

    def __init__(self, values: dict[object, Any]) -> None:
        self.values = values

    def body(self, body: Sequence[Item]) -> None:
        for item in body:
            if isinstance(item, Loop):
                self.loop(item)
            else:
                assert isinstance(item, Instr), "guards belong to grids"
                self.instruction(item)

    def loop(self, loop: Loop) -> None:
        values = self.values
        carried = [values[reg] for reg in loop.entering]
        for index in range(self.index(loop.start), self.index(loop.stop), loop.step):
            values[loop.var] = index
            values.update(zip(loop.carried, carried, strict=True))
            self.body(loop.body)
            carried = [values[reg] for reg in loop.yielded]
        values.update(zip(loop.results, carried, strict=True))

    def instruction(self, instr: Instr) -> None:
        result: Any
        if instr.op in MEMORY:
            result = MEMORY[instr.op](self, instr)
        elif instr.op in INTEGERS:
            indices = [self.index(arg) for arg in instr.args]
            result = INTEGERS[instr.op](instr, *indices)
        else:
            lanes = [self.values[arg] for arg in instr.args]
            result = LANES[instr.op](instr, *lanes)
        if instr.op == "transpose":
            self.values.update(zip(instr.results, result, strict=True))
        elif instr.results:
            (register,) = instr.results
            self.values[register] = _typed(result, register.type)

    def index(self, expression: Affine) -> int:
        terms = (c * int(self.values[register]) for register, c in expression.terms)
        return expression.const + sum(terms)

    def place(self, instr: Instr, lane: int, stride: int = 1) -> tuple[np.ndarray, int]:
        """The elements behind an instruction's pointer, and a lane's position there."""
        pointer: Pointer = self.values[instr.args[0]]
        position = pointer.origin + self.index(instr.args[1]) + lane * stride
        if not 0 <= position < pointer.elements.size:
            raise IndexError(
                f"{instr.op}: element {position} of {pointer.elements.size}"
            )
        return pointer.elements, position

    def read(self, instr: Instr, lane: int, stride: int = 1) -> Any:
        elements, position = self.place(instr, lane, stride)
        return elements[position]


def _typed(result: Any, type: Type) -> Any:
    """An array of lanes in the register's dtype; integers and pointers as they are."""
    if type == INDEX or type.element == "ptr":
        return result
    dtype: Any = bool if type.element == "mask" else DTYPES[type.element]
    return np.broadcast_to(np.asarray(result, dtype), (type.lanes,))


def _load(frame: _Frame, instr: Instr) -> np.ndarray:
    """Lanes that are not valid are zero."""
    lanes = instr.results[0].type.lanes
    valid = lanes if instr.extra is None else instr.extra
    return np.array([frame.read(instr, i) if i < valid else 0 for i in range(lanes)])


def _gather(frame: _Frame, instr: Instr) -> np.ndarray:
    lanes = instr.results[0].type.lanes
    stride, valid = instr.extra
    return np.array(
        [frame.read(instr, i, stride) if i < valid else 0 for i in range(lanes)]
    )


def _store(frame: _Frame, instr: Instr) -> None:
    value = frame.values[instr.args[2]]
    valid = len(value) if instr.extra is None else instr.extra
    for lane in range(valid):
        elements, position = frame.place(instr, lane)
        elements[position] = value[lane]


def _uniform(frame: _Frame, instr: Instr) -> np.ndarray:
    pointer: Pointer = frame.values[instr.args[0]]
    key = pointer.elements[pointer.origin : pointer.origin + 2]
    type, index = instr.results[0].type, frame.index(instr.args[1])
    lanes = (index + np.arange(type.lanes) * instr.extra) % 2**32
    return uniform_at(key, lanes.astype(np.uint32), DTYPES[type.element])


def _pin(frame: _Frame, instr: Instr) -> Pointer:
    pointer: Pointer = frame.values[instr.args[0]]
    return Pointer(pointer.elements, pointer.origin + frame.index(instr.args[1]))


def _fma(instr: Instr, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One rounding; float64 holds the exact product of two float32."""
    wide: Any = np.longdouble if a.dtype == np.float64 else np.float64
    result: np.ndarray = a.astype(wide) * b + c
    return result


def _first_lanes(instr: Instr, value: np.ndarray, fill: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(value)) < instr.extra, value, fill)


def _sum_lanes(instr: Instr, *rows: np.ndarray) -> np.ndarray:
    sums = np.zeros(instr.results[0].type.lanes, rows[0].dtype)
    sums[: len(rows)] = [row.sum() for row in rows]
    return sums


MEMORY: dict[str, Callable[[_Frame, Instr], Any]] = {
    "load": _load,
    "load_splat": lambda frame, instr: frame.read(instr, 0),
    "gather": _gather,
    "uniform": _uniform,
    "store": _store,
    "pin": _pin,
    "prefetch": lambda frame, instr: None,
}
INTEGERS: dict[str, Callable[..., Any]] = {
    "table": lambda instr, i: instr.extra[i],
    "imin": lambda instr, a, b: min(a, b),
    "imax": lambda instr, a, b: max(a, b),
    "round_down": lambda instr, a: a // instr.extra * instr.extra,
    "to_float": lambda instr, a: a,
}
LANES: dict[str, Callable[..., Any]] = {
    "const": lambda instr: instr.extra,
    "add": lambda instr, a, b: a + b,
    "sub": lambda instr, a, b: a - b,
    "mul": lambda instr, a, b: a * b,
    "div": lambda instr, a, b: a / b,
    "neg": lambda instr, a: -a,
    "fma": _fma,
    "eq": lambda instr, a, b: a == b,
    "unordered": lambda instr, a, b: np.isnan(a) | np.isnan(b),
    "select": lambda instr, mask, a, b: np.where(mask, a, b),
    "splat": lambda instr, a: a,
    "first_lanes": _first_lanes,
    "reduce_add": lambda instr, a: a.sum(),
    "reduce_maximum": lambda instr, a: a.max(),
    "transpose": lambda instr, *rows: np.stack(rows, axis=1),
    "sum_lanes": _sum_lanes,
}


def _scalar_function(name: str) -> Callable[..., Any]:
    function = getattr(NumpyScalars, name)
    return lambda instr, *lanes: function(*lanes)


for _name in (
    "exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "abs", "maximum",
    "minimum", "lt", "gt", "le", "ge",
):  # fmt: skip
    LANES[_name] = _scalar_function(_name)

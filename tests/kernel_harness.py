"""One kernel on hand-made layouts, interpreted and compiled, in blocks of images.

Memory around the values is NaN (255 for integers) before the kernel runs: what it reads
there is seen in the result, what it writes there is refused. The interpreter, which
refuses accesses outside of a buffer, and the compiled code must agree.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jitseq.codegen.llvm.compiler import Library, compile_object
from jitseq.codegen.llvm.host import host_target
from jitseq.codegen.llvm.render import render
from jitseq.codegen.reference import run as interpret
from jitseq.ir.compute import Reduction, WindowGradient, WindowIndex
from jitseq.ir.graph import Node, Value
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import Layout, channels_last, planar, row_major
from jitseq.ir.op import get_op
from jitseq.ir.program import Argument, Call, Kernel, Program, Segment
from jitseq.ir.target import Target
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.pointwise import lower_movement, lower_pointwise
from jitseq.passes.lower.reduction import lower_reduction
from jitseq.passes.lower.window_gradient import (
    lower_window_gradient,
    lower_window_index,
)
from jitseq.runtime.executable import RUN

GUARD = 64
"""Elements in front of and behind each value."""

NO_HALO = (0, 0, 0, 0)
TARGETS: dict[str, Callable[[], Target]] = {
    "native": host_target,
    "two lanes": lambda: replace(host_target(), vector_bytes=8, registers=16),
}
VARIANTS = (("float32", "native"), ("float64", "two lanes"))
Halo = tuple[int, int, int, int]
Emit = Callable[[Operands], None]


def node(op: str, *inputs: Value, **attrs: object) -> Node:
    """A node with an output of the type that the op infers."""
    type = get_op(op).infer(*(value.type for value in inputs), **attrs)
    return Node(op, inputs, attrs, (Value(type),))


def value_of(array: np.ndarray, batched: bool = True) -> Value:
    """A value of the array's type, with a symbolic batch where it is ``batched``."""
    shape = (BATCH, *array.shape[1:]) if batched else array.shape
    return Value(TensorType(array.dtype.name, shape))


def layouts_of(type: TensorType, halo: Halo = NO_HALO) -> Iterator[Layout]:
    """The layouts that a value of this type may have between kernels."""
    yield row_major(type)
    if type.ndim == 4:
        yield channels_last(type, halo)
        yield planar(type, halo)


def compiled(
    program: Program, target: Target
) -> Callable[[Sequence[np.ndarray], int], None]:
    """The program as a function of the context's arrays and the number of images."""
    code = compile_object(render(program, target), target)
    library = Library(code, ("jitseq_run",))
    function = RUN(library.address("jitseq_run"))

    def run(memories: Sequence[np.ndarray], images: int) -> None:
        assert library is not None
        addresses = [memory.ctypes.data for memory in memories]
        pointers = (ctypes.c_void_p * len(memories))(*addresses)
        function(ctypes.addressof(pointers), None, images)

    return run


class KernelRun:
    """A group's kernel and the layouts of its values."""

    def __init__(
        self, group: Group, layouts: Mapping[Value, Layout], target: Target, emit: Emit
    ) -> None:
        self.output = group.output
        self.layouts = layouts
        self.target = target
        builder = KernelBuilder()
        operands = Operands(builder, layouts, frozenset())
        emit(operands)
        self.kernel: Kernel = builder.finish("kernel")
        self.values = [source.value for source in operands.sources]

    def program(self, block: int) -> Program:
        """The kernel alone, with all buffers in context slots."""
        arguments = []
        for slot, value in enumerate(self.values):
            size = np.dtype(value.type.dtype).itemsize
            stride = self.layouts[value].size * size if value.type.has_batch else 0
            arguments.append(Argument("context", slot, GUARD * size, stride))
        segment = Segment((Call(0, tuple(arguments)),), block)
        return Program((self.kernel,), (segment,), len(self.values), 0, ())

    def __call__(
        self,
        arrays: Mapping[Value, np.ndarray],
        images: int,
        block: int,
        start: float | None = None,
    ) -> np.ndarray:
        """The output as an array; its memory holds ``start`` before, if given."""
        program = self.program(block)
        results = []
        native = compiled(program, self.target)
        for run in (lambda *args: interpret(program, *args), native):
            memories = [self.memory(value, images, arrays) for value in self.values]
            written = memories[self.values.index(self.output)]
            inside = self.inside(self.output, written, images)
            if start is not None:
                inside[...] = start
            run(memories, images)
            self._check_surroundings(written, images)
            results.append(inside.copy())
        first, second = results
        if first.dtype.kind == "f":
            eps = 1000 * np.finfo(first.dtype).eps
            np.testing.assert_allclose(first, second, eps, eps)
        else:
            np.testing.assert_array_equal(first, second)
        return second

    def memory(
        self, value: Value, images: int, arrays: Mapping[Value, np.ndarray]
    ) -> np.ndarray:
        """A value's memory with its array in place, if it has one."""
        count = self.layouts[value].size * (images if value.type.has_batch else 1)
        dtype = np.dtype(value.type.dtype)
        memory = np.full(count + 2 * GUARD, _outside(dtype), dtype)
        if value in arrays:
            self.inside(value, memory, images)[...] = arrays[value]
        return memory

    def inside(
        self, value: Value, memory: np.ndarray, images: int, halo: Halo = NO_HALO
    ) -> np.ndarray:
        """The value in its memory, with ``halo`` rows and columns around it."""
        layout = self.layouts[value]
        shape = [images if f[0][0] is None else f[0][0] for f in layout.dims]
        strides = [layout.stride(d) * memory.itemsize for d in range(layout.ndim)]
        first = GUARD + layout.offset
        if any(halo):
            top, bottom, left, right = halo
            shape[2:] = [shape[2] + top + bottom, shape[3] + left + right]
            first -= top * layout.stride(2) + left * layout.stride(3)
        return np.lib.stride_tricks.as_strided(memory[first:], shape, strides)

    def _check_surroundings(self, memory: np.ndarray, images: int) -> None:
        """Only the value and its halo were written; the halo is zero."""
        halo = self.layouts[self.output].halo
        rest, outside = memory.copy(), _outside(memory.dtype)
        self.inside(self.output, rest, images)[...] = outside
        if any(halo):
            around = self.inside(self.output, rest, images, halo)
            top, bottom, left, right = halo
            border = np.ones(around.shape[2:], bool)
            height, width = border.shape
            border[top : height - bottom, left : width - right] = False
            np.testing.assert_array_equal(around[:, :, border], 0)
            around[...] = outside
        np.testing.assert_array_equal(rest, np.full_like(rest, outside))


def _outside(dtype: np.dtype) -> float:
    return np.nan if dtype.kind == "f" else 255


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def wide(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [a.astype("float64") if a.dtype.kind == "f" else a for a in arrays]


def lower(group: Group, target: Target) -> Emit:
    """What emits the group's kernel, called as `lower_group` does."""
    if group.anchor is None:
        return lambda operands: lower_pointwise(group, operands, target)
    record = compute_of(group.anchor)
    if isinstance(record, Reduction):
        return lambda operands: lower_reduction(group, record, operands, target)
    if isinstance(record, WindowIndex):
        return lambda operands: lower_window_index(group, record, operands, target)
    if isinstance(record, WindowGradient):
        return lambda operands: lower_window_gradient(group, record, operands, target)
    return lambda operands: lower_movement(group, operands, target)


def run(
    group: Group,
    layouts: dict[Value, Layout],
    arrays: dict[Value, np.ndarray],
    machine: str = "native",
    start: float | None = None,
) -> np.ndarray:
    """In blocks of two images, so that the last one is smaller."""
    batches = [len(a) for value, a in arrays.items() if value.type.has_batch]
    target = TARGETS[machine]()
    kernel = KernelRun(group, layouts, target, lower(group, target))
    return kernel(arrays, max(batches, default=1), 2 if batches else 1, start)

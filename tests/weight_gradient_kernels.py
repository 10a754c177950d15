"""Weight-gradient kernels on layouts made by hand, each as a program of its own.

A `Case` and a target enter; `Built` holds the kernel, its layouts and its buffers.
Channels beyond the last and gaps hold NaN, which no kernel may read; halos hold zeros.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np

from jitseq.codegen.llvm.compiler import Library, assembly, compile_object
from jitseq.codegen.llvm.render import render
from jitseq.ir.graph import Node, Value
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import (
    Layout,
    channels_last,
    planar,
    reshape_layout,
    row_major,
)
from jitseq.ir.op import get_op
from jitseq.ir.program import Argument, Call, Program, Segment
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.weight_gradient import (
    lower_weight_gradient,
    weight_gradient_halo,
    weight_gradient_layout,
)

RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
SPARE = 64


@dataclass
class Case:
    """Types without their batch, attributes, and the layouts of x and g."""

    x: tuple[int, ...]
    g: tuple[int, ...]
    attrs: dict[str, object] = field(default_factory=dict)
    x_order: str = "channels_last"
    g_order: str = "channels_last"
    dtype: str = "float32"
    bias: bool = True

    @property
    def op(self) -> str:
        return "conv2d_weight_grad" if self.attrs else "linear_weight_grad"


def conv(x, out, kernel, stride=(1, 1), origin=(0, 0), dilation=(1, 1), groups=1,
         size=None, **rest):  # fmt: skip
    """``size``: the forward output's, with as much padding behind as in front."""
    if size is None:
        size = tuple(
            (n + 2 * o - d * (k - 1) - 1) // s + 1
            for n, o, d, k, s in zip(x[1:], origin, dilation, kernel, stride)
        )
    attrs = {
        "kernel": kernel, "stride": stride, "origin": origin, "dilation": dilation,
        "groups": groups,
    }  # fmt: skip
    return Case(x, (out, *size), attrs, **rest)


def order_of(kind: str, type: TensorType, halo=(0, 0, 0, 0)) -> Layout:
    if kind == "channels_last":
        return channels_last(type, halo)
    if kind == "planar":
        return planar(type, halo)
    if kind == "rows":
        return row_major(type)
    raise AssertionError(kind)


class Built:
    """One kernel as a program, with its layouts."""

    def __init__(self, case: Case, target, block: int, first=(BATCH,)) -> None:
        """``first`` is the batch dimension, if there is one."""
        self.case = case
        x = Value(TensorType(case.dtype, (*first, *case.x)))
        g = Value(TensorType(case.dtype, (*first, *case.g)))
        op = get_op(case.op)
        dw = Value(op.infer(x.type, g.type, **case.attrs))
        anchor = Node(case.op, (x, g), dict(case.attrs), (dw,))
        self.record = record = compute_of(anchor)
        axis = 1 if case.attrs else -1
        companions = ()
        if case.bias:
            total = Value(get_op("channel_sum").infer(g.type, axis=axis))
            companions = (Node("channel_sum", (g,), {"axis": axis}, (total,)),)
        self.halo = weight_gradient_halo(record)
        layouts = {}
        if case.attrs:
            layouts[x] = order_of(case.x_order, x.type, self.halo)
            layouts[g] = order_of(case.g_order, g.type)
        else:
            layouts[g] = row_major(g.type)
            layouts[x] = self._linear_x(case, x.type)
        layouts[dw] = weight_gradient_layout(record, layouts[x], dw.type, target)
        for node in companions:
            layouts[node.output] = row_major(node.output.type)
        builder = KernelBuilder()
        operands = Operands(builder, layouts, frozenset())
        group = Group(anchor, companions=companions)
        lower_weight_gradient(group, record, operands, target)
        self.layouts, self.operands = layouts, operands
        self.x, self.g, self.dw = x, g, dw
        self.total = companions[0].output if companions else None
        self.kernel = builder.finish("gradient")
        size = np.dtype(case.dtype).itemsize
        arguments = tuple(
            Argument(
                "context", slot, 0,
                layouts[s.value].size * size if s.value.type.has_batch else 0,
            )
            for slot, s in enumerate(operands.sources)
        )  # fmt: skip
        segment = Segment((Call(0, arguments),), block)
        self.program = Program((self.kernel,), (segment,), len(arguments), 0, ())
        self.target = target

    @staticmethod
    def _linear_x(case: Case, type: TensorType) -> Layout:
        """``x_order`` may be an image's shape: a flattened channels-last image."""
        if isinstance(case.x_order, tuple):
            shape, halo = case.x_order
            image = channels_last(TensorType(case.dtype, (BATCH, *shape)), halo)
            layout = reshape_layout(image, type)
            assert layout is not None
            return layout
        return row_major(type)

    def context(self, x: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
        arrays = {self.x: x, self.g: g}
        found = []
        for source in self.operands.sources:
            layout, value = self.layouts[source.value], source.value
            images = len(x) if value.type.has_batch else 1
            memory = np.zeros(layout.size * images + SPARE, self.case.dtype)
            if value in arrays:
                memory[:] = np.nan
                _seen(memory, layout, images, zero=True)
                _seen(memory, layout, images)[...] = _split(arrays[value], layout)
            found.append(_aligned(memory))
        return found

    def results(self, context) -> list[np.ndarray]:
        found = []
        slots = {source.value: i for i, source in enumerate(self.operands.sources)}
        for value in (self.dw, self.total):
            if value is not None:
                part = _seen(context[slots[value]], self.layouts[value], 1)
                found.append(part.reshape(value.type.shape))
        return found

    def load(self):
        code = compile_object(render(self.program, self.target), self.target)
        return Library(code, ("jitseq_run",))

    def assembly(self) -> str:
        return assembly(render(self.program, self.target), self.target)


def _seen(memory, layout: Layout, images: int, zero: bool = False) -> np.ndarray:
    """A view of all factors; with ``zero``, what surrounds images is zeroed."""
    if zero and any(layout.halo):
        top, bottom, left, right = layout.halo
        (_, s0), (c, s1), (h, s2), (w, s3) = (factors[0] for factors in layout.dims)
        start = layout.offset - top * s2 - left * s3
        shape = (images, c, h + top + bottom, w + left + right)
        strides = tuple(s * memory.itemsize for s in (s0, s1, s2, s3))
        np.lib.stride_tricks.as_strided(memory[start:], shape, strides)[...] = 0
    factors = [factor for dim in layout.dims for factor in dim]
    shape = tuple(images if e is None else e for e, _ in factors)
    strides = tuple(s * memory.itemsize for _, s in factors)
    return np.lib.stride_tricks.as_strided(memory[layout.offset :], shape, strides)


def _split(array: np.ndarray, layout: Layout) -> np.ndarray:
    factors = [factor for dim in layout.dims for factor in dim]
    return array.reshape([len(array) if e is None else e for e, _ in factors])


def _aligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    result = raw[start : start + array.nbytes].view(array.dtype)
    result[...] = array
    return result


def compiled(built: Built, library, context, images: int) -> None:
    table = (ctypes.c_void_p * len(context))(*(a.ctypes.data for a in context))
    RUN(library.address("jitseq_run"))(ctypes.addressof(table), 0, images)


def random_inputs(case: Case, images: int | None, seed: int = 0):
    rng = np.random.default_rng(seed)
    first = () if images is None else (images,)
    return [
        rng.standard_normal((*first, *shape)).astype(case.dtype)
        for shape in (case.x, case.g)
    ]


def check(built: Built, context, x: np.ndarray, g: np.ndarray) -> None:
    """A sum of n products in any order: |error| ≤ c √n u Σ|a||b|, c = 3."""
    op, attrs = get_op(built.case.op), built.case.attrs
    wide = [array.astype(np.float64) for array in (x, g)]
    expected = [op.reference(*wide, **attrs)]
    bounds = [op.reference(*map(np.abs, wide), **attrs)]
    if built.total is not None:
        axis = 1 if attrs else -1
        total = get_op("channel_sum").reference
        expected.append(total(wide[1], axis=axis))
        bounds.append(total(np.abs(wide[1]), axis=axis))
    terms = max(g.size // built.case.g[0 if attrs else -1], 1)
    unit = np.finfo(built.case.dtype).eps / 2
    for result, value, bound in zip(built.results(context), expected, bounds):
        error = np.abs(result - value)
        allowed = 3 * np.sqrt(terms + 1) * unit * bound
        assert (error <= allowed).all(), (error - allowed).max()

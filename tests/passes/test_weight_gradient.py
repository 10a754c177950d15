"""Weight-gradient kernels: compiled, and interpreted, beside the op in float64.

Kernels are built on layouts made by hand and run alone, for two blocks of images, so
that what they add to is seen. Channels beyond the last and halos hold NaN where a
kernel must not read them, zeros where it relies on them.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from jitseq.codegen.llvm.compiler import Library, assembly, compile_object
from jitseq.codegen.llvm.host import LEVELS, host_target
from jitseq.codegen.llvm.render import render
from jitseq.codegen.reference import run as interpret
from jitseq.ir.graph import Node, Value
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.layout import (
    Layout,
    channels_last,
    coalesce,
    planar,
    reshape_layout,
    row_major,
)
from jitseq.ir.op import get_op
from jitseq.ir.program import Argument, Call, Program, Segment
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.product_loops import CHAIN, choose_rows, pixel_blocks
from jitseq.passes.lower.weight_gradient import (
    lower_weight_gradient,
    weight_gradient_halo,
    weight_gradient_layout,
)

RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
NATIVE = host_target()
TARGETS = {"native": NATIVE, **{k: LEVELS[k] for k in ("x86-64-v2", "x86-64-v3")}}
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


CASES = {
    "plain": conv((16, 6, 7), 32, (3, 3), origin=(1, 1)),
    "few channels": conv((3, 8, 9), 16, (3, 3), origin=(1, 1), x_order="planar"),
    "few channels, last": conv((3, 8, 9), 20, (3, 3), origin=(1, 1)),
    "one channel": conv((1, 9, 9), 6, (5, 5), origin=(2, 2)),
    "one channel, one output": conv((1, 9, 9), 1, (5, 5)),
    "wide kernel": conv((3, 21, 22), 9, (9, 9), (4, 4), (2, 2), x_order="planar"),
    "no padding": conv((20, 7, 7), 40, (5, 5)),
    "strided": conv((8, 9, 11), 24, (3, 3), (2, 2), (1, 1)),
    "strided unevenly": conv((5, 10, 13), 17, (3, 2), (2, 3), (1, 1)),
    "dilated": conv((6, 11, 12), 16, (3, 3), origin=(2, 3), dilation=(2, 3)),
    "1x1": conv((33, 5, 3), 18, (1, 1)),
    "1x1 strided": conv((7, 5, 6), 18, (1, 1), (2, 2)),
    "grouped": conv((12, 6, 5), 6, (3, 3), origin=(1, 1), groups=2),
    "many in groups": conv((40, 6, 5), 34, (3, 3), origin=(1, 1), groups=2),
    "multiplier": conv((3, 6, 5), 6, (3, 3), origin=(1, 1), groups=3),
    "depthwise": conv((21, 7, 9), 21, (3, 3), origin=(1, 1), groups=21),
    "depthwise strided": conv((16, 8, 9), 16, (3, 3), (2, 2), (1, 1), groups=16),
    "depthwise wide": conv((5, 9, 8), 5, (7, 7), origin=(3, 3), groups=5),
    "odd channels": conv((13, 5, 6), 37, (3, 3), origin=(1, 1)),
    "rows": conv((13, 5, 6), 5, (3, 3), origin=(1, 1), x_order="rows", g_order="rows"),
    "one pixel": conv((24, 1, 1), 16, (3, 3), origin=(1, 1)),
    "taps outside": conv((6, 2, 2), 8, (5, 5), origin=(4, 4)),
    "cropped": conv((6, 7, 7), 8, (2, 2), (3, 3), size=(2, 2)),
    "linear": Case((40,), (10,)),
    "linear wide": Case((100,), (70,)),
    "linear narrow": Case((3,), (1,)),
    "flat image": Case((12 * 4 * 3,), (10,), x_order=((12, 4, 3), (0, 0, 0, 0))),
    "flat image with halo": Case(
        (7 * 4 * 3,), (10,), x_order=((7, 4, 3), (1, 1, 1, 1))
    ),
    "sequence": Case((5, 12), (5, 18)),
    "grid": Case((2, 3, 20), (2, 3, 7)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str, target: str, dtype: str) -> None:
    case = Case(**{**vars(CASES[name]), "dtype": dtype})
    built = Built(case, TARGETS[target], block=3)
    x, g = random_inputs(case, 5)
    context = built.context(x, g)
    compiled(built, built.load(), context, 5)
    check(built, context, x, g)


@pytest.mark.parametrize("name", CASES)
def test_interpreted(name: str) -> None:
    """Nothing outside of a buffer is touched, the spare bytes behind it included."""
    case = CASES[name]
    built = Built(case, TARGETS["x86-64-v2"], block=1)
    x, g = random_inputs(case, 2)
    context = [array[:-SPARE] for array in built.context(x, g)]
    interpret(built.program, context, 2)
    check(built, context, x, g)


@pytest.mark.parametrize("first", [(), (7,)])
def test_no_symbolic_batch(first: tuple[int, ...]) -> None:
    """One row, or a number of rows that is part of the program."""
    case = Case((37,), (6,))
    built = Built(case, NATIVE, block=1, first=first)
    x, g = random_inputs(case, *(first or (None,)))
    context = built.context(x, g)
    compiled(built, built.load(), context, 1)
    check(built, context, x, g)


def test_a_batch_of_many_rows() -> None:
    """More rows than one sum in registers takes."""
    case = Case((20,), (3,))
    built = Built(case, NATIVE, block=3 * CHAIN)
    x, g = random_inputs(case, 2 * CHAIN + 3)
    context = built.context(x, g)
    compiled(built, built.load(), context, len(x))
    check(built, context, x, g)


@pytest.mark.parametrize("name", ["one channel", "depthwise"])
def test_long_sums_are_split(name: str) -> None:
    """Equal terms round the same way each time: eight chains of 20 000 lose 1.4e-4."""
    channels, groups = (1, 1) if name == "one channel" else (2, 2)
    case = conv((channels, 400, 400), channels, (1, 1), groups=groups)
    built = Built(case, NATIVE, block=1)
    x = np.full((1, *case.x), 0.1, np.float32)
    g = np.full((1, *case.g), 0.7, np.float32)
    context = built.context(x, g)
    compiled(built, built.load(), context, 1)
    for result, term in zip(built.results(context), (np.float64(x.flat[0]), 1.0)):
        exact = 160_000 * term * np.float64(g.flat[0])
        assert np.abs(result / exact - 1).max() < 1e-4


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", CASES)
def test_sums_stay_in_registers(name: str, level: str) -> None:
    """No vector is spilled to the stack."""
    case = CASES[name]
    text = Built(case, LEVELS[level], block=3).assembly()
    lines = [line for line in text.splitlines() if "(%rsp)" in line]
    spilled = [line for line in lines if re.search(r"%[xyz]mm\d", line)]
    assert "vfmadd" in text and not spilled, spilled[:5]


@pytest.mark.parametrize("registers", [16, 32])
def test_tiles_fit_the_registers(registers: int) -> None:
    target = LEVELS["x86-64-v4" if registers == 32 else "x86-64-v3"]
    for rows in range(1, 70):
        for vectors in (1, 2, 3, 4, 5, 8, 32):
            r, v = choose_rows(target, rows, vectors, 256, masked=True)
            assert 1 <= r <= rows and 1 <= v <= vectors
            assert r * v + v + 1 <= registers


def test_tiles_divide_the_rows() -> None:
    target = LEVELS["x86-64-v4"]
    assert choose_rows(target, 27, 1, 1024, masked=False) == (27, 1)
    for rows, vectors in ((16, 2), (20, 4), (64, 4), (512, 32)):
        r, v = choose_rows(target, rows, vectors, 256, masked=False)
        assert vectors % v == 0 and r * v >= 16
        busy = rows // r * r * v + rows % r * v
        assert busy == rows * v


def test_blocks_cover_every_row_once() -> None:
    for rows, columns in ((1, 1), (300, 300), (7, 5000), (4096, 1), (5, 1000)):
        blocks = pixel_blocks((rows, columns), CHAIN)
        assert [y for y0, y1, _, _ in blocks for y in range(y0, y1)] == [*range(rows)]
        sizes = [(y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in blocks]
        assert max(sizes) <= max(CHAIN, columns)


def test_halo_only_where_tiles_span_taps() -> None:
    def halo(case: Case) -> tuple[int, int, int, int]:
        return Built(case, NATIVE, block=1).halo

    assert halo(CASES["plain"]) == (0, 0, 0, 0)
    assert halo(CASES["few channels"]) == (1, 1, 1, 1)
    assert halo(CASES["depthwise"]) == (1, 1, 1, 1)
    assert halo(CASES["1x1"]) == (0, 0, 0, 0)


def test_layout_is_one_axis_beside_the_outputs() -> None:
    """Inputs and taps are one run of whole vectors of outputs."""
    built = Built(conv((3, 6, 5), 20, (3, 2)), LEVELS["x86-64-v4"], block=1)
    outputs, *others = built.layouts[built.dw].dims
    assert outputs == ((20, 1),)
    assert coalesce(tuple(f for dim in others for f in dim)) == ((18, 32),)
    assert built.layouts[built.dw].size == 18 * 32


def test_layout_of_a_flat_image() -> None:
    """Rows of dw are dense and in the order of the image's memory."""
    built = Built(CASES["flat image with halo"], NATIVE, block=1)
    layout = built.layouts[built.dw]
    assert layout.dims == (((10, 84),), ((7, 1), (12, 7)))
    assert layout.size == 840

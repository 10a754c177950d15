"""Weight-gradient kernels: compiled, and interpreted, beside the op in float64.

Kernels run alone, for two blocks of images and more, so that what they add to is seen.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from weight_gradient_kernels import (
    SPARE,
    Built,
    Case,
    check,
    compiled,
    conv,
    random_inputs,
)

from jitseq.codegen.llvm.host import LEVELS, host_target
from jitseq.codegen.reference import run as interpret
from jitseq.ir.layout import coalesce
from jitseq.passes.lower.product_loops import CHAIN, choose_rows, pixel_blocks

NATIVE = host_target()
TARGETS = {"native": NATIVE, **{k: LEVELS[k] for k in ("x86-64-v2", "x86-64-v3")}}

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

"""Rendered kernels in numba's simulator, beside the interpreter of grids."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from cuda_support import in_simulator, kernel_of, program_of, run_simulated

from jitseq.codegen.numba_cuda.render import number, render
from jitseq.codegen.reference_grid import run_kernel
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.program import INDEX, Launch, Type, affine
from jitseq.ir.random import uniform

SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1e30, -87.5, 0.3)
UNARY = ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "abs", "neg")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
COMPARISONS = ("lt", "gt", "le", "ge", "eq", "unordered")
LAUNCH = Launch(threads=8, items=20, items_per_block=8, per_image=True)


def everything(b: GridBuilder, element: str) -> None:
    """Shared memory, a carried loop, exchanges, tables, divisions and guards."""
    type = Type(element)
    x, out = b.buffer("x", element), b.buffer("y", element, True)
    shared, local = b.shared("s", element, 8), b.local("l", element, 2)
    thread = b.thread()
    i = b.block() * 8 + thread
    image, row, column = b.coordinates(i, (1, 4, 5))
    inside = b.below(i, affine(b.count) * 20)
    value = b.load_where(inside, x, image * 20 + row * 5 + column, type)
    b.store(shared, thread, value)
    b.store(local, 1, value)
    b.barrier()
    zero = b.const(0.0, type)

    def step(j, carried):
        other = b.load(shared, b.remainder(thread + j, 8), type)
        total = b.fma(other, b.const(0.1, type), carried[0])
        return total, b.binary("maximum", carried[1], other)

    total, largest = b.fold("step", 0, 8, 1, (zero, zero), step)
    around = b.binary("add", b.warp_add(total, 4), b.warp_maximum(value, 8))
    weight = b.table((3, 1, 4, 1, 5), b.remainder(i, 5))
    weight = weight + b.minimum_index(b.quotient(i, 3), 7) + b.round_down(i, 4)
    scaled = b.binary("mul", around, b.to_float(weight, type))
    result = b.binary("add", b.binary("sub", scaled, largest), b.load(local, 1, type))
    b.when(inside, lambda: b.store(out, i, result))


@in_simulator
@pytest.mark.parametrize("element", ("f32", "f64"))
def test_a_kernel_of_everything(element: str) -> None:
    kernel = kernel_of(partial(everything, element=element))
    dtype = {"f32": np.float32, "f64": np.float64}[element]
    x = np.random.default_rng(0).normal(size=60).astype(dtype)
    found, expected = np.full(60, np.nan, dtype), np.full(60, np.nan, dtype)
    run_simulated(kernel, [x, found], 3, LAUNCH)
    run_kernel(kernel, [x, expected], 3, LAUNCH)
    bound = {"f32": 1e-6, "f64": 1e-14}[element] * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, 0, bound)


@in_simulator
def test_functions_on_special_numbers() -> None:
    """Every function on every pair, with NaN where the interpreter has NaN."""
    pairs = np.array([(a, b) for a in SPECIAL for b in SPECIAL], np.float32)
    type, size = Type("f32"), len(pairs)
    ops = (*UNARY, *BINARY, *COMPARISONS)

    def build(b: GridBuilder) -> None:
        x, y = b.buffer("x", "f32"), b.buffer("y", "f32")
        out = b.buffer("out", "f32", True)
        i = b.block() * 8 + b.thread()
        u, v = b.load(x, i, type), b.load(y, i, type)
        one, zero = b.const(1.0, type), b.const(0.0, type)
        for k, op in enumerate(ops):
            if op in COMPARISONS:
                mask = b.emit(op, Type("mask"), u, v)
                value = b.emit("select", type, mask, one, zero)
            else:
                value = b.emit(op, type, u, *(() if op in UNARY else (v,)))
            b.store(out, i + k * size, value)

    kernel = kernel_of(build)
    launch = Launch(8, size, 8, False)
    x, y = (np.ascontiguousarray(column) for column in pairs.T)
    found, expected = np.zeros((2, len(ops) * size), np.float32)
    run_simulated(kernel, [x, y, found], 1, launch)
    run_kernel(kernel, [x, y, expected], 1, launch)
    np.testing.assert_array_equal(found, expected)


@in_simulator
def test_random_numbers_are_those_of_the_host() -> None:
    key = np.array([0xFFFFFFF0, 0x12345678], np.uint32)

    def build(b: GridBuilder) -> None:
        source, out = b.buffer("key", "u32"), b.buffer("out", "f32", True)
        i = b.block() * 8 + b.thread()
        b.store(out, i, b.uniform(source, i, Type("f32"), 0))

    found = np.zeros(40, np.float32)
    run_simulated(kernel_of(build), [key, found], 1, Launch(8, 40, 8, False))
    np.testing.assert_array_equal(found, uniform(key, (40,), np.float32))


@in_simulator
def test_values_that_change_places_in_a_loop() -> None:
    """Carried registers are assigned all at once."""

    def build(b: GridBuilder) -> None:
        out = b.buffer("out", "f32", True)
        start = (b.const(1.0, Type("f32")), b.const(2.0, Type("f32")))
        a, c = b.fold("i", 0, 3, 1, start, lambda i, pair: (pair[1], pair[0]))
        b.store(out, b.thread() * 2, a)
        b.store(out, b.thread() * 2 + 1, c)

    found = np.zeros(16, np.float32)
    run_simulated(kernel_of(build), [found], 1, Launch(8, 8, 8, False))
    np.testing.assert_array_equal(found.reshape(8, 2), np.tile([2.0, 1.0], (8, 1)))


@in_simulator
@pytest.mark.parametrize("element, dtype", (("i64", "int64"), ("u8", "uint8")))
def test_integers_in_memory_are_numbers_in_registers(element: str, dtype: str) -> None:
    def build(b: GridBuilder) -> None:
        x, out = b.buffer("x", element), b.buffer("out", "f32", True)
        half = b.const(0.5, Type("f32"))
        loaded = b.load(x, b.thread(), Type("f32"))
        b.store(out, b.thread(), b.binary("mul", loaded, half))

    found = np.zeros(8, np.float32)
    labels = np.arange(8).astype(dtype)
    run_simulated(kernel_of(build), [labels, found], 1, Launch(8, 8, 8, False))
    np.testing.assert_array_equal(found, np.arange(8) / 2)


@in_simulator
def test_an_access_outside_is_an_error() -> None:
    def build(b: GridBuilder) -> None:
        out = b.buffer("out", "f32", True)
        b.store(out, b.thread() + 1, b.const(1.0, Type("f32")))

    with pytest.raises(IndexError, match="element 8 of 8"):
        run_simulated(
            kernel_of(build), [np.zeros(8, np.float32)], 1, Launch(8, 8, 8, False)
        )


def test_text() -> None:
    def build(b: GridBuilder) -> None:
        x, out = b.buffer("x", "f32"), b.buffer("out", "f32", True)
        shared = b.shared("tile", "f32", 4)

        def body(row):
            i = b.block() * 12 + b.thread() * 3 + -2
            mask = b.inside(i, affine(b.count) * 7)
            value = b.load_where(mask, x, i + row, Type("f32"))
            b.store(shared, b.remainder(i, 4), value)
            b.when(mask, lambda: b.store(out, i, value))

        b.loop("lambda", 0, 3, 1, body)
        b.loop("lambda", 4, affine(b.count), 2, body)

    text = render(program_of(kernel_of(build)))
    for line in (
        "def k0_test(in0, out1, images):",
        "    thread = cuda.threadIdx.x",
        "    tile = cuda.shared.array(4, f32)",
        "    for lambda_2 in range(3):",
        "    for lambda_3 in range(4, images, 2):",
        "        m2 = 12 * block + 3 * thread - 2 < 7 * images",
        "        v4 = in0[12 * block + 3 * thread + lambda_2 - 2] if m3 else f32(0.0)",
        "        i5 = (12 * block + 3 * thread - 2) & 3",
        "        tile[u64(i5)] = v4",
        "        if m3:",
        "            out1[12 * block + 3 * thread - 2] = v4",
    ):
        assert line in text.split("\n"), line
    compile(text, "text", "exec")
    aligned = render(program_of(kernel_of(build)), aligned=True)
    assert aligned == text.replace("array(4, f32)", "array(4, f32, 16)")
    assert text == render(program_of(kernel_of(build)))


def test_constants() -> None:
    found = [number(value, "f32") for value in (0.1, math.inf, -math.inf, math.nan)]
    assert found == ["f32(0.1)", "f32(inf)", "f32(-inf)", "f32(nan)"]


def test_tables_are_written_once() -> None:
    def build(b: GridBuilder) -> None:
        out = b.buffer("out", "f32", True)
        for _ in range(2):
            index = b.table((5, 1, 3), b.thread())
            b.store(out, index, b.to_float(index, Type("f32")))

    text = render(program_of(kernel_of(build)))
    assert text.count("array([5, 1, 3], int64)") == 1
    assert text.count("cuda.const.array_like") == 1
    assert INDEX.element == "i64"

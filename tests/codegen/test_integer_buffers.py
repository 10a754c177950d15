"""Buffers of integers: what is loaded as floats, and stored from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kernel_harness import TARGETS, compiled

from jitseq.codegen.reference import DTYPES, run
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Argument, Buffer, Call, Program, Reg, Segment, Type

INTEGERS = ("u8", "i32", "u32", "i64")
FLOATS = ("f32", "f64")
LANES = (1, 4, 8)
COUNT = 32


def numbers(element: str) -> np.ndarray:
    """The extremes of the type, and what does not fit its signed counterpart."""
    dtype = DTYPES[element]
    info = np.iinfo(dtype)
    edge = [info.min, info.max, info.max // 2 + 1, 0, 1, 7, (1 << 24) + 1, -3, -200]
    kept = [value for value in edge if info.min <= value <= info.max]
    return np.resize(np.array(kept, dtype), COUNT)


def execute(
    emit: Callable[[KernelBuilder, Buffer, Buffer], None],
    source: np.ndarray,
    elements: tuple[str, str],
) -> np.ndarray:
    """What the kernel writes: interpreted and compiled, which must be equal."""
    builder = KernelBuilder()
    buffers = builder.buffer("x", elements[0]), builder.buffer("y", elements[1], True)
    emit(builder, *buffers)
    arguments = tuple(Argument("context", slot, 0, 0) for slot in range(2))
    segment = Segment((Call(0, arguments),), 1)
    program = Program((builder.finish("kernel"),), (segment,), 2, 0, ())
    results = [np.zeros(COUNT, DTYPES[elements[1]]) for _ in range(2)]
    run(program, [source, results[0]], 1)
    compiled(program, TARGETS["native"]())([source, results[1]], 1)
    np.testing.assert_array_equal(*results)
    return results[1]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("real", FLOATS)
@pytest.mark.parametrize("element", INTEGERS)
def test_load(element, real, lanes) -> None:
    source, type = numbers(element), Type(real, lanes)

    def emit(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
        b.loop("i", 0, COUNT, lanes, lambda i: b.store(y, i, b.load(x, i, type)))

    result = execute(emit, source, (element, real))
    np.testing.assert_array_equal(result, source.astype(DTYPES[real]))


@pytest.mark.parametrize("real", FLOATS)
@pytest.mark.parametrize("element", INTEGERS)
def test_masked_load_gather_and_splat(element, real) -> None:
    source, type = numbers(element)[:23].copy(), Type(real, 8)
    loads: list[Callable[[KernelBuilder, Buffer], Reg]] = [
        lambda b, x: b.load(x, 20, type, 3),
        lambda b, x: b.gather(x, 1, type, 3),
        lambda b, x: b.gather(x, 2, type, 5, 5),
        lambda b, x: b.load_splat(x, 1, type),
    ]

    def emit(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
        for number, load in enumerate(loads):
            b.store(y, 8 * number, load(b, x))

    result = execute(emit, source, (element, real)).reshape(4, 8)
    wide = source.astype(DTYPES[real])
    np.testing.assert_array_equal(result[0], [*wide[20:], *[0] * 5])
    np.testing.assert_array_equal(result[1], wide[1:23:3])
    np.testing.assert_array_equal(result[2], [*wide[2:23:5], *[0] * 3])
    np.testing.assert_array_equal(result[3], wide[[1] * 8])


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("real", FLOATS)
@pytest.mark.parametrize("element", INTEGERS)
def test_store_truncates(element, real, lanes) -> None:
    signed = element.startswith("i")
    source = np.linspace(-99.75 * signed, 200.5, COUNT).astype(DTYPES[real])
    type = Type(real, lanes)

    def emit(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
        b.loop("i", 0, COUNT, lanes, lambda i: b.store(y, i, b.load(x, i, type)))

    result = execute(emit, source, (real, element))
    np.testing.assert_array_equal(result, np.trunc(source))


@pytest.mark.parametrize("element", INTEGERS)
def test_masked_store_leaves_the_rest(element) -> None:
    type = Type("f32", 8)

    def emit(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
        b.store(y, 4, b.load(x, 0, type), 3)

    source = np.arange(5, 37, dtype="float32")
    result = execute(emit, source, ("f32", element))
    np.testing.assert_array_equal(result[4:7], [5, 6, 7])
    assert not result[:4].any() and not result[7:].any()


@pytest.mark.parametrize("element", INTEGERS)
def test_integers_are_copied_as_they_are(element) -> None:
    """Where the register holds integers too, nothing is rounded."""
    source, type = numbers(element), Type(element, 8)

    def emit(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
        b.loop("i", 0, 24, 8, lambda i: b.store(y, i, b.load(x, i, type)))
        b.store(y, 24, b.const(7, type))

    result = execute(emit, source, (element, element))
    np.testing.assert_array_equal(result, [*source[:24], *[7] * 8])


def test_equal() -> None:
    """NaN equals nothing; zeros of both signs are equal."""
    type = Type("f32", 4)
    values = np.array([1, 0, np.nan, 2, 1, -0.0, np.nan, 3], "float32")

    def emit(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
        halves = b.load(x, 0, type), b.load(x, 4, type)
        mask = b.emit("eq", Type("mask", 4), *halves)
        chosen = b.const(1, type), b.const(0, type)
        b.store(y, 0, b.emit("select", type, mask, *chosen))

    result = execute(emit, np.resize(values, COUNT), ("f32", "f32"))
    np.testing.assert_array_equal(result[:4], [1, 1, 0, 0])

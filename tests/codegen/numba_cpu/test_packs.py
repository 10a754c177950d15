"""Grouping keeps the meaning of hand-made kernels, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from source_runs import F32X4, HEADER, depthwise, numbers, ops_of, run_kernel_checked

from jitseq.codegen.numba_cpu.calls import load_source
from jitseq.codegen.numba_cpu.render import kernel_source
from jitseq.codegen.reference import Pointer
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Kernel, Type


def test_sums_in_memory_wait_for_each_other() -> None:
    """Each adds to what the one before has stored, at overlapping places."""
    b = KernelBuilder()
    out = b.buffer("y", "f32", written=True)
    one = b.const(1.0, F32X4)
    for at in (0, 2, 4, 6):
        b.store(out, at, b.binary("add", b.load(out, at, F32X4), one))
    kernel = b.finish("row")
    (result,) = run_kernel_checked(kernel, [np.zeros(10, np.float32)])
    np.testing.assert_array_equal(result, [1, 1, 2, 2, 2, 2, 2, 2, 1, 1])
    assert ops_of(kernel)["store"] == 4


def test_sums_at_different_places_are_one_statement() -> None:
    b = KernelBuilder()
    out = b.buffer("y", "f32", written=True)
    one = b.const(1.0, F32X4)
    for at in (0, 4, 8):
        b.store(out, at, b.binary("add", b.load(out, at, F32X4), one))
    kernel = b.finish("row")
    assert ops_of(kernel) == {"load": 1, "add": 1, "store": 1}
    (result,) = run_kernel_checked(kernel, [np.zeros(12, np.float32)])
    np.testing.assert_array_equal(result, np.ones(12))


def test_places_that_differ_by_a_variable_may_overlap() -> None:
    b = KernelBuilder()
    out = b.buffer("y", "f32", written=True)

    def body(i):
        first = b.load(out, 0, F32X4)
        b.store(out, i, b.binary("add", first, first))
        b.store(out, 4, b.load(out, 0, F32X4))

    b.loop("i", 0, 4, 1, body)
    kernel = b.finish("moving")
    start = numbers(2, 8)
    (result,) = run_kernel_checked(kernel, [start])
    expected = start.copy()
    for i in range(4):
        expected[i : i + 4] = 2 * expected[:4].copy()
        expected[4:] = expected[:4]
    np.testing.assert_array_equal(result, expected)


def test_the_last_store_wins() -> None:
    b = KernelBuilder()
    x, out = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    for at, valid in ((0, None), (2, 3), (1, None), (5, 1)):
        b.store(out, at, b.load(x, 8 * at, F32X4), valid)
    start = numbers(3)
    _, result = run_kernel_checked(b.finish("stores"), [start, np.zeros(6, np.float32)])
    np.testing.assert_array_equal(result[1:5], start[8:12])
    np.testing.assert_array_equal(result[[0, 5]], start[[0, 40]])


def test_pinned_pointers_lead_to_their_buffer() -> None:
    """What is read through one pin is what was stored through another."""
    b = KernelBuilder()
    out = b.buffer("y", "f32", written=True)
    first, second = b.pin(out, 1), b.pin(out, 3)
    b.store(first, 3, b.const(7.0, F32X4))
    b.store(out, 8, b.load(second, 1, F32X4))
    (result,) = run_kernel_checked(b.finish("pins"), [np.zeros(12, np.float32)])
    np.testing.assert_array_equal(result[4:], np.full(8, 7))


def test_carried_registers_change_at_the_same_time() -> None:
    """Fibonacci numbers: one register takes the other's old value."""
    b = KernelBuilder()
    out = b.buffer("y", "f64", written=True)
    type = Type("f64")
    start = [b.const(0.0, type), b.const(1.0, type), b.const(0.5, type)]

    def body(i, sums):
        previous, last, largest = sums
        total = b.binary("add", previous, last)
        return [last, total, b.binary("maximum", largest, previous)]

    for number, register in enumerate(b.fold("i", 0, 10, 1, start, body)):
        b.store(out, number, register)
    (result,) = run_kernel_checked(b.finish("fibonacci"), [np.zeros(3)])
    np.testing.assert_array_equal(result, [55, 89, 34])


def test_a_loop_that_never_runs_leaves_what_entered() -> None:
    b = KernelBuilder()
    x, out = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    entering = [b.load(x, 4 * i, F32X4) for i in range(2)]

    def body(i, sums):
        return [b.binary("add", value, value) for value in sums]

    results = b.fold("i", 2, b.minimum_index(b.count, 2), 1, entering, body)
    for number, register in enumerate(reversed(results)):
        b.store(out, 4 * number, register)
    start = numbers(4, 8)
    _, result = run_kernel_checked(b.finish("none"), [start, np.zeros(8, np.float32)])
    np.testing.assert_array_equal(result, np.roll(start, 4))


def test_each_tap_loads_its_inputs() -> None:
    b = KernelBuilder()
    x, out = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    inputs = [b.load(x, 4 * at, F32X4) for at in range(5)]
    for number, total in enumerate(depthwise(b, inputs)):
        b.store(out, 4 * number, total)
    kernel = b.finish("depthwise")
    assert ops_of(kernel) == {"load": 3, "fma": 3, "store": 1}
    run_kernel_checked(kernel, [numbers(5), np.zeros(12, np.float32)])


def test_what_is_overwritten_is_loaded_once() -> None:
    """The inputs lie where zeros are stored before the sums are computed.

    Two of them have been stored just before, so that there are two groups of loads.
    """
    b = KernelBuilder()
    out = b.buffer("y", "f32", written=True)
    for at in (3, 4):
        b.store(out, 4 * at, b.const(3.0, F32X4))
    inputs = [b.load(out, 4 * at, F32X4) for at in range(5)]
    for at in range(5):
        b.store(out, 4 * at, b.const(0.0, F32X4))
    for number, total in enumerate(depthwise(b, inputs)):
        b.store(out, 4 * number, total)
    (result,) = run_kernel_checked(b.finish("in_place"), [numbers(5, 20)])
    assert result[:12].all() and not result[12:].any()


def test_a_splat_with_other_readers_stays() -> None:
    b = KernelBuilder()
    x, out = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    splat, w = b.load_splat(x, 3, F32X4), b.load(x, 8, F32X4)
    b.store(out, 0, b.fma(splat, w, w))
    b.store(out, 4, splat)
    kernel = b.finish("two_readers")
    assert not ops_of(kernel)["outer_fma"]
    run_kernel_checked(kernel, [numbers(6), np.zeros(8, np.float32)])


@pytest.mark.parametrize("value", [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 0.1])
@pytest.mark.parametrize("element", ["f32", "f64"])
def test_constants_keep_their_bits(value, element) -> None:
    b = KernelBuilder()
    out = b.buffer("y", element, written=True)
    b.store(out, 0, b.const(value, Type(element, 2)))
    b.store(out, 2, b.const(0.0, Type(element, 2)))
    dtype = {"f32": np.float32, "f64": np.float64}[element]
    (result,) = run_kernel_checked(b.finish("constant"), [np.ones(4, dtype)])
    np.testing.assert_array_equal(result, np.array([value, value, 0, 0], dtype))
    assert np.signbit(result[0]) == np.signbit(value)


def test_accesses_outside_of_a_buffer_are_refused() -> None:
    b = KernelBuilder()
    x, out = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    b.store(out, 0, b.load(x, 2, F32X4, valid=3), valid=2)
    kernel = b.finish("edge")
    _, result = run_kernel_checked(
        kernel, [np.arange(5, dtype="f4"), np.zeros(2, "f4")]
    )
    np.testing.assert_array_equal(result, [2, 3])
    with pytest.raises(IndexError, match="load: element 4 of 4"):
        run_source_only(kernel, [np.arange(4, dtype="f4"), np.zeros(2, "f4")])
    with pytest.raises(IndexError, match="store: element 1 of 1"):
        run_source_only(kernel, [np.arange(5, dtype="f4"), np.zeros(1, "f4")])


def run_source_only(kernel: Kernel, arrays: list[np.ndarray]) -> None:
    function = load_source(HEADER + kernel_source(kernel))[kernel.name]
    function(*(Pointer(array, 0) for array in arrays), 1, 0)

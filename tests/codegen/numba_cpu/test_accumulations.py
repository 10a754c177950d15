"""Steps of register tiles become one statement, where that changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from source_runs import F32X4, depthwise, numbers, ops_of, run_kernel_checked

from jitseq.codegen.numba_cpu.render import kernel_source
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Kernel


def tile(b: KernelBuilder, unroll: int, pinned: bool = False) -> Kernel:
    """Four splats times two vectors of weights, in steps of a loop over 6."""
    x, w, out = b.buffer("x", "f32"), b.buffer("w", "f32"), b.buffer("y", "f32", True)

    def body(i, sums):
        for step in range(unroll):
            at = i + step
            weights = [b.load(w, at * 8 + 4 * v, F32X4) for v in range(2)]
            b.prefetch(w, at * 8 + 64)
            b.prefetch(w, at * 8 + 68)
            pointer, first = (b.pin(x, at), 0) if pinned else (x, at)
            results = []
            for r in range(4):
                splat = b.load_splat(pointer, first + 10 * r, F32X4)
                factors = [(weights[v], sums[2 * r + v]) for v in range(2)]
                results += [b.fma(splat, weight, total) for weight, total in factors]
            sums = results
        return sums

    zero = b.const(0.0, F32X4)
    sums = b.fold("i", 0, 6, unroll, [zero] * 8, body)
    for number, total in enumerate(sums):
        b.store(out, 4 * number, total)
    return b.finish("register_tile")


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("unroll", [1, 3])
def test_a_register_tile_is_one_statement(unroll, pinned) -> None:
    kernel = tile(KernelBuilder(), unroll, pinned)
    assert ops_of(kernel) == {"accumulate": 1, "store": 1}
    source = " ".join(kernel_source(kernel).split())
    steps = ", x_steps=(0, 1, 2), w_steps=(0, 8, 16)" if unroll == 3 else ""
    steps += ", pinned=True" if pinned else ""
    assert (
        "acc = accumulate(in0, i, in1, 8*i, acc, rows=(0, 10, 20, 30), "
        f"columns=(0, 4){steps}, ahead=64)"
    ) in source
    inputs = [numbers(0), numbers(1), np.zeros(32, np.float32)]
    _, _, result = run_kernel_checked(kernel, inputs)
    rows = np.stack([inputs[0][10 * r : 10 * r + 6] for r in range(4)])
    expected = rows.astype(np.float64) @ inputs[1][:48].reshape(6, 8)
    np.testing.assert_allclose(result.reshape(4, 8), expected, 1e-5, 1e-6)


def test_weights_of_its_own_for_each_sum() -> None:
    """Two chains of sums, each over every other element."""
    b = KernelBuilder()
    x, w, out = b.buffer("x", "f32"), b.buffer("w", "f32"), b.buffer("y", "f32", True)
    zero = b.const(0.0, F32X4)
    sums = [zero] * 4
    for at in (0, 2):
        splats = [b.load_splat(x, at + chain, F32X4) for chain in range(2)]
        sums = [
            b.fma(splats[k // 2], b.load(w, 8 * at + 4 * k, F32X4), sums[k])
            for k in range(4)
        ]
    for number, total in enumerate(sums):
        b.store(out, 4 * number, total)
    kernel = b.finish("chains")
    assert ops_of(kernel) == {"accumulate": 1, "store": 1}
    inputs = [numbers(0), numbers(1), np.zeros(16, np.float32)]
    _, _, result = run_kernel_checked(kernel, inputs)
    expected = inputs[0][:4] @ inputs[1][:32].reshape(4, 8)
    halves = result.reshape(2, 8)
    np.testing.assert_allclose(halves[0] + halves[1], expected, 1e-5, 1e-6)


def test_products_of_vectors_are_one_statement() -> None:
    """Three taps of three outputs: vectors along the channels, weights too."""
    b = KernelBuilder()
    x, w, out = b.buffer("x", "f32"), b.buffer("w", "f32"), b.buffer("y", "f32", True)
    taps = [b.load(w, 4 * tap, F32X4) for tap in range(3)]
    sums = depthwise(b, [b.load(x, 4 * at, F32X4) for at in range(5)], taps)
    for number, total in enumerate(sums):
        b.store(out, 4 * number, total)
    kernel = b.finish("vectors")
    assert ops_of(kernel) == {"accumulate": 1, "store": 1}
    assert "vectors=True" in kernel_source(kernel)
    run_kernel_checked(kernel, [numbers(5), numbers(6), np.zeros(12, np.float32)])


def test_pinned_weights() -> None:
    """Vectors of pixels, of which the next one overlaps, times an element each."""
    b = KernelBuilder()
    x, w, out = b.buffer("x", "f32"), b.buffer("w", "f32"), b.buffer("y", "f32", True)
    sums = [b.const(0.0, F32X4)] * 4
    for tap in range(3):
        pixels = b.pin(x, tap)
        rows = [b.load(pixels, 10 * row, F32X4) for row in range(2)]
        weights = [b.load_splat(w, 3 * o + tap, F32X4) for o in range(2)]
        sums = [b.fma(rows[k % 2], weights[k // 2], sums[k]) for k in range(4)]
    for number, total in enumerate(sums):
        b.store(out, 4 * number, total)
    kernel = b.finish("columns")
    assert ops_of(kernel) == {"accumulate": 1, "store": 1}
    assert "w_pinned=True" in kernel_source(kernel)
    run_kernel_checked(kernel, [numbers(5), numbers(6), np.zeros(16, np.float32)])


def test_accumulations_stay_behind_other_readers() -> None:
    """A sum that is stored between two steps ends the statement."""
    b = KernelBuilder()
    x, w, out = b.buffer("x", "f32"), b.buffer("w", "f32"), b.buffer("y", "f32", True)
    total = b.const(0.0, F32X4)
    for step in range(3):
        weight = b.load(w, 4 * step, F32X4)
        total = b.fma(b.load_splat(x, step, F32X4), weight, total)
        if step == 1:
            b.store(out, 0, total)
    b.store(out, 4, total)
    kernel = b.finish("prefix")
    assert ops_of(kernel) == {"accumulate": 2, "store": 2}
    run_kernel_checked(kernel, [numbers(5), numbers(6), np.zeros(8, np.float32)])


def test_factors_that_are_overwritten_stay() -> None:
    """They are loaded before zeros take their place, and multiplied behind that."""
    b = KernelBuilder()
    w, out = b.buffer("w", "f32"), b.buffer("y", "f32", written=True)
    splat, weight = b.load_splat(out, 2, F32X4), b.load(w, 0, F32X4)
    b.store(out, 0, b.const(0.0, F32X4))
    b.store(out, 4, b.fma(splat, weight, weight))
    start = [numbers(5, 4), numbers(6, 8)]
    _, result = run_kernel_checked(b.finish("overwritten"), start)
    expected = start[1][2] * start[0] + start[0]
    np.testing.assert_allclose(result[4:], expected, 1e-5, 1e-6)


def test_sums_that_change_places_end_a_statement() -> None:
    """The second step adds its products to the sums in another order."""
    b = KernelBuilder()
    x, w, out = b.buffer("x", "f32"), b.buffer("w", "f32"), b.buffer("y", "f32", True)
    sums = [b.const(0.5 * number, F32X4) for number in range(3)]
    for step in range(2):
        weight = b.load(w, 4 * step, F32X4)
        splats = [b.load_splat(x, 10 * row + step, F32X4) for row in range(3)]
        sums = [b.fma(splats[k], weight, sums[(k + step) % 3]) for k in range(3)]
    for number, total in enumerate(sums):
        b.store(out, 4 * number, total)
    kernel = b.finish("rotated")
    assert ops_of(kernel)["accumulate"] == 2
    run_kernel_checked(kernel, [numbers(5), numbers(6), np.zeros(12, np.float32)])

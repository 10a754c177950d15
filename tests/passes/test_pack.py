"""Both packers against one written with NumPy's transpositions.

`reference` says what the packed order of each kind is. The pieces must fill exactly
its elements; NumPy's packer and the kernels, interpreted and compiled, must give its
bits. The interpreter refuses accesses outside of a buffer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitseq.codegen.llvm.compiler import Library, compile_object
from jitseq.codegen.llvm.host import host_target
from jitseq.codegen.llvm.render import render
from jitseq.codegen.reference import Pointer, run_kernel
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.packing import RAW, Pack, pack_pieces, packed_size
from jitseq.ir.program import Argument, Buffer, Call, Kernel, Program, Segment
from jitseq.ir.target import Target
from jitseq.passes.lower.nest import View, emit_copy
from jitseq.passes.lower.pack import lower_pack
from jitseq.runtime.packing import pack_all

AVX512 = Target("x86-64-v4", "", 64, 32)
ELEMENTS = {"float32": "f32", "float64": "f64"}
Shape = tuple[int, ...]


def grid(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    return tuple((ky, kx) for ky in range(rows) for kx in range(columns))


def weights(
    axes: str, shape: Shape, widths: tuple[int, ...], **options: object
) -> tuple[Shape, Pack]:
    """A case whose taps are all and whose channels are in logical order."""
    groups = options.get("groups", 1)
    inputs = shape[1] if axes[0] == "o" else shape[0] // groups
    taps = grid(*shape[2:]) if shape[2:] else ((0, 0),)
    pack = Pack("weights", 1, axes, 16, widths, taps, ((inputs, 1),))
    return shape, replace(pack, **options)


CASES: dict[str, tuple[Shape, Pack]] = {
    "raw": ((3, 7), RAW),
    "raw, one number": ((), RAW),
    "bias": ((19,), Pack("lanes", lanes=16)),
    "bias, groups": ((18,), Pack("lanes", groups=2, lanes=4)),
    "bias, one lane": ((3,), Pack("lanes", lanes=1)),
    "linear": weights("oi", (64, 40), (2, 2)),
    "linear, last tile": weights("oi", (90, 21), (2, 2, 2)),
    "linear, narrow last tile": weights("oi", (83, 3), (2, 2, 1, 1)),
    "linear behind an image": weights(
        "oi", (20, 36), (2,), channels=((12, 1), (3, 12))
    ),
    "linear, one output": weights("oi", (33, 5), (2, 1)),
    "linear input gradient": weights("io", (10, 40), (2, 1)),
    "convolution": weights("oihw", (32, 5, 3, 3), (2,)),
    "convolution, last tile": weights("oihw", (40, 2, 3, 3), (2, 1)),
    "few channels": weights("oihw", (5, 3, 2, 2), (1,)),
    "groups": weights("oihw", (12, 2, 3, 1), (1, 1), groups=2, lanes=4),
    "taps outer": weights("oihw", (20, 3, 8, 7), (1, 1), taps_outer=True),
    "transposed": weights("iohw", (6, 20, 3, 3), (2,)),
    "transposed, wide": weights("iohw", (3, 36, 5, 4), (2, 1)),
    "transposed, groups": weights("iohw", (6, 5, 2, 2), (2,), groups=3, lanes=4),
    "transposed, taps outer": weights("iohw", (4, 9, 8, 8), (1,), taps_outer=True),
    "every second tap": weights(
        "iohw", (6, 20, 3, 3), (1, 1), taps=((0, 0), (0, 2), (2, 0), (2, 2))
    ),
    "one tap": weights("oihw", (20, 6, 3, 3), (1, 1), taps=((1, 2),)),
    "taps from the last": weights("oihw", (20, 6, 3, 3), (2,), taps=grid(3, 3)[::-1]),
    "no grid of taps": weights(
        "oihw", (20, 6, 3, 3), (2,), taps=((0, 0), (0, 1), (1, 1), (2, 1), (0, 2))
    ),
    "rows": ((2, 21, 3, 3), Pack("rows", 1, "oihw", 16, (), grid(3, 3), ((21, 1),))),
    "rows, linear": ((3, 37), Pack("rows", 1, "oi", 16, (), ((0, 0),), ((37, 1),))),
    "rows, transposed": (
        (20, 2, 2, 3), Pack("rows", 1, "iohw", 16, (), grid(2, 3), ((20, 1),)),
    ),
    "runs": ((6, 20, 3, 5), Pack("runs", 1, "iohw", 16, (), grid(3, 5), ((6, 1),))),
    "runs, some rows": (
        (21, 3, 4, 4),
        Pack("runs", 1, "iohw", 8, (), ((3, 1), (3, 2), (1, 1), (1, 2)), ((21, 1),)),
    ),
    "runs, rows in no order": (
        (5, 2, 4, 2),
        Pack("runs", 1, "iohw", 4, (),
             ((0, 0), (0, 1), (2, 0), (2, 1), (1, 0), (1, 1)), ((5, 1),)),
    ),
    "depthwise": ((21, 1, 3, 3), Pack("channels", 1, "oihw", 16, (), grid(3, 3))),
    "depthwise, some taps": (
        (5, 1, 4, 4), Pack("channels", 1, "iohw", 16, (), ((1, 1), (1, 3))),
    ),
}  # fmt: skip


def padded(array: np.ndarray, lanes: int) -> np.ndarray:
    """The last axis filled up with zeros to a multiple of ``lanes``."""
    missing = -array.shape[-1] % lanes
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


def by_tap(array: np.ndarray, pack: Pack) -> np.ndarray:
    """``[group, tap, channel, output]``, channels in the order of the reduction."""
    if array.ndim == 2:
        array = (array if pack.axes == "oi" else array.T)[:, :, None, None]
    elif pack.axes == "iohw":
        inputs, outputs = array.shape[0] // pack.groups, array.shape[1]
        array = array.reshape(pack.groups, inputs, outputs, *array.shape[2:])
        array = array.swapaxes(1, 2).reshape(-1, inputs, *array.shape[3:])
    array = array.reshape(pack.groups, -1, *array.shape[1:])
    picked = np.stack([array[..., ky, kx] for ky, kx in pack.taps], axis=1)
    order = np.zeros(1, np.int64)
    for extent, stride in pack.channels:
        order = (order[:, None] + np.arange(extent) * stride).reshape(-1)
    return picked.swapaxes(2, 3)[:, :, order]


def reference(array: np.ndarray, pack: Pack) -> np.ndarray:
    """The packed buffer, padding included."""
    if pack.kind == "raw":
        return np.concatenate([array.reshape(-1), np.zeros(16, array.dtype)])
    if pack.kind == "lanes":
        return padded(array.reshape(pack.groups, -1), pack.lanes).reshape(-1)
    if pack.kind == "channels":
        taps = [array[:, 0, ky, kx] for ky, kx in pack.taps]
        return padded(np.stack(taps), pack.lanes).reshape(-1)
    picked = by_tap(array, pack)
    if pack.kind == "runs":
        columns = sum(ky == pack.taps[0][0] for ky, _ in pack.taps)
        rows = picked[0].reshape(-1, columns, *picked.shape[2:]).swapaxes(1, 2)
        runs = padded(rows.reshape(*rows.shape[:2], -1), pack.lanes)
        return np.concatenate([runs.reshape(-1), np.zeros(pack.lanes, array.dtype)])
    if pack.kind == "rows":
        return padded(picked.transpose(0, 3, 1, 2), pack.lanes).reshape(-1)
    vectors = padded(picked, pack.lanes)
    if not pack.taps_outer:
        vectors = vectors.swapaxes(1, 2)
    stops = np.cumsum(pack.widths) * pack.lanes
    tiles = np.split(vectors, stops[:-1], axis=-1)
    flat = [tile.reshape(pack.groups, -1) for tile in tiles]
    return np.concatenate(flat, axis=1).reshape(-1)


def parameter(shape: Shape, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(dtype)


def kernel_of(emit: Callable[..., None], dtype: str) -> Kernel:
    builder = KernelBuilder()
    source = builder.buffer("in0", ELEMENTS[dtype])
    out = builder.buffer("out1", ELEMENTS[dtype], written=True)
    emit(builder, source, out)
    return builder.finish("pack")


def interpreted(kernel: Kernel, array: np.ndarray, size: int) -> np.ndarray:
    result = np.zeros(size, array.dtype)
    source = np.ascontiguousarray(array).reshape(-1)
    run_kernel(kernel, [Pointer(source, 0), Pointer(result, 0)], 1)
    return result


def compiled(kernel: Kernel, array: np.ndarray, size: int) -> np.ndarray:
    target = host_target()
    arguments = tuple(Argument("context", slot, 0, 0) for slot in (0, 1))
    segment = Segment((Call(0, arguments),), 1)
    program = Program((kernel,), (segment,), 2, 0, ())
    library = Library(compile_object(render(program, target), target), ("jitseq_run",))
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    source, result = np.ascontiguousarray(array), np.zeros(size, array.dtype)
    context = (ctypes.c_void_p * 2)(source.ctypes.data, result.ctypes.data)
    run(library.address("jitseq_run"))(context, None, 1)
    return result


def packing_kernel(pack: Pack, shape: Shape, dtype: str, target: Target) -> Kernel:
    def emit(builder: KernelBuilder, source: Buffer, out: Buffer) -> None:
        lower_pack(builder, pack, shape, source, out, target)

    return kernel_of(emit, dtype)


@pytest.mark.parametrize("name", CASES)
def test_pieces_fill_what_is_not_padding_once(name) -> None:
    shape, pack = CASES[name]
    writes = np.zeros(packed_size(pack, shape), int)
    reads = np.zeros(max(1, int(np.prod(shape))), int)
    for piece in pack_pieces(pack, shape):
        source, packed = np.array(piece.source_offset), np.array(piece.packed_offset)
        for extent, read, written in piece.dims:
            assert written > 0
            source = source[..., None] + np.arange(extent) * read
            packed = packed[..., None] + np.arange(extent) * written
        np.add.at(writes, packed.reshape(-1), 1)
        np.add.at(reads, source.reshape(-1), 1)
    np.testing.assert_array_equal(writes, reference(np.ones(shape), pack))
    assert reads.max() == 1


def test_pieces_do_not_grow_with_channels_or_taps() -> None:
    for outputs in (256, 250):
        for side in (1, 3, 9):
            widths = (3,) * 5 + (1,)
            shape, pack = weights("oihw", (outputs, 96, side, side), widths)
            assert len(pack_pieces(pack, shape)) == 2
    every_second = tuple((ky, kx) for ky in (1, 3) for kx in (0, 2, 4))
    shape, pack = weights("iohw", (256, 64, 5, 5), (2, 2), taps=every_second)
    assert len(pack_pieces(pack, shape)) == 1
    assert len(pack_pieces(*reversed(CASES["no grid of taps"]))) == 3


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("name", CASES)
def test_numpy(name, dtype) -> None:
    shape, pack = CASES[name]
    array = parameter(shape, dtype)
    (result,) = pack_all([(array, asdict(pack))])
    assert result.dtype == dtype and result.ctypes.data % 64 == 0
    np.testing.assert_array_equal(result, reference(array, pack), strict=True)


def test_numpy_packs_several_arrays_in_any_memory_order() -> None:
    items = [(parameter(shape), pack) for shape, pack in CASES.values()]
    items = [(np.asfortranarray(array), pack) for array, pack in items]
    results = pack_all([(array, asdict(pack)) for array, pack in items])
    for result, (array, pack) in zip(results, items, strict=True):
        np.testing.assert_array_equal(result, reference(array, pack), strict=True)


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels(name, dtype) -> None:
    shape, pack = CASES[name]
    array = parameter(shape, dtype)
    kernel = packing_kernel(pack, shape, dtype, AVX512)
    expected = reference(array, pack)
    result = interpreted(kernel, array, expected.size)
    np.testing.assert_array_equal(result, expected, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_compiled_kernels(name) -> None:
    shape, pack = CASES[name]
    array = parameter(shape)
    kernel = packing_kernel(pack, shape, "float32", host_target())
    expected = reference(array, pack)
    result = compiled(kernel, array, expected.size)
    np.testing.assert_array_equal(result, expected, strict=True)


@st.composite
def packs(draw: st.DrawFn) -> tuple[Shape, Pack]:
    """Weights and rows of any shape, with taps that are a grid or not."""
    groups, outputs = draw(st.sampled_from((1, 1, 2, 3))), draw(st.integers(1, 23))
    loops = draw(st.sampled_from(((1,), (3,), (7,), (2, 3), (5, 4))))
    channels, step = [], 1
    for extent in draw(st.permutations(loops)):
        channels.append((extent, step))
        step *= extent
    channels = draw(st.permutations(channels))
    axes = draw(st.sampled_from(("oi", "io", "oihw", "iohw")))
    if len(axes) == 2:
        groups = 1
    first, second = (outputs, step) if axes[0] == "o" else (step, outputs)
    shape, taps = (first * groups, second), [(0, 0)]
    if len(axes) == 4:
        size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        shape += size
        some = st.lists(st.sampled_from(grid(*size)), min_size=1, unique=True)
        taps = draw(st.one_of(st.just(list(grid(*size))), some))
    lanes = draw(st.sampled_from((2, 4)))
    vectors, width = -(-outputs // lanes), draw(st.integers(1, 4))
    whole, rest = divmod(vectors, width)
    widths = (width,) * whole + (rest,) * (rest > 0)
    kind = draw(st.sampled_from(("weights", "weights", "rows")))
    outer = draw(st.booleans())
    return shape, Pack(
        kind, groups, axes, lanes, widths, tuple(taps), tuple(channels), outer
    )


@settings(derandomize=True, deadline=None, database=None, max_examples=80)
@given(packs())
def test_random_packs(case: tuple[Shape, Pack]) -> None:
    shape, pack = case
    array = parameter(shape)
    expected = reference(array, pack)
    (result,) = pack_all([(array, asdict(pack))])
    np.testing.assert_array_equal(result, expected, strict=True)
    narrow = Target("narrow", "", 4 * pack.lanes, 16)
    kernel = packing_kernel(pack, shape, "float32", narrow)
    assert len(pack_pieces(pack, shape)) <= 2 * len(pack.taps)
    result = interpreted(kernel, array, expected.size)
    np.testing.assert_array_equal(result, expected, strict=True)


@pytest.mark.parametrize("run", [interpreted, compiled])
@pytest.mark.parametrize(
    "outputs, inputs, side", [(16, 4, 3), (20, 3, 3), (5, 2, 2), (33, 19, 1), (1, 6, 2)]
)
def test_a_weight_gradient_is_brought_into_row_major_order(
    outputs, inputs, side, run
) -> None:
    """From ``[I, KH, KW, O padded]``; the padding holds what must not be copied."""
    taps, pitch = side * side, -(-outputs // 16) * 16
    packed = np.full((inputs, side, side, pitch), np.nan, np.float32)
    expected = parameter((outputs, inputs, side, side))
    packed[..., :outputs] = expected.transpose(1, 2, 3, 0)

    def dims(o: int, i: int, y: int, x: int):
        return ((outputs, o),), ((inputs, i),), ((side, y),), ((side, x),)

    def emit(builder: KernelBuilder, source: Buffer, out: Buffer) -> None:
        reading = dims(1, taps * pitch, side * pitch, pitch)
        writing = dims(inputs * taps, taps, side, 1)
        emit_copy(builder, View(out, 0, writing), View(source, 0, reading), 16)

    result = run(kernel_of(emit, "float32"), packed, expected.size)
    np.testing.assert_array_equal(result.reshape(expected.shape), expected)

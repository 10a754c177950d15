"""Transposed convolutions to few channels: runs of products added to rows.

Runs tile the result, kernels agree with the ops, and the cheapest form is taken.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import NO_HALO, KernelRun, node, value_of
from packed_kernels import (
    AROUND,
    IMAGES,
    NATIVE,
    TARGETS,
    Case,
    PackedRun,
    anchor_of,
    check,
    normal,
)

from jitseq.codegen.llvm.host import LEVELS
from jitseq.ir.layout import channels_last, planar, row_major
from jitseq.ir.packing import RAW
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.layout import needed_halo
from jitseq.passes.lower.col2im import Col2imEmitter
from jitseq.passes.lower.group import lower_contraction
from jitseq.passes.lower.halo import clear_halo
from jitseq.passes.lower.operands import Operands
from jitseq.passes.lower.spread import plan, spread_of

SPREADS = {
    "plain": Case((3, 4, 5), (3, 6, 5, 5)),
    "padding 1": Case((3, 4, 5), (3, 6, 3, 3), padding=(1, 1), bias=True),
    "padding 2": Case((5, 6, 7), (5, 3, 5, 5), padding=(2, 2)),
    "one channel": Case((4, 5, 6), (4, 1, 3, 3), padding=(1, 1), bias=True),
    "many vectors": Case((2, 3, 9), (2, 20, 3, 5), padding=(1, 2), bias=True),
    "wider than the image": Case((2, 3, 2), (2, 3, 5, 5), padding=(2, 2)),
    "stride 2": Case((3, 4, 5), (3, 2, 4, 4), (2, 2), (1, 1), bias=True),
    "stride 2, odd": Case((3, 4, 3), (3, 7, 3, 3), (2, 2), (1, 1), (1, 1)),
    "stride 3, gaps": Case((3, 3, 4), (3, 5, 2, 2), (3, 3), (0, 0), (1, 2), bias=True),
    "row dilation": Case((2, 4, 4), (2, 5, 3, 2), (1, 1), (1, 0), dilation=(2, 1)),
    "one row": Case((3, 1, 6), (3, 6, 3, 3), padding=(1, 1)),
    "gradient": Case((4, 5, 4), (4, 6, 5, 5), padding=(2, 2), size=(5, 4)),
    "gradient, cropped": Case((3, 3, 4), (3, 5, 3, 3), (2, 2), (1, 1), size=(7, 9)),
    "gradient, longer": Case((2, 3, 3), (2, 3, 3, 3), (2, 2), (0, 0), size=(9, 8)),
    "taps outside": Case((3, 5, 5), (3, 4, 3, 3), padding=(2, 2), size=(3, 3)),
}  # fmt: skip


def emit_spread(group: Group, layouts, target):
    def emit(operands: Operands) -> None:
        spread = spread_of(compute_of(group.anchor))
        assert spread is not None
        out = operands.write(group.output)
        clear_halo(operands, out, layouts[group.output], target.lanes(out.element))
        Col2imEmitter(operands, target, spread, group).emit()

    return emit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("machine", TARGETS)
@pytest.mark.parametrize("name", SPREADS)
def test_spread(name, machine, dtype) -> None:
    anchor, arrays = anchor_of(SPREADS[name], dtype)
    check(anchor, arrays, emit_spread, TARGETS[machine])


@pytest.mark.parametrize("name", ["padding 1", "stride 2, odd", "one channel"])
def test_spread_between_halos(name) -> None:
    """The result's halo is zero; the input is planar, or has a halo of NaN."""
    anchor, arrays = anchor_of(SPREADS[name], "float32")
    (x, *_) = anchor.inputs
    check(anchor, arrays, emit_spread, NATIVE, halo=AROUND, x=planar(x.type, NO_HALO))


@pytest.mark.parametrize("name", ["padding 1", "one channel", "many vectors"])
@pytest.mark.parametrize("operand", ["image", "channels", "number"])
def test_pointwise_nodes_follow_each_row(name, operand) -> None:
    """Along the row where operands lie like it, else pixel by pixel."""
    anchor, arrays = anchor_of(SPREADS[name], "float32")
    shape = anchor.output.type.inner_shape
    other = {
        "image": normal(IMAGES, *shape, seed=5),
        "channels": normal(shape[0], 1, 1, seed=5),
        "number": normal(1, seed=5).reshape(()),
    }[operand]
    value = value_of(other, operand == "image")
    total = node("add", anchor.output, value)
    chain = [total, node("tanh", total.output)]
    check(anchor, arrays, emit_spread, NATIVE, chain, {value: other}, AROUND)


def test_infinities_stay_where_they_belong() -> None:
    """A run that overhangs an edge adds nothing beyond it."""
    anchor, arrays = anchor_of(SPREADS["padding 2"], "float32")
    arrays[anchor.inputs[0]][0, :, 3, 0] = np.inf
    group = Group(anchor)
    layouts = {v: row_major(v.type) for v in arrays}
    layouts[anchor.output] = channels_last(anchor.output.type, NO_HALO)
    emit = emit_spread(group, layouts, NATIVE)
    with np.errstate(all="ignore"):
        result = PackedRun(group, layouts, NATIVE, emit)(arrays, IMAGES, 2)
    touched = ~np.isfinite(result)
    assert touched[0, :, 1:6, :3].all()
    touched[0, :, 1:6, :3] = False
    assert not touched.any()


def test_what_is_not_a_spread() -> None:
    for case in (
        Case((2, 4, 4), (2, 3, 3, 3), dilation=(1, 2)),
        Case((2, 4, 4), (2, 3, 3, 3), (2, 2), dilation=(2, 2)),
    ):
        assert spread_of(compute_of(anchor_of(case, "float32")[0])) is None
    x, w = value_of(normal(2, 4, 5, 5)), value_of(normal(6, 2, 3, 3), False)
    options = {"stride": (1, 1), "dilation": (1, 1), "groups": 2}
    padding = {"padding": (0, 0), "output_padding": (0, 0)}
    grouped = node("conv_transpose2d", value_of(normal(2, 6, 5, 5)), w, **options,
                   **padding)  # fmt: skip
    assert spread_of(compute_of(grouped)) is None
    forward = node("conv2d", x, w, padding=(0, 0, 0, 0), **options)
    assert spread_of(compute_of(forward)) is None


@pytest.mark.parametrize("machine", TARGETS)
@pytest.mark.parametrize("name", SPREADS)
def test_tiles_cover_each_element_once(name, machine) -> None:
    target = TARGETS[machine]
    lanes = target.lanes("f32")
    spread = spread_of(compute_of(anchor_of(SPREADS[name], "float32")[0]))
    seen = np.zeros((spread.in_size[1], spread.columns * spread.channels), int)
    for part in plan(spread, target, lanes):
        tiles = len(spread.whole) // part.pixels
        strips = [s for tile in part.rest for s in tile]
        for x in spread.whole[: tiles * part.pixels]:
            strips += spread.strips(x, part.vectors, lanes)
        for strip in strips:
            count = lanes if strip.valid is None else strip.valid
            seen[strip.pixel, strip.first : strip.first + count] += 1
        for tile in part.rest:
            assert len(tile) < target.registers
    for x in range(len(seen)):
        first, last = spread.inside(x)
        expected = np.zeros(seen.shape[1], int)
        expected[first:last] = 1
        np.testing.assert_array_equal(seen[x], expected)


# the choice


def chosen(case: Case, target=NATIVE) -> str:
    """Which form the compiler takes."""
    anchor, arrays = anchor_of(case, "float32")
    group = Group(anchor)
    layouts = {v: row_major(v.type) for v in arrays}
    source = anchor.inputs[0]
    layouts[source] = channels_last(source.type, needed_halo(anchor))
    layouts[anchor.output] = channels_last(anchor.output.type, NO_HALO)
    kinds = []

    def emit(operands: Operands) -> None:
        lower_contraction(group, compute_of(anchor), operands, target)
        kinds.extend(s.pack.kind for s in operands.sources if s.pack not in (None, RAW))

    KernelRun(group, layouts, target, emit)
    return kinds[0]


def test_the_cheapest_form_is_taken() -> None:
    target = LEVELS["x86-64-v4"]
    assert chosen(Case((64, 20, 20), (64, 20, 5, 5)), target) == "runs"
    assert chosen(Case((16, 10, 10), (16, 6, 5, 5)), target) == "runs"
    assert chosen(Case((16, 14, 14), (16, 1, 3, 3), (2, 2), (1, 1), (1, 1)),
                  target) == "rows"  # fmt: skip
    assert chosen(Case((32, 14, 14), (32, 5, 3, 3), padding=(1, 1)), target) == "rows"
    assert (
        chosen(Case((64, 16, 16), (64, 32, 3, 3), padding=(1, 1)), target) == "weights"
    )
    assert chosen(Case((64, 1, 1), (64, 16, 4, 4)), target) == "weights"
    large = Case((512, 8, 8), (512, 24, 9, 9), padding=(4, 4))
    assert chosen(large, target) == "weights"

"""Layout, tiles, segments and memory: what must hold whatever is tuned."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import AVX2, AVX512, NARROW, TARGETS, traced
from strategies import Case, cases

from benchmarks.zoo import ZOO
from jitseq import nn
from jitseq.ir.program_text import program_text
from jitseq.nn import functional as F
from jitseq.passes.layout_rules import needed_halo
from jitseq.passes.memory import Life, assign_offsets
from jitseq.passes.pipeline import Scheduled, optimise, schedule
from jitseq.passes.segment import segments
from jitseq.passes.tile import choose_tile, image_counts

BOUNDED = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def scheduled(function, *shapes, target=AVX512, dtype="float32") -> Scheduled:
    return schedule(optimise(traced(function, *shapes, dtype=dtype)), target)


def scheduled_case(case: Case, target=AVX512) -> Scheduled:
    first = case.first
    return scheduled(case.model, first.shape, target=target, dtype=first.dtype.name)


# tiles


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.cpu)
@BOUNDED
@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 5000),
    st.sampled_from([(1, 1), (2, 2), (3, 2), (4, 4)]),
)  # fmt: skip
def test_tiles_fit_registers_and_hold_whole_windows(
    target, rows, columns, vectors, steps, pool
) -> None:
    rows, columns = max(rows, pool[0]), max(columns, pool[1])
    tile = choose_tile(target, rows, columns, vectors, steps, pool)
    assert tile.rows % pool[0] == tile.columns % pool[1] == 0
    assert tile.rows <= rows and tile.columns <= columns and tile.vectors <= vectors
    one_window = (tile.rows, tile.columns, tile.vectors) == (*pool, 1)
    assert tile.accumulators < target.registers or one_window
    if tile.images > 1:
        assert tile.rows == rows // pool[0] * pool[0]
        assert tile.columns == columns // pool[1] * pool[1]


@pytest.mark.parametrize("images", range(1, 30))
def test_image_counts_reach_every_batch(images) -> None:
    counts = image_counts(images)
    assert counts[0] == images and counts[-1] == 1
    assert list(counts) == sorted(set(counts), reverse=True)


# layout


def test_halo_is_what_the_taps_reach() -> None:
    def halo(layer, size=9):
        (node,) = traced(layer, (1, layer.in_channels, size, size)).nodes
        return needed_halo(node)

    assert halo(nn.Conv2d(2, 3, 3)) == (0, 0, 0, 0)
    assert halo(nn.Conv2d(2, 3, (3, 5), padding=(1, 2))) == (1, 1, 2, 2)
    assert halo(nn.Conv2d(2, 3, 4, padding="same")) == (1, 2, 1, 2)
    # the last window of a strided convolution may end before the padding
    assert halo(nn.Conv2d(2, 3, 3, stride=2, padding=1), 12) == (1, 0, 1, 0)
    # few pixels get code of their own, which skips what lies outside
    assert halo(nn.Conv2d(2, 3, 3, padding=1), 4) == (0, 0, 0, 0)


def test_a_halo_is_written_by_the_producer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    laid = scheduled(model, (2, 3, 9, 9)).laid
    first = next(group for group in laid.groups if "relu" in group.ops)
    assert laid.layouts[first.output].halo == (1, 1, 1, 1)
    position = laid.groups.index(first)
    assert [group.ops for group in laid.groups[position + 1 : -1]] == [("conv2d",)]


def test_flatten_of_an_image_is_a_view() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 5)
    )
    laid = scheduled(model, (2, 3, 9, 9)).laid
    assert len(laid.aliases) == 1
    assert not any("reshape" in group.ops for group in laid.groups)


def test_a_returned_input_is_copied() -> None:
    laid = scheduled(lambda x: (x, F.relu(x), x), (2, 3)).laid
    assert [group.ops for group in laid.groups] == [("relu",), ("copy",), ("copy",)]
    assert len(set(laid.results)) == 3


@BOUNDED
@given(cases(most_layers=5))
def test_outputs_are_in_logical_order_without_gaps(case: Case) -> None:
    laid = scheduled_case(case).laid
    for value in laid.results:
        layout = laid.layouts[value]
        assert layout.contiguous and layout.offset == 0 and not any(layout.halo)


# segments


def zoo_kernels(name: str, target=AVX512):
    entry = ZOO[name]
    return scheduled(entry.build(), (2, *entry.input_shape), target=target).kernels


@pytest.mark.parametrize("name", ["mlp", "cnn32", "vgg11_bn"])
@pytest.mark.parametrize("target", [AVX512, AVX2], ids=["AVX-512", "AVX2"])
def test_segments_partition_the_kernels(name, target) -> None:
    kernels = zoo_kernels(name, target)
    stretches = segments(kernels, target)
    edges = [0, *(stretch.stop for stretch in stretches)]
    assert [stretch.start for stretch in stretches] == edges[:-1]
    assert edges[-1] == len(kernels)
    assert all(stretch.block >= 1 for stretch in stretches)


def test_large_weights_ask_for_large_blocks() -> None:
    """Late layers of a VGG stream their weights: more images between two reads."""
    blocks = [stretch.block for stretch in segments(zoo_kernels("vgg11_bn"), AVX512)]
    assert len(blocks) > 1
    assert blocks[0] < blocks[-1]


def test_segments_disabled_or_empty() -> None:
    kernels = zoo_kernels("cnn32")
    (stretch,) = segments(kernels, AVX512, enabled=False)
    assert (stretch.start, stretch.stop, stretch.block) == (0, len(kernels), 1)
    assert segments((), AVX512) == segments((), AVX512, enabled=False) == ()


# memory

LIVES = st.lists(
    st.builds(
        lambda size, first, length: Life(size * 64, first, first + length),
        st.integers(1, 50), st.integers(0, 12), st.integers(0, 6),
    ),
    max_size=25,
)  # fmt: skip


def overlap(a: int, size_a: int, b: int, size_b: int) -> bool:
    return a < b + size_b and b < a + size_a


@settings(BOUNDED, max_examples=300)
@given(LIVES, st.booleans())
def test_values_that_live_together_never_share_memory(lives, reuse) -> None:
    offsets, total = assign_offsets(lives, reuse)
    for i, a in enumerate(lives):
        assert offsets[i] % 64 == 0 and offsets[i] + a.size <= total
        for j, b in enumerate(lives[:i]):
            together = not reuse or (a.first <= b.last and b.first <= a.last)
            if together:
                assert not overlap(offsets[i], a.size, offsets[j], b.size)


@settings(BOUNDED, max_examples=100)
@given(LIVES)
def test_reuse_never_needs_more_memory(lives) -> None:
    everything = sum(life.size for life in lives)
    assert assign_offsets(lives, reuse=False)[1] == everything
    assert assign_offsets(lives)[1] <= everything


def test_memory_of_a_dead_value_is_used_again() -> None:
    lives = [Life(128, 0, 1), Life(128, 1, 2), Life(128, 2, 3)]
    assert assign_offsets(lives) == ([0, 128, 0], 256)


@BOUNDED
@given(cases(), st.sampled_from([AVX512, NARROW]))
def test_arguments_stay_inside_the_arena(case: Case, target) -> None:
    """Every arena buffer of every call lies inside, at a multiple of 64 bytes."""
    program = scheduled_case(case, target).planned.program
    for segment in program.segments:
        for call in segment.calls:
            kernel = program.kernels[call.kernel]
            assert len(call.arguments) == len(kernel.buffers)
            for argument in call.arguments:
                if argument.space == "arena":
                    assert argument.offset % 64 == 0
                    assert argument.offset < program.arena_bytes
                else:
                    assert argument.slot < program.context_slots


def test_equal_kernels_are_compiled_once() -> None:
    model = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()] * 6)
    program = scheduled(model, (2, 8, 9, 9)).planned.program
    calls = sum(len(segment.calls) for segment in program.segments)
    assert len(program.kernels) < calls


def test_scheduling_is_deterministic() -> None:
    model = ZOO["lenet5"].build()
    texts = [
        program_text(scheduled(model, (2, 1, 28, 28)).planned.program) for _ in range(2)
    ]
    assert texts[0] == texts[1]

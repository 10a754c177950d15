"""`memory_plan`: places and lives beside the program's calls and sizes by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from display_models import branches, images, step_model
from markup_checks import SVG, box_of, overlaps, parsed, problems

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.codegen.llvm.host import selected_target
from jitseq.display.memory_plan import MemoryPlan, MemoryRow
from jitseq.errors import UnsupportedError
from jitseq.passes.pipeline import schedule


def step() -> js.TrainStep:
    model = step_model()
    made = js.train_step(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
    made(images(4), np.zeros(4, np.int64))
    return made


def plans() -> dict[str, MemoryPlan]:
    entry = ZOO["mobilenet_v1"]
    return {
        "branches": js.jit(branches()).memory_plan(images()),
        "mobilenet": js.jit(entry.build()).memory_plan(entry.sample(1)),
        "step": step().memory_plan(),
    }


def clash(a: MemoryRow, b: MemoryRow) -> bool:
    """Whether two buffers hold the same byte at the same time."""
    together = a.first <= b.last and b.first <= a.last
    bytes_ = a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
    return a.space == b.space and together and bytes_


def test_sizes_by_hand() -> None:
    entry = ZOO["cnn32"]
    compiled = js.jit(entry.build()).prepare(entry.sample(16))
    plan = compiled.memory_plan()
    block = plan.segments[0].block
    rows = {row.name: row for row in plan.rows}
    linear = rows["k3_linear (7)"]
    assert (linear.bytes, linear.space) == (block * 10 * 4, "arena")
    assert (linear.first, linear.last) == (3, 4)
    # the input with its halo; rows may be apart by more, which is never less
    assert rows["k0_copy"].bytes >= block * 3 * 34 * 34 * 4
    assert plan.arena_bytes == compiled.explain().arena_bytes
    assert [s.kernels for s in plan.segments] == [
        tuple(k.name for k in compiled.explain().kernels)
    ]


def test_no_byte_is_used_twice_at_once() -> None:
    for name, plan in plans().items():
        rows = [row for row in plan.rows if row.space in ("arena", "fixed", "sums")]
        assert len(rows) > 8, name
        apart = [a for i, a in enumerate(rows) if any(clash(a, b) for b in rows[:i])]
        assert apart == [], name
        limits = {
            "arena": plan.arena_bytes,
            "fixed": plan.fixed_bytes,
            "sums": plan.sums_bytes,
        }
        assert all(r.offset + r.bytes <= limits[r.space] for r in rows), name
        batch = sum(row.bytes for row in plan.rows if row.space == "batch")
        assert batch == plan.batch_bytes, name


def test_rows_are_those_of_the_calls() -> None:
    """Each place in the arena that a call names is that of a row alive at that call."""
    compiled = js.jit(branches()).prepare(images())
    plan = compiled.memory_plan()
    fused = compiled._programs.latest().bound.fused
    program = schedule(fused, selected_target()).planned.program
    call, met = 0, set()
    for segment in program.segments:
        for made in segment.calls:
            for argument in made.arguments:
                if argument.space != "arena":
                    continue
                found = [
                    row
                    for row in plan.rows
                    if row.space == "arena"
                    and row.offset == argument.offset
                    and row.first <= call <= row.last
                ]
                assert len(found) == 1
                met.add((found[0], call))
            call += 1
    for row in plan.rows:
        if row.space == "arena":
            assert {(row, row.first), (row, row.last)} <= met


def test_without_reuse_nothing_shares() -> None:
    compiled = js.jit(branches(), disable_passes=["reuse_memory"])
    plan = compiled.memory_plan(images())
    spans = sorted((r.offset, r.offset + r.bytes) for r in plan.in_arena(0))
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert "if no byte were used again" not in str(plan)
    assert "if no byte were used again" in str(js.jit(branches()).memory_plan(images()))


def test_text_and_pictures() -> None:
    for name, plan in plans().items():
        assert max(map(len, str(plan).splitlines())) <= 100, name
        markup = plan._repr_html_()
        assert problems(markup) == [], name
        root = parsed(markup)
        pictures = list(root.iter(f"{SVG}svg"))
        segments = range(len(plan.segments))
        assert len(pictures) == sum(bool(plan.in_arena(i)) for i in segments)
        drawn = 0
        for picture in pictures:
            rects = [box_of(r) for r in picture.iter(f"{SVG}rect")]
            assert overlaps(rects) == [], name
            width, height = float(picture.get("width")), float(picture.get("height"))
            assert all(r[0] >= 0 and r[2] <= width for r in rects)
            assert all(r[1] >= 0 and r[3] <= height for r in rects)
            drawn += len(rects)
        assert drawn == sum(row.space == "arena" for row in plan.rows)


def test_lives_as_characters() -> None:
    entry = ZOO["cnn32"]
    lines = str(js.jit(entry.build()).memory_plan(entry.sample(2))).splitlines()
    lives = [line.split()[-1] for line in lines[2:6]]
    assert lives == ["██···", "·██··", "··██·", "···██"]


def test_programs_without_buffers() -> None:
    plan = js.jit(nn.ReLU()).memory_plan(np.ones((2, 3), np.float32))
    assert plan.rows == ()
    assert "nothing in the arena" in str(plan)
    assert problems(plan._repr_html_()) == []


def test_a_device_plans_its_own_memory() -> None:
    from jitseq.runtime.inspect import memory_plan

    compiled = js.jit(nn.ReLU()).prepare(np.ones((2, 3), np.float32))
    fused = compiled._programs.latest().bound.fused
    with pytest.raises(UnsupportedError, match="memory plan"):
        memory_plan(fused, selected_target(), frozenset(), "cuda")

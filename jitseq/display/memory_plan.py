"""`MemoryPlan`: which buffer lies where in memory, and from when to when.

A scheduled program enters; records leave that show themselves as text and as a picture
over time. Invariant: two buffers of one segment's arena whose lives overlap share no
byte, and none reaches beyond the arena: what is drawn is what the kernels are given.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from jitseq.display.figures import COLUMNS, byte_count, text_table
from jitseq.display.markup import element, framed, heading, paragraph, table, text
from jitseq.display.memory_picture import Band, picture
from jitseq.ir.graph import Value
from jitseq.ir.packing import packed_size
from jitseq.ir.program import ELEMENT_BYTES, Argument
from jitseq.passes.lower.operands import ELEMENTS, Source
from jitseq.passes.pipeline import Scheduled

MOST_STEPS = 36
"""Kernels of a segment whose lives are drawn with characters."""


@dataclass(frozen=True)
class MemoryRow:
    """One buffer.

    ``space`` is "arena" (scratch of a thread, for one block of images), "batch" (as
    long as a call, for every image), "fixed" (without a batch) or "sums" (over the
    batch). ``bytes`` are those of a whole block in an arena, of one image in "batch"
    space. ``first`` and ``last`` are the calls between which it is needed, counted
    over all segments; ``offset`` counts from the start of its space, and is 0 for
    "batch", where each buffer has memory of its own.
    """

    segment: int
    name: str
    space: str
    bytes: int
    offset: int
    first: int
    last: int


@dataclass(frozen=True)
class SegmentSpan:
    """Names of the kernels of a segment, whose first call is ``start``."""

    start: int
    kernels: tuple[str, ...]
    block: int
    batched: bool


@dataclass(frozen=True)
class MemoryPlan:
    """Every buffer that kernels write, with its place and its life."""

    rows: tuple[MemoryRow, ...]
    segments: tuple[SegmentSpan, ...]
    arena_bytes: int
    batch_bytes: int
    fixed_bytes: int
    sums_bytes: int

    def __str__(self) -> str:
        lines: list[str] = []
        for index, segment in enumerate(self.segments):
            rows = self.in_arena(index)
            lines.append(f"segment {index}, {_extent(segment)}")
            lines += [*_arena_lines(rows, segment), ""]
        others = [row for row in self.rows if row.space != "arena"]
        if others:
            cells = [("buffer", "space", "bytes", "offset", "calls")]
            cells += [(r.name, r.space, *_places(r)) for r in others]
            lines += [*text_table(cells, right=(2, 3), flexible=(0,)), ""]
        return "\n".join([*lines, *textwrap.wrap(self.summary(), COLUMNS)])

    __repr__ = __str__

    def in_arena(self, segment: int) -> list[MemoryRow]:
        """Buffers in the arena of one segment, in order of their lives."""
        return [r for r in self.rows if r.segment == segment and r.space == "arena"]

    def summary(self) -> str:
        """The sizes of all spaces."""
        apart = sum(row.bytes for row in self.rows if row.space == "arena")
        saved = f" ({byte_count(apart)} if no byte were used again)"
        parts = [
            f"{byte_count(self.arena_bytes)} of arena a thread"
            + (saved if apart > self.arena_bytes else ""),
            f"{byte_count(self.batch_bytes)} an image between segments",
            f"{byte_count(self.fixed_bytes)} without a batch",
            f"{byte_count(self.sums_bytes)} of sums a share",
        ]
        return ", ".join(part for part in parts if not part.startswith("0 B"))

    def _repr_html_(self) -> str:
        return framed(self.html())

    def html(self) -> str:
        """Pictures and a table, without the frame around a display."""
        parts = []
        for index, segment in enumerate(self.segments):
            rows = self.in_arena(index)
            if not rows:
                continue
            parts.append(heading(f"Segment {index}: {_extent(segment)}"))
            bands = [
                Band(
                    row.name,
                    row.offset,
                    row.bytes,
                    row.first - segment.start,
                    row.last - segment.start,
                )
                for row in rows
            ]
            used = max(row.offset + row.bytes for row in rows)
            drawn = picture(bands, segment.kernels, used)
            parts.append(element("div", drawn, class_="scroll"))
        cells = [
            [text(row.name), row.space, str(row.segment), *map(text, _places(row))]
            for row in self.rows
        ]
        headers = ("buffer", "space", "segment", "bytes", "offset", "calls")
        if cells:
            parts.append(table(headers, cells, (2, 3, 4)))
        return "".join((*parts, paragraph(self.summary())))


def _extent(segment: SegmentSpan) -> str:
    count = len(segment.kernels)
    kernels = f"{count} kernel{'s' if count > 1 else ''}"
    images = "image" if segment.block == 1 else "images"
    often = f"{segment.block} {images} a block" if segment.batched else "once"
    return f"{kernels}, {often}"


def _places(row: MemoryRow) -> tuple[str, str, str]:
    return f"{row.bytes:,}", f"{row.offset:,}", f"{row.first}–{row.last}"


def _arena_lines(rows: list[MemoryRow], segment: SegmentSpan) -> list[str]:
    """A table in which each buffer's life is a line of blocks."""
    if not rows:
        return ["  nothing in the arena"]
    steps = len(segment.kernels)
    drawn = steps <= MOST_STEPS
    cells = [("  buffer", "bytes", "offset", "life" if drawn else "calls")]
    for row in rows:
        size, offset, calls = _places(row)
        first, last = row.first - segment.start, row.last - segment.start
        life = "·" * first + "█" * (last - first + 1) + "·" * (steps - 1 - last)
        cells.append((f"  {row.name}", size, offset, life if drawn else calls))
    return text_table(cells, right=(1, 2), flexible=(0,))


def memory_plan(scheduled: Scheduled) -> MemoryPlan:
    """The plan of a scheduled program."""
    program = scheduled.planned.program
    segments, start = [], 0
    for segment in program.segments:
        names = tuple(program.kernels[call.kernel].name for call in segment.calls)
        segments.append(SegmentSpan(start, names, segment.block, segment.batched))
        start += len(names)
    rows = _rows(scheduled, segments)
    return MemoryPlan(
        tuple(rows),
        tuple(segments),
        program.arena_bytes,
        sum(program.batch_bytes),
        program.fixed_bytes,
        program.sums_bytes,
    )


@dataclass(frozen=True)
class _Touch:
    """One kernel's use of a buffer."""

    call: int
    segment: int
    source: Source
    argument: Argument
    written: bool


def _touches(scheduled: Scheduled) -> Iterator[_Touch]:
    call = 0
    for number, segment in enumerate(scheduled.planned.program.segments):
        for made in segment.calls:
            lowered = scheduled.kernels[call]
            places = zip(
                lowered.kernel.buffers, lowered.sources, made.arguments, strict=True
            )
            for buffer, source, argument in places:
                yield _Touch(call, number, source, argument, buffer.written)
            call += 1


def _rows(scheduled: Scheduled, segments: list[SegmentSpan]) -> list[MemoryRow]:
    """One row for each buffer that a kernel writes, in order of first use."""
    planned, laid = scheduled.planned, scheduled.laid
    outside = {*scheduled.fused.graph.inputs, *laid.results, *planned.variables}
    uses: dict[Source, list[_Touch]] = {}
    for touch in _touches(scheduled):
        owner = Source(laid.owner(touch.source.value), touch.source.pack)
        uses.setdefault(owner, []).append(touch)
    rows = []
    for owner, found in uses.items():
        if owner.value in outside and owner.pack is None:
            continue
        writer = next((touch for touch in found if touch.written), None)
        if writer is None:
            continue
        segment = segments[found[0].segment]
        space = _space(writer.argument, planned.program.fixed_slot)
        name = _name(scheduled, segments, writer.call, owner, found)
        size = _bytes(scheduled, owner, segment if space == "arena" else None)
        rows.append(
            MemoryRow(
                found[0].segment, name, space, size, writer.argument.offset,
                found[0].call, found[-1].call,
            )
        )  # fmt: skip
    return rows


def _space(argument: Argument, fixed_slot: int) -> str:
    if argument.space != "context":
        return argument.space
    return "fixed" if argument.slot == fixed_slot else "batch"


def _name(
    scheduled: Scheduled,
    segments: list[SegmentSpan],
    call: int,
    owner: Source,
    uses: list[_Touch],
) -> str:
    """Of the kernel that writes it, with its layer; numbered if it writes several."""
    segment = next(s for s in reversed(segments) if s.start <= call)
    lowered = scheduled.kernels[call]
    name = segment.kernels[call - segment.start]
    written = [scheduled.laid.owner(source.value) for source in lowered.writes]
    if len(written) > 1:
        name += f"[{written.index(owner.value)}]"
    return f"{name} ({lowered.path})" if lowered.path else name


def _bytes(scheduled: Scheduled, owner: Source, block: SegmentSpan | None) -> int:
    """Of a block's images in the arena; elsewhere of one, or without a batch of all."""
    value: Value = owner.value
    if owner.pack is not None:
        count = packed_size(owner.pack, value.type.inner_shape)
    else:
        count = scheduled.laid.layouts[value].size
    images = block.block if block is not None and value.type.has_batch else 1
    return count * images * ELEMENT_BYTES[ELEMENTS[value.type.dtype]]

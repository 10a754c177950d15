"""The functions around the kernels: segments, the serial entry, the thread entry.

Exports, for a program with segments 0…k::

    jitseq_run(ctx, arena, n)                         all segments, one thread
    jitseq_segment_<i>(ctx, arena, counter, n, grain) blocks drawn from a counter

``ctx`` is the pointer table; ``counter`` is an i64 that all threads of one segment
draw image ranges of ``grain`` images from, so a late thread takes fewer of them.
"""

from __future__ import annotations

from typing import NamedTuple

from jitseq.ir.program import Argument, Program, Segment


class DriverText(NamedTuple):
    declares: frozenset[str]
    text: str


def render_driver(program: Program, profile: bool) -> DriverText:
    """``profile`` adds, in the last context slot, cycles spent in each call."""
    segments = []
    first_call = 0
    for index, segment in enumerate(program.segments):
        timer = (program.context_slots, first_call) if profile else None
        segments.append(_segment(program, segment, index, timer))
        segments.append(_drain(index))
        first_call += len(segment.calls)
    declares = {"declare i64 @llvm.readcyclecounter()"} if profile else set()
    return DriverText(
        frozenset(declares), "\n\n".join([*segments, _run(len(program.segments))])
    )


def _segment(
    program: Program, segment: Segment, index: int, timer: tuple[int, int] | None
) -> str:
    lines = [
        f"define internal void @segment{index}(ptr %ctx, ptr %arena, i64 %begin, "
        "i64 %end) #0 {",
        "entry:",
    ]
    slots = sorted(
        {
            a.slot
            for call in segment.calls
            for a in call.arguments
            if a.space == "context"
        }
    )
    if timer:
        slots.append(timer[0])
    for slot in slots:
        lines.append(f"  %at{slot} = getelementptr ptr, ptr %ctx, i64 {slot}")
        lines.append(f"  %slot{slot} = load ptr, ptr %at{slot}")
    lines += [
        "  br label %block",
        "block:",
        "  %image = phi i64 [ %begin, %entry ], [ %next, %block ]",
        f"  %after = add nsw i64 %image, {segment.block}",
        "  %whole = icmp slt i64 %after, %end",
        "  %next = select i1 %whole, i64 %after, i64 %end",
        "  %count = sub nsw i64 %next, %image",
    ]
    for number, call in enumerate(segment.calls):
        names = []
        for position, argument in enumerate(call.arguments):
            name = f"%c{number}a{position}"
            lines += _argument(name, argument)
            names.append(f"ptr {name}")
        kernel = program.kernels[call.kernel].name
        invoke = f"  call void @{kernel}({', '.join([*names, 'i64 %count'])})"
        if timer:
            lines += _timed(invoke, number, timer[0], timer[1] + number)
        else:
            lines.append(invoke)
    lines += ["  br i1 %whole, label %block, label %done", "done:", "  ret void", "}"]
    return "\n".join(lines)


def _argument(name: str, argument: Argument) -> list[str]:
    base = "%arena" if argument.space == "arena" else f"%slot{argument.slot}"
    start = f"getelementptr i8, ptr {base}, i64 {argument.offset}"
    if not argument.stride:
        return [f"  {name} = {start}"]
    return [
        f"  {name}s = {start}",
        f"  {name}o = mul nsw i64 %image, {argument.stride}",
        f"  {name} = getelementptr i8, ptr {name}s, i64 {name}o",
    ]


def _timed(invoke: str, number: int, slot: int, entry: int) -> list[str]:
    return [
        f"  %t{number} = call i64 @llvm.readcyclecounter()",
        invoke,
        f"  %u{number} = call i64 @llvm.readcyclecounter()",
        f"  %d{number} = sub i64 %u{number}, %t{number}",
        f"  %q{number} = getelementptr i64, ptr %slot{slot}, i64 {entry}",
        f"  %o{number} = load i64, ptr %q{number}",
        f"  %w{number} = add i64 %o{number}, %d{number}",
        f"  store i64 %w{number}, ptr %q{number}",
    ]


def _drain(index: int) -> str:
    arguments = "ptr %ctx, ptr %arena, ptr %counter, i64 %n, i64 %grain"
    return f"""define void @jitseq_segment_{index}({arguments}) #0 {{
entry:
  br label %draw
draw:
  %begin = atomicrmw add ptr %counter, i64 %grain monotonic
  %left = icmp slt i64 %begin, %n
  br i1 %left, label %work, label %done
work:
  %after = add nsw i64 %begin, %grain
  %fits = icmp slt i64 %after, %n
  %end = select i1 %fits, i64 %after, i64 %n
  call void @segment{index}(ptr %ctx, ptr %arena, i64 %begin, i64 %end)
  br label %draw
done:
  ret void
}}"""


def _run(segments: int) -> str:
    calls = "".join(
        f"  call void @segment{i}(ptr %ctx, ptr %arena, i64 0, i64 %n)\n"
        for i in range(segments)
    )
    return (
        "define void @jitseq_run(ptr %ctx, ptr %arena, i64 %n) #0 {\nentry:\n"
        f"{calls}  ret void\n}}"
    )

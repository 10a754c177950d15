"""The functions around the kernels: segments, the serial entry, the thread entry.

Exports::

    jitseq_run(ctx, arena, n)             all segments, one thread
    jitseq_work(ctx, arena, counters, n)  all segments, threads draw shares of images
    jitseq_linger, jitseq_post            see `jitseq.codegen.llvm.handover`

``ctx`` is the pointer table. ``counters`` holds, for each segment, three i64: the
next image to be drawn, the images that are done, and the images of a share. A late
thread takes fewer shares; every thread returns when all images are done. A segment
without a batch is one share.

Every share has sums of its own, zeroed when it is drawn; whoever runs the next segment
without a batch adds them up in order, so results do not depend on who drew what.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from jitseq.codegen.llvm.handover import HANDOVER
from jitseq.ir.program import Argument, Program, Segment

YIELD = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
"""What gives the processor to another thread while there is nothing to draw."""


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
        first_call += len(segment.calls)
    declares = {f"declare i32 @{YIELD}()"}
    if profile:
        declares.add("declare i64 @llvm.readcyclecounter()")
    if program.sums_bytes:
        declares.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    elements = {s.element for segment in program.segments for s in segment.sums}
    adders = [_adder(element) for element in sorted(elements)]
    entries = [_run(program), _work(program), HANDOVER]
    text = "\n\n".join([*segments, *adders, *entries])
    return DriverText(frozenset(declares), text)


def _segment(
    program: Program, segment: Segment, index: int, timer: tuple[int, int] | None
) -> str:
    lines = [
        f"define internal void @segment{index}(ptr %ctx, ptr %arena, ptr %sums, "
        "i64 %begin, i64 %end) #0 {",
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
        count = "%count" if call.count is None else str(call.count)
        names += [f"i64 {count}", "i64 %image"]
        invoke = f"  call void @{kernel}({', '.join(names)})"
        if timer:
            lines += _timed(invoke, number, timer[0], timer[1] + number)
        else:
            lines.append(invoke)
    lines += ["  br i1 %whole, label %block, label %done", "done:", "  ret void", "}"]
    return "\n".join(lines)


def _argument(name: str, argument: Argument) -> list[str]:
    base = f"%{argument.space}"
    if argument.space == "context":
        base = f"%slot{argument.slot}"
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


def _work(program: Program) -> str:
    """All segments, shared by the threads that call this with the same counters.

    The last one out of a segment lets the others in to the next: each waits until
    the images of all shares are done, however many threads take part.
    """
    count = len(program.segments)
    lines = [
        "define void @jitseq_work(ptr %ctx, ptr %arena, ptr %counters, i64 %n) #0 {",
        "entry:",
        *_sums_base(program),
        "  br label %draw0" if count else "  ret void",
    ]
    for i, segment in enumerate(program.segments):
        following = f"%draw{i + 1}" if i + 1 < count else "%end"
        lines += _shares(program, segment, i, following)
    return "\n".join([*lines, *(["end:", "  ret void"] if count else []), "}"])


def _shares(program: Program, segment: Segment, i: int, following: str) -> list[str]:
    """Draw, run, count; then wait for the others."""
    n = "%n" if segment.batched else "1"
    lines = [
        f"""draw{i}:
  %next{i} = getelementptr i64, ptr %counters, i64 {3 * i}
  %done{i} = getelementptr i64, ptr %counters, i64 {3 * i + 1}
  %size{i} = getelementptr i64, ptr %counters, i64 {3 * i + 2}
  %grain{i} = load i64, ptr %size{i}
  br label %share{i}
share{i}:
  %begin{i} = atomicrmw add ptr %next{i}, i64 %grain{i} monotonic
  %left{i} = icmp slt i64 %begin{i}, {n}
  br i1 %left{i}, label %work{i}, label %wait{i}
work{i}:
  %after{i} = add nsw i64 %begin{i}, %grain{i}
  %fits{i} = icmp slt i64 %after{i}, {n}
  %stop{i} = select i1 %fits{i}, i64 %after{i}, i64 {n}"""
    ]
    sums = "%sums"
    if segment.sums and segment.batched:
        sums = f"%own{i}"
        lines += [
            f"  %number{i} = udiv i64 %begin{i}, %grain{i}",
            f"  %skip{i} = mul i64 %number{i}, {program.sums_bytes}",
            f"  {sums} = getelementptr i8, ptr %sums, i64 %skip{i}",
        ]
    lines += _totals(program, i)
    lines += _zeroed(segment, sums, f"z{i}")
    range = f"i64 %begin{i}, i64 %stop{i}"
    lines.append(f"  call void @segment{i}(ptr %ctx, ptr %arena, ptr {sums}, {range})")
    lines.append(f"""  %images{i} = sub nsw i64 %stop{i}, %begin{i}
  %old{i} = atomicrmw add ptr %done{i}, i64 %images{i} acq_rel
  br label %share{i}
wait{i}:
  %sum{i} = load atomic i64, ptr %done{i} acquire, align 8
  %all{i} = icmp sge i64 %sum{i}, {n}
  br i1 %all{i}, label {following}, label %yield{i}
yield{i}:
  %r{i} = call i32 @{YIELD}()
  br label %wait{i}""")
    return lines


def _sums_base(program: Program) -> list[str]:
    """``%sums``: the memory of the first share's sums."""
    if not program.sums_bytes:
        return ["  %sums = getelementptr i8, ptr %arena, i64 0"]
    return [
        f"  %sums_at = getelementptr ptr, ptr %ctx, i64 {program.sums_slot}",
        "  %sums = load ptr, ptr %sums_at",
    ]


def _zeroed(segment: Segment, base: str, name: str) -> list[str]:
    lines = []
    for k, sums in enumerate(segment.sums):
        lines += [
            f"  %{name}_{k} = getelementptr i8, ptr {base}, i64 {sums.offset}",
            f"  call void @llvm.memset.p0.i64(ptr %{name}_{k}, i8 0, "
            f"i64 {sums.bytes}, i1 false)",
        ]
    return lines


def _totals(program: Program, i: int) -> list[str]:
    """Before segment ``i``, which has no batch: add the sums of all shares."""
    if program.segments[i].batched:
        return []
    lines = []
    for j in range(i - 1, -1, -1):
        segment = program.segments[j]
        if not segment.batched:
            break
        if segment.sums:
            lines += [
                f"  %up{j} = add i64 %n, %grain{j}",
                f"  %top{j} = sub i64 %up{j}, 1",
                f"  %shares{j} = udiv i64 %top{j}, %grain{j}",
            ]
        for k, sums in enumerate(segment.sums):
            lines += [
                f"  %first{j}_{k} = getelementptr i8, ptr %sums, i64 {sums.offset}",
                f"  call void @jitseq_add_{sums.element}(ptr %first{j}_{k}, "
                f"i64 {program.sums_bytes}, i64 %shares{j}, i64 {sums.bytes})",
            ]
    return lines


def _adder(element: str) -> str:
    """Adds the sums of shares 1, 2, … to those of share 0, 64 bytes at a time."""
    type = "<16 x float>" if element == "f32" else "<8 x double>"
    return f"""define internal void @jitseq_add_{element}(
    ptr noalias %to, i64 %stride, i64 %shares, i64 %bytes) noinline #0 {{
entry:
  br label %share
share:
  %t = phi i64 [ 1, %entry ], [ %t1, %next ]
  %more = icmp slt i64 %t, %shares
  br i1 %more, label %one, label %done
one:
  %skip = mul i64 %t, %stride
  %from = getelementptr i8, ptr %to, i64 %skip
  br label %add
add:
  %i = phi i64 [ 0, %one ], [ %i1, %add ]
  %p = getelementptr i8, ptr %to, i64 %i
  %q = getelementptr i8, ptr %from, i64 %i
  %a = load {type}, ptr %p, align 64
  %b = load {type}, ptr %q, align 64
  %c = fadd {type} %a, %b
  store {type} %c, ptr %p, align 64
  %i1 = add nsw i64 %i, 64
  %again = icmp slt i64 %i1, %bytes
  br i1 %again, label %add, label %next
next:
  %t1 = add nsw i64 %t, 1
  br label %share
done:
  ret void
}}"""


def _run(program: Program) -> str:
    lines = [
        "define void @jitseq_run(ptr %ctx, ptr %arena, i64 %n) #0 {",
        "entry:",
        *_sums_base(program),
    ]
    for i, segment in enumerate(program.segments):
        n = "%n" if segment.batched else "1"
        lines += _zeroed(segment, "%sums", f"z{i}")
        lines.append(
            f"  call void @segment{i}(ptr %ctx, ptr %arena, ptr %sums, i64 0, i64 {n})"
        )
    return "\n".join([*lines, "  ret void", "}"])

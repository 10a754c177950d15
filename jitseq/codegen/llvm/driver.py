"""The functions around the kernels: segments, the serial entry, the thread entry.

Exports::

    jitseq_run(ctx, arena, n)             all segments, one thread
    jitseq_work(ctx, arena, counters, n)  all segments, threads draw shares of images
    jitseq_linger(slot, limit)            run what is posted, until nothing is
    jitseq_post(slot, work, …)            hand a lingering thread its next work

``ctx`` is the pointer table. ``counters`` holds, for each segment, three i64: the
next image to be drawn, the images that are done, and the images of a share. A late
thread takes fewer shares; every thread returns when all images are done.

``slot`` is six i64 through which a lingering thread is given work: a state (0 asleep,
1 lingering, 2 posted, 3 running), then the work and its four arguments.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

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
    count = len(program.segments)
    entries = [_run(count), _work(count), HANDOVER]
    return DriverText(frozenset(declares), "\n\n".join([*segments, *entries]))


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


def _work(segments: int) -> str:
    """All segments, shared by the threads that call this with the same counters.

    The last one out of a segment lets the others in to the next: each waits until
    the images of all shares are done, however many threads take part.
    """
    lines = [
        "define void @jitseq_work(ptr %ctx, ptr %arena, ptr %counters, i64 %n) #0 {",
        "entry:",
        "  br label %draw0" if segments else "  ret void",
    ]
    for i in range(segments):
        following = f"%draw{i + 1}" if i + 1 < segments else "%end"
        lines.append(f"""draw{i}:
  %next{i} = getelementptr i64, ptr %counters, i64 {3 * i}
  %done{i} = getelementptr i64, ptr %counters, i64 {3 * i + 1}
  %size{i} = getelementptr i64, ptr %counters, i64 {3 * i + 2}
  %grain{i} = load i64, ptr %size{i}
  br label %share{i}
share{i}:
  %begin{i} = atomicrmw add ptr %next{i}, i64 %grain{i} monotonic
  %left{i} = icmp slt i64 %begin{i}, %n
  br i1 %left{i}, label %work{i}, label %wait{i}
work{i}:
  %after{i} = add nsw i64 %begin{i}, %grain{i}
  %fits{i} = icmp slt i64 %after{i}, %n
  %stop{i} = select i1 %fits{i}, i64 %after{i}, i64 %n
  call void @segment{i}(ptr %ctx, ptr %arena, i64 %begin{i}, i64 %stop{i})
  %count{i} = sub nsw i64 %stop{i}, %begin{i}
  %old{i} = atomicrmw add ptr %done{i}, i64 %count{i} acq_rel
  br label %share{i}
wait{i}:
  %sum{i} = load atomic i64, ptr %done{i} acquire, align 8
  %all{i} = icmp sge i64 %sum{i}, %n
  br i1 %all{i}, label {following}, label %yield{i}
yield{i}:
  %r{i} = call i32 @{YIELD}()
  br label %wait{i}""")
    return "\n".join([*lines, *(["end:", "  ret void"] if segments else []), "}"])


HANDOVER = """define i64 @jitseq_post(ptr %slot, ptr %work,
    ptr %ctx, ptr %arena, ptr %counters, i64 %n) #0 {
entry:
  %state = load atomic i64, ptr %slot acquire, align 8
  %waits = icmp eq i64 %state, 1
  br i1 %waits, label %fill, label %refused
fill:
  %p1 = getelementptr i64, ptr %slot, i64 1
  %p2 = getelementptr i64, ptr %slot, i64 2
  %p3 = getelementptr i64, ptr %slot, i64 3
  %p4 = getelementptr i64, ptr %slot, i64 4
  %p5 = getelementptr i64, ptr %slot, i64 5
  store ptr %work, ptr %p1
  store ptr %ctx, ptr %p2
  store ptr %arena, ptr %p3
  store ptr %counters, ptr %p4
  store i64 %n, ptr %p5
  %swap = cmpxchg ptr %slot, i64 1, i64 2 acq_rel monotonic
  %won = extractvalue { i64, i1 } %swap, 1
  %taken = zext i1 %won to i64
  ret i64 %taken
refused:
  ret i64 0
}

define void @jitseq_linger(ptr %slot, i64 %limit) #0 {
entry:
  store atomic i64 1, ptr %slot release, align 8
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %next, %again ], [ 0, %run ]
  %state = load atomic i64, ptr %slot acquire, align 8
  %posted = icmp eq i64 %state, 2
  br i1 %posted, label %run, label %again
again:
  %next = add nsw i64 %i, 1
  %left = icmp slt i64 %next, %limit
  br i1 %left, label %look, label %leave
leave:
  %swap = cmpxchg ptr %slot, i64 1, i64 0 acq_rel monotonic
  %left_alone = extractvalue { i64, i1 } %swap, 1
  br i1 %left_alone, label %done, label %run
run:
  store atomic i64 3, ptr %slot monotonic, align 8
  %p1 = getelementptr i64, ptr %slot, i64 1
  %p2 = getelementptr i64, ptr %slot, i64 2
  %p3 = getelementptr i64, ptr %slot, i64 3
  %p4 = getelementptr i64, ptr %slot, i64 4
  %p5 = getelementptr i64, ptr %slot, i64 5
  %work = load ptr, ptr %p1
  %ctx = load ptr, ptr %p2
  %arena = load ptr, ptr %p3
  %counters = load ptr, ptr %p4
  %n = load i64, ptr %p5
  call void %work(ptr %ctx, ptr %arena, ptr %counters, i64 %n)
  store atomic i64 1, ptr %slot release, align 8
  br label %look
done:
  ret void
}"""


def _run(segments: int) -> str:
    calls = "".join(
        f"  call void @segment{i}(ptr %ctx, ptr %arena, i64 0, i64 %n)\n"
        for i in range(segments)
    )
    return (
        "define void @jitseq_run(ptr %ctx, ptr %arena, i64 %n) #0 {\nentry:\n"
        f"{calls}  ret void\n}}"
    )

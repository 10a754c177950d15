"""How a thread that lingers after its last work is handed its next.

Exports::

    jitseq_linger(slot, limit)   run what is posted, until nothing is
    jitseq_post(slot, work, …)   hand a lingering thread its next work

``slot`` is six i64: a state (0 asleep, 1 lingering, 2 posted, 3 running), then the
work and its four arguments.
"""

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

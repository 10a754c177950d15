"""Interleaved timing of callables that do the same work.

Zero-argument callables enter, samples of the seconds of one call of each leave.
Invariants: every round samples every contestant once, so that a machine that slows
down for a while slows all of them; the garbage collector is off meanwhile. Where calls
only start work on a device, the clock runs from idle device to idle device.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

WARM_UP_SECONDS = 0.03
SAMPLE_SECONDS = 0.005
SLOW_SECONDS = 2.0
"""Time after which a contestant that is marked ``patient`` is sampled no more."""

LEAST_ROUNDS = 4
"""Rounds that a limit of seconds does not cut: quartiles need them."""

Call = Callable[[], Any]
Clock = Callable[[], float]


@dataclass
class Contestant:
    """One callable, how often one sample repeats it, and its samples in seconds.

    ``begin`` is called in front of each warm-up and sample, outside of the clock;
    ``settle`` returns when all work of the calls is done.
    """

    call: Call
    patient: bool
    begin: Call
    settle: Call
    clock: Clock = time.perf_counter
    repetitions: int = 1
    samples: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Call for a while, and choose repetitions that last `SAMPLE_SECONDS`."""
        self.begin()
        self.settle()
        start = self.clock()
        calls, elapsed, fastest = 0, 0.0, math.inf
        while elapsed < WARM_UP_SECONDS or calls < 2:
            before = elapsed
            self.call()
            self.settle()
            elapsed = self.clock() - start
            fastest = min(fastest, elapsed - before)
            calls += 1
            if elapsed > SLOW_SECONDS:
                break
        self.repetitions = max(1, math.ceil(SAMPLE_SECONDS / fastest))

    def sample(self) -> None:
        """Append one sample, unless this is patient and has taken long enough."""
        if self.patient and sum(self.samples) > SLOW_SECONDS:
            return
        self.begin()
        if self.repetitions > 1:
            self.call()
        repetitions, call = range(self.repetitions), self.call
        self.settle()
        start = self.clock()
        for _ in repetitions:
            call()
        self.settle()
        self.samples.append((self.clock() - start) / self.repetitions)


def nothing() -> None:
    """What is to do where calls have computed their results when they return."""


def sampled_seconds(
    calls: Mapping[str, Call],
    rounds: int,
    patient: frozenset[str] = frozenset(),
    begin: Callable[[str], Any] | None = None,
    settle: Call = nothing,
    seconds: float | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of one call of each of ``calls``, a sample for each round, in order.

    Args:
        calls: the contestants; rounds alternate between their order and its reverse.
        rounds: samples of each.
        patient: contestants that may be sampled less often when they are slow: they
            stand beside the race, for orientation.
        begin, settle: ``begin(name)`` and ``settle()`` as in `Contestant`.
        seconds: no further round begins after so many, warm-up aside, but
            `LEAST_ROUNDS` are always run.
        clock: what tells the time.
    """
    contestants = {
        name: Contestant(
            call,
            name in patient,
            partial(begin, name) if begin else nothing,
            settle,
            clock,
        )
        for name, call in calls.items()
    }
    with collector_off():
        for contestant in contestants.values():
            contestant.warm_up()
        start = clock()
        for round in range(rounds):
            late = seconds is not None and clock() - start >= seconds
            if late and round >= LEAST_ROUNDS:
                break
            order = list(contestants.values())
            for contestant in order if round % 2 == 0 else reversed(order):
                contestant.sample()
    return {name: c.samples for name, c in contestants.items()}


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect garbage now, then not until the end of the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

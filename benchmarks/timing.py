"""Interleaved timing of callables that do the same work.

Zero-argument callables enter, the median seconds of one call of each leaves.
Invariant: every round samples every contestant once, so that a machine that slows
down for a while slows all of them; the garbage collector is off meanwhile.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WARM_UP_SECONDS = 0.03
SAMPLE_SECONDS = 0.005
SLOW_SECONDS = 2.0
"""Time after which a contestant that is marked ``patient`` is sampled no more."""

Call = Callable[[], Any]


@dataclass
class Contestant:
    """One callable, how often one sample repeats it, and its samples in seconds."""

    call: Call
    patient: bool
    repetitions: int = 1
    samples: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Call for a while, and choose repetitions that last `SAMPLE_SECONDS`."""
        start = time.perf_counter()
        calls, elapsed, fastest = 0, 0.0, math.inf
        while elapsed < WARM_UP_SECONDS or calls < 2:
            before = elapsed
            self.call()
            elapsed = time.perf_counter() - start
            fastest = min(fastest, elapsed - before)
            calls += 1
            if elapsed > SLOW_SECONDS:
                break
        self.repetitions = max(1, math.ceil(SAMPLE_SECONDS / fastest))

    def sample(self) -> None:
        """Append one sample, unless this is patient and has taken long enough."""
        if self.patient and sum(self.samples) > SLOW_SECONDS:
            return
        if self.repetitions > 1:
            self.call()
        repetitions, call = range(self.repetitions), self.call
        start = time.perf_counter()
        for _ in repetitions:
            call()
        self.samples.append((time.perf_counter() - start) / self.repetitions)


def median_seconds(
    calls: Mapping[str, Call], rounds: int, patient: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Median seconds of one call of each of ``calls``, over ``rounds`` samples.

    Names in ``patient`` may be sampled less often when they are slow: they stand
    beside the race, for orientation.
    """
    contestants = {
        name: Contestant(call, name in patient) for name, call in calls.items()
    }
    with collector_off():
        for contestant in contestants.values():
            contestant.warm_up()
        for round in range(rounds):
            order = list(contestants.values())
            for contestant in order if round % 2 == 0 else reversed(order):
                contestant.sample()
    return {name: statistics.median(c.samples) for name, c in contestants.items()}


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

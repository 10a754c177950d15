"""The median seconds of one call, of callables that do the same work.

Zero-argument callables enter, the median seconds of one call of each leaves; the rules
are those of `jitseq.compare.timing`, which samples them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from jitseq.compare.timing import Call, collector_off, nothing, sampled_seconds

__all__ = ["Call", "collector_off", "median_seconds", "nothing"]


def median_seconds(
    calls: Mapping[str, Call],
    rounds: int,
    patient: frozenset[str] = frozenset(),
    begin: Callable[[str], Any] | None = None,
    settle: Call = nothing,
) -> dict[str, float]:
    """Median seconds of one call of each of ``calls``, over ``rounds`` samples.

    Names in ``patient`` may be sampled less often when they are slow: they stand
    beside the race, for orientation. ``begin(name)`` and ``settle()`` as in
    `jitseq.compare.timing.Contestant`.
    """
    samples = sampled_seconds(calls, rounds, patient, begin, settle)
    return {name: statistics.median(taken) for name, taken in samples.items()}

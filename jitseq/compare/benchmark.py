"""`benchmark`: one model in several hands, timed in turns.

A compiled callable and arrays enter; a `Benchmark` leaves. Invariants: every time that
is shown belongs to results that were compared with the eager backend's; contestants
run in turns on the same number of threads; the model is left as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jitseq import nn
from jitseq.compare.contestants import (
    Loss,
    OptimizerFactory,
    State,
    Stepper,
    checked_names,
    inference_call,
    limited,
    stepper,
)
from jitseq.compare.timing import LEAST_ROUNDS, Call, Clock, sampled_seconds
from jitseq.compare.timings import Benchmark, Timing
from jitseq.errors import JitseqError, UnsupportedError
from jitseq.ir.trace import trace
from jitseq.ir.types import type_of
from jitseq.runtime.arguments import readable_all
from jitseq.runtime.compiled import Compiled

EAGER = "eager"
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
"""Largest accepted difference of results, relative to the largest one."""

STEP_TOLERANCE = 1e-2
"""Of a loss, and of the change of all parameters together, relative to it."""


def benchmark(
    compiled: Compiled,
    samples: Sequence[Any],
    names: Sequence[str],
    train: tuple[Loss, OptimizerFactory] | None,
    rounds: int,
    seconds: float | None,
    threads: int | None,
    clock: Clock = time.perf_counter,
) -> Benchmark:
    """See `jitseq.benchmark`; ``names`` are all contestants, the base first."""
    if rounds < LEAST_ROUNDS:
        raise JitseqError(
            f"benchmark: {rounds} rounds tell no quartiles",
            hint=f"{LEAST_ROUNDS} or more",
        )
    names = checked_names(names, train is not None)
    threads = threads or compiled.threads
    arrays = readable_all(samples)
    with limited(names, threads):
        if train is None:
            calls, errors = _calls(compiled, arrays, names, threads)
        else:
            calls, errors = _steps(compiled, arrays, names, train, threads)
        patient = frozenset({EAGER})
        taken = sampled_seconds(calls, rounds, patient, seconds=seconds, clock=clock)
    return Benchmark(
        compiled.__name__,
        "call" if train is None else "training step",
        threads,
        {name: Timing(tuple(times)) for name, times in taken.items()},
        errors,
    )


# calls


def _calls(
    compiled: Compiled, arrays: Sequence[np.ndarray], names: Sequence[str], threads: int
) -> tuple[dict[str, Call], dict[str, float]]:
    """What is timed, and how far each result is from the eager one."""
    _require_pure(compiled, arrays)
    calls = {n: inference_call(n, compiled, arrays, threads) for n in names}
    reference = calls.get(EAGER) or inference_call(EAGER, compiled, arrays, threads)
    expected = [np.array(leaf) for leaf in leaves(reference())]
    errors = {n: _error(leaves(call()), expected) for n, call in calls.items()}
    dtype = expected[0].dtype.name
    _require_equal(errors, TOLERANCES.get(dtype, 0.0), "computes something else")
    return calls, errors


def _require_pure(compiled: Compiled, arrays: Sequence[np.ndarray]) -> None:
    """Raise `UnsupportedError` where each call changes the model, or is random."""
    refresh = getattr(compiled.target, "refresh", None)
    if refresh is not None:
        refresh()
    traced = trace(compiled.target, [type_of(array) for array in arrays])
    if traced.updates or traced.counted or traced.feeds:
        raise UnsupportedError(
            "benchmark: a call changes the model's buffers, or is random",
            hint="model.eval(), or train=(loss, optimizer factory) for training steps",
        )


def leaves(result: Any) -> list[Any]:
    """The arrays of a result, in order."""
    if isinstance(result, Mapping):
        return [leaf for item in result.values() for leaf in leaves(item)]
    if isinstance(result, tuple | list):
        return [leaf for item in result for leaf in leaves(item)]
    return [result]


def _error(found: Sequence[Any], expected: Sequence[np.ndarray]) -> float:
    """The largest difference over the largest value; infinite for other shapes."""
    if len(found) != len(expected):
        return math.inf
    worst = 0.0
    for leaf, array in zip(found, expected, strict=True):
        given = np.asarray(leaf)
        if given.shape != array.shape:
            return math.inf
        same = np.array_equal(np.isfinite(given), np.isfinite(array))
        if not same:
            return math.inf
        finite = np.isfinite(array)
        apart = np.abs(given[finite] - array[finite]).max(initial=0.0)
        size = np.abs(array[finite]).max(initial=0.0)
        worst = max(worst, float(apart / size) if size else float(apart))
    return worst


def _require_equal(errors: Mapping[str, float], allowed: float, what: str) -> None:
    for name, error in errors.items():
        if not error <= allowed:
            raise JitseqError(
                f"benchmark: {name} {what}",
                facts={"relative difference": f"{error:.2g}", "allowed": allowed},
                hint="jitseq.diff finds the layer",
            )


# training steps


def _steps(
    compiled: Compiled,
    arrays: Sequence[np.ndarray],
    names: Sequence[str],
    train: tuple[Loss, OptimizerFactory],
    threads: int,
) -> tuple[dict[str, Call], dict[str, float]]:
    """What is timed, and how far the first step of each is from the eager one."""
    loss, factory = train

    def prepare(name: str, dropout: bool) -> Stepper:
        return stepper(name, compiled, arrays, loss, factory, threads, dropout)

    compared = {name: prepare(name, False) for name in dict.fromkeys((EAGER, *names))}
    start = compared[EAGER].state()
    losses = {name: each.step() for name, each in compared.items()}
    ends = {name: each.state() for name, each in compared.items()}
    errors = {
        name: max(
            abs(losses[name] - losses[EAGER]) / (abs(losses[EAGER]) or 1.0),
            _update_error(ends[name], ends[EAGER], start),
        )
        for name in names
    }
    _require_equal(errors, STEP_TOLERANCE, "trains differently")
    timed = {name: compared[name] for name in names}
    if _drops(compiled.target):
        timed = {name: prepare(name, True) for name in names}
    return {name: each.step for name, each in timed.items()}, errors


def _drops(model: Any) -> bool:
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())


def _update_error(found: State, expected: State, start: State) -> float:
    """The norm of what differs over the norm of what changed, all parameters."""
    if found.keys() != expected.keys():
        return math.inf
    apart = _norm([found[name] - array for name, array in expected.items()])
    moved = _norm([array - start[name] for name, array in expected.items()])
    return apart / moved if moved else apart


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))

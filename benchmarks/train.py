"""Training steps of the zoo: forward, loss, backward and update, jitseq and peers.

Command-line options enter; the table of `benchmarks.bench` leaves, in µs a step.
Invariant: before anything is timed, the loss and the updates of one step of every
contestant are compared with those of jitseq's eager step. Dropout is off in that
comparison, since masks differ, and on when steps are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.bench import (
    QUICK_MODELS,
    add_options,
    add_threads,
    choose_peers,
    limit_blas,
    packages_of,
    table_for,
)
from benchmarks.report import write_outputs
from benchmarks.results import Results
from benchmarks.table import COMPILED, CPU, EAGER, Row, judge, race
from benchmarks.timing import median_seconds
from benchmarks.train_peers import TRAIN_PEERS, Stepper, TrainPeer, prepare_jitseq
from benchmarks.train_task import Task, make_task, update_error
from benchmarks.zoo import ENTRIES, Entry

BATCHES = (16, 64)
LARGE = {"vgg11_bn": (16,), "mobilenet_v1": (16,)}
"""Models with fewer batch sizes."""

ON_REQUEST = ("mobilenet_v1",)
"""Models that run only when they are named."""

TOLERANCE = 1e-2
"""Largest accepted error of a loss or an update, relative to it."""


def contestants(
    task: Task, peers: Sequence[TrainPeer], threads: int, backend: str = CPU
) -> dict[str, Stepper]:
    """Freshly initialised steps, by name."""
    steppers = {
        EAGER: prepare_jitseq(task, threads, "eager"),
        COMPILED: prepare_jitseq(task, threads, backend),
    }
    if backend != CPU:
        steppers[CPU] = prepare_jitseq(task, threads, CPU)
    return steppers | {peer.name: peer.prepare(task, threads) for peer in peers}


def first_step_errors(
    steppers: Mapping[str, Stepper], begin: Callable[[str], None] | None = None
) -> dict[str, float]:
    """Makes one step of each; how far losses and updates are from jitseq eager's.

    ``begin(name)`` is called in front of each step.
    """
    start = steppers[EAGER].state()
    losses, states = {}, {}
    for name, stepper in steppers.items():
        if begin is not None:
            begin(name)
        losses[name] = stepper.step()
        states[name] = stepper.state()
    loss, state = losses[EAGER], states[EAGER]
    return {
        name: max(
            abs(losses[name] - loss) / abs(loss),
            update_error(states[name], state, start),
        )
        for name in steppers
        if name != EAGER
    }


def measure(
    entry: Entry,
    batch: int,
    *,
    peers: Sequence[TrainPeer],
    threads: int,
    rounds: int,
    backend: str = CPU,
) -> Row:
    """One row of the table."""
    task = make_task(entry, batch)
    covering = [peer for peer in peers if peer.uncovered(task) is None]
    exact = make_task(entry, batch, dropout=False)
    steppers = contestants(exact, covering, threads, backend)
    errors = first_step_errors(steppers)
    if task.is_random:
        steppers = contestants(task, covering, threads, backend)
    calls = {name: stepper.step for name, stepper in steppers.items()}
    seconds = median_seconds(calls, rounds, patient=frozenset({EAGER}))
    return Row(entry.name, batch, seconds, errors)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="jitseq bench --train",
        allow_abbrev=False,
        description="Time training steps (forward, loss, backward, SGD with momentum) "
        "of the model zoo beside the installed peers: median µs a step. ratio is the "
        "fastest peer's time over jitseq's. With --backend numba, the LLVM backend has "
        "a column too.",
    )
    add_options(result, TRAIN_PEERS)
    add_threads(result)
    option = result.add_argument
    option("--batches", type=batch_list, metavar="N,M", help="default 16,64")
    option("--train", action="store_true", help="this benchmark")
    return result


def batch_list(text: str) -> tuple[int, ...]:
    batches = tuple(int(part) for part in text.split(","))
    if min(batches) < 1:
        raise argparse.ArgumentTypeError("batch sizes are 1 or more")
    return batches


def races(options: argparse.Namespace) -> list[tuple[Entry, int]]:
    """Models and batch sizes of the table's rows."""
    usual = [entry.name for entry in ENTRIES if entry.name not in ON_REQUEST]
    models = options.models or (QUICK_MODELS if options.quick else usual)
    return [
        (entry, batch)
        for entry in ENTRIES
        if entry.name in models
        for batch in options.batches or LARGE.get(entry.name, BATCHES)
    ]


def print_uncovered(rows: Sequence[tuple[Entry, int]], peers: list[TrainPeer]) -> None:
    """Which peers leave out which models, and why."""
    for entry in dict.fromkeys(entry for entry, _ in rows):
        task = make_task(entry, 1)
        for peer in peers:
            reason = peer.uncovered(task)
            if reason is not None:
                print(f"without {peer.name} for {entry.name}: {reason}")


def main(argv: Sequence[str]) -> int:
    """Print the table; 1 if some updates disagree, else 0."""
    options = parser().parse_args(argv)
    peers = choose_peers(options, TRAIN_PEERS)
    table = table_for(options.backend, TRAIN_PEERS, TOLERANCE)
    chosen = races(options)
    print_uncovered(chosen, peers)
    threads, rounds, backend = options.threads, options.rounds, options.backend
    title = f"median µs a step, {backend}, {threads} thread(s), {rounds} rounds"
    print(title)
    each = partial(
        measure, peers=peers, threads=threads, rounds=rounds, backend=backend
    )
    with limit_blas(threads):
        rows = race(table, chosen, each)
    facts = {"threads": threads, "backend": backend}
    packages = packages_of(TRAIN_PEERS)
    write_outputs(
        options, Results(title, "updates", table, rows, packages, facts, argv)
    )
    return judge(table, rows, "updates")

"""Zoo models × batch sizes, jitseq beside every peer that is installed.

Command-line options enter; an aligned table of µs leaves, with the ratio of the
fastest peer's time to jitseq's (above 1 jitseq is faster). Invariant: every printed
time belongs to outputs that were compared with jitseq's eager outputs. Training steps
are timed by `benchmarks.train`, the cuda backend by `benchmarks.gpu_bench`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import jitseq as js
from benchmarks.peers import PEERS, Peer
from benchmarks.report import add_outputs, write_outputs
from benchmarks.results import Results
from benchmarks.table import COMPILED, CPU, EAGER, Row, Table, judge, race
from benchmarks.timing import Call, median_seconds
from benchmarks.zoo import ENTRIES, ZOO, Entry

if TYPE_CHECKING:
    from benchmarks.gpu_peers import GpuPeer
    from benchmarks.train_peers import TrainPeer

    AnyPeer = Peer | TrainPeer | GpuPeer

P = TypeVar("P", "Peer", "TrainPeer", "GpuPeer")
HOST_BACKENDS = ("cpu", "numba")
BACKENDS = (*HOST_BACKENDS, "cuda")
QUICK_MODELS = ("tiny", "mlp", "lenet5", "cnn32", "autoencoder")
TOLERANCE = 1e-4
"""Largest accepted difference relative to the largest output."""


def table_for(backend: str, peers: Sequence[AnyPeer], tolerance: float) -> Table:
    """Columns for a backend of the host; with numba, the LLVM backend has one too."""
    names = tuple(peer.name for peer in peers)
    beside = (CPU,) if backend != CPU else ()
    columns = (EAGER, COMPILED, *beside, *names)
    ratios = {"ratio": names} | {f"to {name}": (name,) for name in beside}
    return Table(columns, ratios, dict.fromkeys(columns, tolerance))


def relative_error(output: object, expected: np.ndarray) -> float:
    """max |output - expected| / max |expected|; infinite for other shapes or NaN."""
    array = np.asarray(output)
    if array.shape != expected.shape or np.isnan(array).any():
        return math.inf
    return float(np.abs(array - expected).max() / np.abs(expected).max())


def measure(
    entry: Entry,
    batch: int,
    *,
    peers: Sequence[Peer],
    threads: int,
    rounds: int,
    backend: str = CPU,
) -> Row:
    """One row of the table."""
    model = entry.build()
    x = entry.sample(batch)
    calls: dict[str, Call] = {
        EAGER: partial(model, x),
        COMPILED: partial(js.jit(model, backend=backend, threads=threads), x),
    }
    if backend != CPU:
        calls[CPU] = partial(js.jit(model, backend=CPU, threads=threads), x)
    calls |= {peer.name: peer.prepare(model, x, threads) for peer in peers}
    expected = np.array(calls[EAGER]())
    errors = {
        name: relative_error(call(), expected)
        for name, call in calls.items()
        if name != EAGER
    }
    seconds = median_seconds(calls, rounds, patient=frozenset({EAGER}))
    return Row(entry.name, batch, seconds, errors)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="jitseq bench",
        allow_abbrev=False,
        description="Time the model zoo beside the installed peers: median µs a call. "
        "ratio is the fastest peer's time over jitseq's. With --backend numba, the "
        "LLVM backend has a column too; with --backend cuda the peers are PyTorch's, "
        "see --backend cuda -h.",
    )
    add_options(result, PEERS)
    add_threads(result)
    option = result.add_argument
    option("--batch", type=int, nargs="+", metavar="N", help="batch sizes for all")
    option("--train", action="store_true", help="time training steps; see --train -h")
    return result


def add_options(parser: argparse.ArgumentParser, peers: Sequence[AnyPeer]) -> None:
    """The options that all benchmarks share."""
    names = partial(comma_list, known=tuple(ZOO))
    peer_names = partial(comma_list, known=tuple(peer.name for peer in peers))
    option = parser.add_argument
    option("--backend", choices=BACKENDS, default=CPU, help="of jitseq; default cpu")
    option("--models", type=names, metavar="A,B", help=", ".join(ZOO))
    option("--rounds", type=int, default=7, metavar="N", help="samples of each")
    option("--peers", type=peer_names, metavar="A,B", help="some of the peers, or none")
    option(
        "--quick", action="store_true", help="small models only, without torch.compile"
    )
    add_outputs(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")


def comma_list(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = () if text == "none" else tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)} is not one of {', '.join(known)}"
        )
    return names


def choose_peers(options: argparse.Namespace, peers: Sequence[P]) -> list[P]:
    """The peers to run; prints why each other one stays out."""
    chosen = []
    for peer in peers:
        if options.peers is not None and peer.name not in options.peers:
            continue
        if options.peers is None and options.quick and "compile" in peer.name:
            continue
        reason = peer.missing()
        if reason is None:
            chosen.append(peer)
        else:
            print(f"without {peer.name}: {reason}")
    return chosen


def limit_blas(threads: int) -> AbstractContextManager[Any]:
    """Keep NumPy's matrix products, and so jitseq eager, to ``threads`` threads.

    Unlimited, they were up to a hundred times slower on a machine with other work,
    and their waiting threads slowed the other contestants down.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        print("without threadpoolctl: the times of jitseq eager use all cores")
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpool_limits(threads, user_api="blas")
    return limits


def packages_of(peers: Sequence[AnyPeer]) -> set[str]:
    """The distributions whose versions a record of measurements names."""
    return {package for peer in peers for package in peer.packages}


def asks_for(argv: Sequence[str]) -> argparse.Namespace:
    """Which benchmark the options belong to: ``backend`` and ``train``."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--backend")
    chooser.add_argument("--train", action="store_true")
    return chooser.parse_known_args(argv)[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if some outputs disagree, else 0."""
    argv = sys.argv[1:] if argv is None else list(argv)
    asked = asks_for(argv)
    if asked.backend == "cuda":
        from benchmarks import gpu_bench

        return gpu_bench.main(argv)
    if asked.train:
        from benchmarks import train

        return train.main(argv)
    options = parser().parse_args(argv)
    peers = choose_peers(options, PEERS)
    table = table_for(options.backend, PEERS, TOLERANCE)
    models = options.models or (QUICK_MODELS if options.quick else tuple(ZOO))
    races = [
        (entry, batch)
        for entry in ENTRIES
        if entry.name in models
        for batch in options.batch or entry.batches
    ]
    threads, rounds, backend = options.threads, options.rounds, options.backend
    title = f"median µs a call, {backend}, {threads} thread(s), {rounds} rounds"
    print(title)
    each = partial(
        measure, peers=peers, threads=threads, rounds=rounds, backend=backend
    )
    with limit_blas(threads):
        rows = race(table, races, each)
    facts = {"threads": threads, "backend": backend}
    write_outputs(
        options,
        Results(title, "outputs", table, rows, packages_of(PEERS), facts, argv),
    )
    return judge(table, rows, "outputs")


if __name__ == "__main__":
    raise SystemExit(main())

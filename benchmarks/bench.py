"""Zoo models × batch sizes, jitseq beside every peer that is installed.

Command-line options enter; an aligned table of µs leaves, with the ratio of the
fastest peer's time to jitseq's (above 1 jitseq is faster). Invariant: every printed
time belongs to outputs that were compared with jitseq's eager outputs.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import jitseq as js
from benchmarks.peers import PEERS, Peer, installed_version
from benchmarks.timing import Call, median_seconds
from benchmarks.zoo import ENTRIES, ZOO, Entry

if TYPE_CHECKING:
    from benchmarks.train_peers import TrainPeer

P = TypeVar("P", "Peer", "TrainPeer")
EAGER, COMPILED = "eager", "jitseq"
COLUMNS = (EAGER, COMPILED, *(peer.name for peer in PEERS))
QUICK_MODELS = ("tiny", "mlp", "lenet5", "cnn32", "autoencoder")
TOLERANCE = 1e-4
"""Largest accepted difference relative to the largest output."""


@dataclass(frozen=True)
class Row:
    """Median seconds by contestant, and how far outputs are from jitseq eager's."""

    model: str
    batch: int
    seconds: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Seconds of the fastest peer over jitseq's, if there is a peer."""
        peers = [
            time for name, time in self.seconds.items() if name not in (EAGER, COMPILED)
        ]
        return min(peers) / self.seconds[COMPILED] if peers else None


def relative_error(output: object, expected: np.ndarray) -> float:
    """max |output - expected| / max |expected|; infinite for other shapes or NaN."""
    array = np.asarray(output)
    if array.shape != expected.shape or np.isnan(array).any():
        return math.inf
    return float(np.abs(array - expected).max() / np.abs(expected).max())


def measure(
    entry: Entry, batch: int, peers: Sequence[Peer], threads: int, rounds: int
) -> Row:
    """One row of the table."""
    model = entry.build()
    x = entry.sample(batch)
    calls: dict[str, Call] = {
        EAGER: partial(model, x),
        COMPILED: partial(js.jit(model, threads=threads), x),
    }
    calls |= {peer.name: peer.prepare(model, x, threads) for peer in peers}
    expected = np.array(calls[EAGER]())
    errors = {
        name: relative_error(call(), expected)
        for name, call in calls.items()
        if name != EAGER
    }
    seconds = median_seconds(calls, rounds, patient=frozenset({EAGER}))
    return Row(entry.name, batch, seconds, errors)


def header(columns: Sequence[str] = COLUMNS) -> str:
    names = "".join(f"{name:>14}" if "." in name else f"{name:>12}" for name in columns)
    return f"{'model':<12}{'batch':>6}{names}{'ratio':>7}"


def line(row: Row, columns: Sequence[str] = COLUMNS) -> str:
    """The row as text; a dash for a contestant that did not run."""
    cells = ""
    for name in columns:
        time = row.seconds.get(name)
        width = 14 if "." in name else 12
        cells += f"{'-' if time is None else microseconds(time):>{width}}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    return f"{row.model:<12}{row.batch:>6}{cells}{ratio:>7}"


def microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def summary(rows: Sequence[Row]) -> list[str]:
    """Largest difference, geometric mean of the ratios, and the worst row."""
    errors = [(err, row, who) for row in rows for who, err in row.errors.items()]
    error, row, name = max(errors, key=lambda item: item[0])
    lines = [f"largest error {error:.1e} ({name}, {row.model}, batch {row.batch})"]
    raced = [(row.ratio, row) for row in rows if row.ratio is not None]
    if not raced:
        return lines
    mean = math.exp(math.fsum(math.log(ratio) for ratio, _ in raced) / len(raced))
    ratio, worst = min(raced, key=lambda item: item[0])
    won = sum(ratio > 1 for ratio, _ in raced)
    return [
        *lines,
        f"geometric mean {mean:.2f} × the fastest peer, ahead in {won} of {len(raced)}",
        f"worst row      {ratio:.2f} ({worst.model}, batch {worst.batch})",
    ]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="jitseq bench",
        description="Time the model zoo beside the installed peers: median µs a call. "
        "ratio is the fastest peer's time over jitseq's.",
    )
    add_options(result, PEERS)
    option = result.add_argument
    option("--batch", type=int, nargs="+", metavar="N", help="batch sizes for all")
    option("--train", action="store_true", help="time training steps; see --train -h")
    return result


def add_options(
    parser: argparse.ArgumentParser, peers: Sequence[Peer | TrainPeer]
) -> None:
    """The options that inference and training share."""
    names = partial(comma_list, known=tuple(ZOO))
    peer_names = partial(comma_list, known=tuple(peer.name for peer in peers))
    option = parser.add_argument
    option("--models", type=names, metavar="A,B", help=", ".join(ZOO))
    option("--threads", type=int, default=1, metavar="N", help="default 1")
    option("--rounds", type=int, default=7, metavar="N", help="samples of each")
    option("--peers", type=peer_names, metavar="A,B", help="some of the peers, or none")
    option("--json", type=Path, metavar="FILE", help="write the measurements too")
    option(
        "--quick", action="store_true", help="small models only, without torch.compile"
    )


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
        reason = peer.missing()
        if options.peers is not None and peer.name not in options.peers:
            continue
        if options.peers is None and options.quick and peer.name == "torch.compile":
            continue
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


def write_json(
    path: Path, rows: Sequence[Row], threads: int, peers: Sequence[Peer | TrainPeer]
) -> None:
    """The measurements in seconds, and what was measured where."""
    packages = ("jitseq", "numpy", "llvmlite", *{p for q in peers for p in q.packages})
    record = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed_version(name) for name in sorted(packages)},
        "threads": threads,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if some outputs disagree, else 0."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if "--train" in argv:
        from benchmarks import train

        return train.main([argument for argument in argv if argument != "--train"])
    options = parser().parse_args(argv)
    peers = choose_peers(options, PEERS)
    models = options.models or (QUICK_MODELS if options.quick else tuple(ZOO))
    print(f"median µs a call, {options.threads} thread(s), {options.rounds} rounds")
    print(header())
    rows: list[Row] = []
    races = [
        (entry, batch)
        for entry in ENTRIES
        if entry.name in models
        for batch in options.batch or entry.batches
    ]
    with limit_blas(options.threads):
        for entry, batch in races:
            rows.append(measure(entry, batch, peers, options.threads, options.rounds))
            print(line(rows[-1]), flush=True)
    for text in summary(rows):
        print(text)
    if options.json:
        write_json(options.json, rows, options.threads, PEERS)
    wrong = [row for row in rows if max(row.errors.values()) > TOLERANCE]
    for row in wrong:
        print(f"outputs disagree: {row.model}, batch {row.batch}: {row.errors}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The tables of the benchmarks: rows of measured times, as text and as JSON.

Rows, each with seconds and errors by contestant, enter; lines of text leave.
Invariants: a ratio is another contestant's time over jitseq's, so above 1 jitseq is
faster; a row is accepted only if every error is within its contestant's tolerance.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.peers import installed_version
from benchmarks.zoo import Entry

EAGER, COMPILED, CPU = "eager", "jitseq", "cpu"
"""jitseq's own contestants; ``CPU`` is the LLVM backend beside another one."""


@dataclass(frozen=True)
class Row:
    """Median seconds by contestant, and how far outputs are from jitseq eager's."""

    model: str
    batch: int
    seconds: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)

    def ratio(self, names: Iterable[str]) -> float | None:
        """Seconds of the fastest of ``names`` over jitseq's, if one of them ran."""
        times = [self.seconds[name] for name in names if name in self.seconds]
        return min(times) / self.seconds[COMPILED] if times else None


@dataclass(frozen=True)
class Table:
    """Which contestants have a column, and what is printed about them.

    ``ratios`` maps the heading of a ratio, "ratio" or "to …", to the contestants of
    whom the fastest counts; ``tolerances`` has the largest accepted error of each.
    """

    columns: tuple[str, ...]
    ratios: Mapping[str, tuple[str, ...]]
    tolerances: Mapping[str, float]

    def header(self) -> str:
        names = "".join(f"{name:>{_width(name)}}" for name in self.columns)
        ratios = "".join(f"{name:>{_ratio_width(name)}}" for name in self.ratios)
        return f"{'model':<12}{'batch':>6}{names}{ratios}"

    def line(self, row: Row) -> str:
        """The row as text; a dash for a contestant that did not run."""
        cells = ""
        for name in self.columns:
            time = row.seconds.get(name)
            text = "-" if time is None else microseconds(time)
            cells += f"{text:>{_width(name)}}"
        for heading, names in self.ratios.items():
            ratio = row.ratio(names)
            text = "-" if ratio is None else f"{ratio:.2f}"
            cells += f"{text:>{_ratio_width(heading)}}"
        return f"{row.model:<12}{row.batch:>6}{cells}"

    def summary(self, rows: Sequence[Row]) -> list[str]:
        """Largest errors, and of each ratio the geometric mean and the worst row."""
        lines = []
        for tolerance in sorted(set(self.tolerances.values())):
            alike = [n for n, bound in self.tolerances.items() if bound == tolerance]
            lines += largest_error(rows, alike)
        for heading, names in self.ratios.items():
            beside = {"ratio": "the fastest peer"}.get(heading, heading[3:])
            lines += standing(rows, names, beside)
        return lines

    def accepts(self, row: Row) -> bool:
        """Whether every contestant computed what it should."""
        return all(error <= self.tolerances[who] for who, error in row.errors.items())

    def record(self, row: Row) -> dict[str, object]:
        """The row and its ratios for a JSON file, in seconds."""
        ratios = {name: row.ratio(names) for name, names in self.ratios.items()}
        return asdict(row) | ratios


def _width(name: str) -> int:
    return max(12, len(name) + 1)


def _ratio_width(name: str) -> int:
    return max(7, len(name) + 1)


def microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def largest_error(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """One line that names the row and the contestant; none where none was compared."""
    found = [(row.errors[n], row, n) for row in rows for n in names if n in row.errors]
    if not found:
        return []
    error, row, name = max(found, key=lambda item: item[0])
    return [f"largest error {error:.1e} ({name}, {row.model}, batch {row.batch})"]


def standing(rows: Sequence[Row], names: Sequence[str], beside: str) -> list[str]:
    """Where jitseq stands beside the fastest of ``names``; nothing if none ran."""
    ratios = [(row.ratio(names), row) for row in rows]
    raced = [(ratio, row) for ratio, row in ratios if ratio is not None]
    if not raced:
        return []
    mean = math.exp(math.fsum(math.log(ratio) for ratio, _ in raced) / len(raced))
    ratio, worst = min(raced, key=lambda item: item[0])
    won = sum(ratio > 1 for ratio, _ in raced)
    return [
        f"geometric mean {mean:.2f} × {beside}, ahead in {won} of {len(raced)}",
        f"worst row      {ratio:.2f} ({worst.model}, batch {worst.batch})",
    ]


def race(
    table: Table,
    races: Iterable[tuple[Entry, int]],
    measure: Callable[[Entry, int], Row],
) -> list[Row]:
    """Print the table line by line as ``measure(entry, batch)`` gives its rows."""
    print(table.header())
    rows = []
    for entry, batch in races:
        rows.append(measure(entry, batch))
        print(table.line(rows[-1]), flush=True)
    return rows


def judge(table: Table, rows: Sequence[Row], what: str) -> int:
    """Print the summary and the rows whose ``what`` disagree; 1 if there are any."""
    for text in table.summary(rows):
        print(text)
    wrong = [row for row in rows if not table.accepts(row)]
    for row in wrong:
        print(f"{what} disagree: {row.model}, batch {row.batch}: {row.errors}")
    return 1 if wrong else 0


def write_json(
    path: Path,
    table: Table,
    rows: Sequence[Row],
    packages: Iterable[str],
    **facts: object,
) -> None:
    """The measurements in seconds, and what was measured where."""
    names = {"jitseq", "numpy", "llvmlite", "numba", *packages}
    record = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed_version(name) for name in sorted(names)},
        **facts,
        "rows": [table.record(row) for row in rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")

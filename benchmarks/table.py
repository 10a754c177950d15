"""The tables of the benchmarks: rows of measured times, as text.

Rows, each with seconds and errors by contestant, enter; lines of text leave.
Invariants: a ratio is another contestant's time over jitseq's, so above 1 jitseq is
faster; a row is accepted only if every error is within its contestant's tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

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
class Standing:
    """Where jitseq stands beside others, over the rows in which one of them ran.

    ``mean`` is the geometric mean of the ratios; the least of them is ``least``, in
    the row ``worst``; ``ahead`` of ``raced`` rows have one above 1.
    """

    mean: float
    least: float
    worst: Row
    ahead: int
    raced: int

    def lines(self, beside: str) -> list[str]:
        return [
            f"geometric mean {self.mean:.2f} × {beside}, "
            f"ahead in {self.ahead} of {self.raced}",
            f"worst row      {self.least:.2f} "
            f"({self.worst.model}, batch {self.worst.batch})",
        ]


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

    def cells(self, row: Row) -> list[str]:
        """µs of each column, then the ratios; a dash for who did not run."""
        times = [row.seconds.get(name) for name in self.columns]
        ratios = [row.ratio(names) for names in self.ratios.values()]
        cells = ["-" if time is None else microseconds(time) for time in times]
        return cells + ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]

    def line(self, row: Row) -> str:
        """The row as text."""
        widths = [_width(name) for name in self.columns]
        widths += [_ratio_width(heading) for heading in self.ratios]
        cells = zip(self.cells(row), widths, strict=True)
        line = "".join(f"{cell:>{width}}" for cell, width in cells)
        return f"{row.model:<12}{row.batch:>6}{line}"

    def beside(self, heading: str) -> str:
        """Whom a ratio compares jitseq with, in words."""
        return "the fastest peer" if heading == "ratio" else heading[3:]

    def summary(self, rows: Sequence[Row]) -> list[str]:
        """Largest errors, and of each ratio the geometric mean and the worst row."""
        lines = []
        for tolerance in sorted(set(self.tolerances.values())):
            alike = [n for n, bound in self.tolerances.items() if bound == tolerance]
            lines += largest_error(rows, alike)
        for heading, names in self.ratios.items():
            found = standing(rows, names)
            lines += found.lines(self.beside(heading)) if found else []
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


def standing(rows: Sequence[Row], names: Sequence[str]) -> Standing | None:
    """Where jitseq stands beside the fastest of ``names``; None if none ran."""
    ratios = [(row.ratio(names), row) for row in rows]
    raced = [(ratio, row) for ratio, row in ratios if ratio is not None]
    if not raced:
        return None
    mean = math.exp(math.fsum(math.log(ratio) for ratio, _ in raced) / len(raced))
    least, worst = min(raced, key=lambda item: item[0])
    return Standing(mean, least, worst, sum(r > 1 for r, _ in raced), len(raced))


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
    wrong = disagreements(table, rows, what)
    for text in wrong:
        print(text)
    return 1 if wrong else 0


def disagreements(table: Table, rows: Sequence[Row], what: str) -> list[str]:
    """A line for each row that is not accepted."""
    return [
        f"{what} disagree: {row.model}, batch {row.batch}: {row.errors}"
        for row in rows
        if not table.accepts(row)
    ]

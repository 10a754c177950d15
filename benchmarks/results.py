"""What a benchmark measured, and what its reports draw of it.

The rows of a table enter; the record for a JSON file and the panels of a chart leave.
Invariant: every ratio of a panel is `Row.ratio`, as in the printed table.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers import installed_version
from benchmarks.table import COMPILED, EAGER, Row, Standing, Table, standing

PACKAGES = ("jitseq", "numpy", "llvmlite", "numba")


@dataclass(frozen=True)
class Panel:
    """The ratios of one contestant, or of the fastest of several, row by row.

    ``ratios`` has None for rows in which none of them ran; ``eager`` marks jitseq's
    eager mode, which is far slower than the others.
    """

    title: str
    ratios: tuple[float | None, ...]
    standing: Standing
    eager: bool = False

    @property
    def raced(self) -> list[float]:
        return [ratio for ratio in self.ratios if ratio is not None]


@dataclass(frozen=True)
class Results:
    """A race that was run: its table, and what was measured where.

    ``what`` is what was compared, "outputs" or "updates"; ``packages`` are the
    distributions of the contestants, ``argv`` the options of ``jitseq bench``.
    """

    title: str
    what: str
    table: Table
    rows: Sequence[Row]
    packages: Iterable[str]
    facts: Mapping[str, object]
    argv: Sequence[str]

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "jitseq", "bench", *self.argv])

    @property
    def labels(self) -> list[str]:
        """Model and batch size of each row."""
        return [f"{row.model} {row.batch}" for row in self.rows]

    def machine(self) -> dict[str, object]:
        """Where it was measured: the machine, Python, threads, backend or device."""
        return {
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **self.facts,
        }

    def versions(self) -> dict[str, str | None]:
        """The version of each package; None for one that is not installed."""
        names = sorted({*PACKAGES, *self.packages})
        return {name: installed_version(name) for name in names}

    def record(self) -> dict[str, object]:
        """All of it for a JSON file, times in seconds."""
        return {
            **self.machine(),
            "command": self.command,
            "versions": self.versions(),
            "rows": [self.table.record(row) for row in self.rows],
        }

    def panels(self) -> list[Panel]:
        """The fastest of each group, each contestant, and eager mode last."""
        ran = {name for row in self.rows for name in row.seconds}
        chosen = {
            self.table.beside(heading): names
            for heading, names in self.table.ratios.items()
            if len(ran.intersection(names)) > 1
        }
        others = [name for name in self.table.columns if name in ran]
        own = {COMPILED, EAGER}
        chosen |= {name: (name,) for name in others if name not in own}
        chosen |= {name: (name,) for name in others if name == EAGER}
        found = (self._panel(title, names) for title, names in chosen.items())
        return [panel for panel in found if panel is not None]

    def _panel(self, title: str, names: tuple[str, ...]) -> Panel | None:
        stands = standing(self.rows, names)
        if stands is None:
            return None
        ratios = tuple(row.ratio(names) for row in self.rows)
        return Panel(title, ratios, stands, names == (EAGER,))


def limits(panels: Iterable[Panel]) -> tuple[float, float]:
    """The ends of an axis on which all panels are drawn: 1.0 and every ratio."""
    ratios = [ratio for panel in panels for ratio in panel.raced]
    return min(1.0, *ratios), max(2.0, *ratios)

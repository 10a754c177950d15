"""What `benchmark` measured: samples, medians and quartiles, as text, HTML and plot.

Samples enter; a `Benchmark` shows itself. Invariants: a ratio is said to be one only
where the quartiles of two contestants do not overlap; no line is longer than 100
columns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jitseq.display.axes import Scale, horizontal_axis
from jitseq.display.figures import cut, text_table
from jitseq.display.markup import (
    element,
    framed,
    paragraph,
    svg,
    svg_text,
    table,
    text,
)
from jitseq.errors import JitseqError

DRIFT = 0.1
"""Between the medians of the first and the second half of the rounds."""

LOGARITHMIC = 20.0
"""Times between slowest and fastest from which the chart is logarithmic."""

WIDTH, LEFT, RIGHT, ROW, BOTTOM = 560.0, 110.0, 16.0, 26.0, 40.0
KINDS = ("contraction", "pointwise", "window", "reduction", "gradient", "update")
UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a time is 1 or more, and its seconds; µs for shorter ones."""
    return next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])


@dataclass(frozen=True)
class Timing:
    """Seconds of one call in each round, in order."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one; the same number when there is one sample."""
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        lower, _, upper = statistics.quantiles(self.samples, n=4, method="inclusive")
        return lower, upper

    @property
    def drift(self) -> float:
        """How far the second half's median is from the first's, relative to it."""
        half = len(self.samples) // 2
        if not half:
            return 0.0
        first = statistics.median(self.samples[:half])
        return statistics.median(self.samples[-half:]) / first - 1

    def overlaps(self, other: Timing) -> bool:
        """Whether the middle halves of both share a time."""
        (low, high), (other_low, other_high) = self.quartiles, other.quartiles
        return low <= other_high and other_low <= high


@dataclass(frozen=True)
class Benchmark:
    """Timings by contestant, the first of which the others are compared with.

    ``what`` is what one call is: ``"call"`` or ``"training step"``. ``errors`` are how
    far each contestant's results are from the eager ones, relative to their size.
    """

    name: str
    what: str
    threads: int
    timings: Mapping[str, Timing]
    errors: Mapping[str, float]

    @property
    def seconds(self) -> dict[str, float]:
        """The median of each contestant."""
        return {name: timing.median for name, timing in self.timings.items()}

    def ratio(self, a: str, b: str) -> float:
        """How many times as long ``a`` takes as ``b``, by medians.

        Raises `JitseqError` for a name that did not run.
        """
        return self._timing(a).median / self._timing(b).median

    def told_apart(self, a: str, b: str) -> bool:
        """Whether the machine was calm enough to say which of two is faster.

        Raises `JitseqError` for a name that did not run.
        """
        return not self._timing(a).overlaps(self._timing(b))

    def _timing(self, name: str) -> Timing:
        if name not in self.timings:
            raise JitseqError(
                f"benchmark: {name!r} did not run",
                hint=f"one of {', '.join(self.timings)}",
            )
        return self.timings[name]

    @property
    def base(self) -> str:
        """The contestant that the others are compared with: the first."""
        return next(iter(self.timings))

    def notes(self) -> list[str]:
        """What keeps the figures from being trusted, in sentences."""
        notes = [
            f"{self.base} and {name}: no difference can be told, their quartiles "
            "overlap"
            for name in self.timings
            if name != self.base and not self.told_apart(self.base, name)
        ]
        for name, timing in self.timings.items():
            if abs(timing.drift) > DRIFT:
                notes.append(
                    f"{name}: the second half of the rounds took {timing.drift:+.0%}: "
                    "the machine is busy, or its clock changes"
                )
        return notes

    def cells(self) -> list[tuple[str, ...]]:
        """The rows of the table."""
        rows: list[tuple[str, ...]] = []
        for name, timing in self.timings.items():
            unit, size = unit_of(timing.median)
            low, high = timing.quartiles
            apart = name == self.base or self.told_apart(self.base, name)
            rows.append(
                (
                    name,
                    f"{timing.median / size:,.2f} {unit}",
                    f"{low / size:,.2f} … {high / size:,.2f}",
                    str(len(timing.samples)),
                    f"{self.ratio(name, self.base):.2f}{'' if apart else ' ?'}",
                )
            )
        return rows

    def _headers(self) -> tuple[str, ...]:
        return ("", "median", "quartiles", "rounds", f"× {self.base}")

    def _title(self) -> str:
        return f"{self.name}: one {self.what}, {self.threads} thread(s)"

    def __str__(self) -> str:
        rows = [self._headers(), *self.cells()]
        lines = text_table(rows, right=(1, 2, 3, 4), flexible=(0,))
        notes = self.notes()
        title = cut(self._title(), 100)
        parts = [title, "", *lines, *([""] if notes else []), *notes]
        return "\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [[text(cell) for cell in row] for row in self.cells()]
        notes = [element("li", text(note)) for note in self.notes()]
        return framed(
            element("p", text(self._title()), class_="strong"),
            self._chart(),
            table(self._headers(), rows, (1, 2, 3, 4)),
            element("ul", *notes) if notes else "",
            paragraph("boxes: quartiles; lines: the fastest and the slowest round"),
        )

    def _chart(self) -> str:
        """A box for each contestant over a common axis of time."""
        unit, size = unit_of(min(self.seconds.values()))
        extremes = [
            t / size for timing in self.timings.values() for t in timing.samples
        ]
        wide = max(extremes) > LOGARITHMIC * min(extremes)
        low = min(extremes) * 0.9 if wide else 0.0
        x = Scale(low, max(extremes) * 1.05, LEFT, WIDTH - RIGHT, logarithmic=wide)
        height = ROW * len(self.timings) + BOTTOM
        parts = horizontal_axis(x, height - BOTTOM + 4, 0.0, unit)
        for i, (name, timing) in enumerate(self.timings.items()):
            kind = KINDS[i % len(KINDS)]
            parts += _box(name, [t / size for t in timing.samples], x, i * ROW, kind)
        return svg(WIDTH, height, *parts, class_="chart")

    def plot(self) -> Any:
        """A `matplotlib.figure.Figure` with a box for each contestant.

        Raises `JitseqError` where matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ModuleNotFoundError:
            raise JitseqError(
                "a plot needs matplotlib", hint='pip install "jitseq[plot]"'
            ) from None
        unit, size = unit_of(min(self.seconds.values()))
        figure, axis = pyplot.subplots(figsize=(6, 1 + 0.4 * len(self.timings)))
        samples = [[t / size for t in x.samples] for x in self.timings.values()]
        axis.boxplot(samples, orientation="horizontal", whis=(0, 100))
        axis.set_yticks(range(1, len(samples) + 1), list(self.timings))
        axis.invert_yaxis()
        if max(map(max, samples)) > LOGARITHMIC * min(map(min, samples)):
            axis.set_xscale("log")
        else:
            axis.set_xlim(left=0)
        axis.set_xlabel(f"{unit} a {self.what}")
        figure.tight_layout()
        return figure


def _box(
    name: str, samples: Sequence[float], x: Scale, top: float, kind: str
) -> list[str]:
    timing = Timing(tuple(samples))
    low, high = map(x, timing.quartiles)
    middle, median = top + ROW / 2, x(timing.median)
    line = {"x1": x(min(samples)), "x2": x(max(samples)), "y1": middle, "y2": middle}
    bar = {"x1": median, "x2": median, "y1": top + 4, "y2": top + ROW - 4}
    box = {"x": low, "y": top + 6, "width": max(high - low, 1.0), "height": ROW - 12}
    return [
        svg_text(LEFT - 8, middle + 4, cut(name, 16), class_="end"),
        element("line", class_=f"line kind-{kind}", **line),
        element("rect", class_=f"frame kind-{kind}", **box),
        element("line", class_=f"line kind-{kind}", **bar),
    ]

"""The chart of a benchmark, drawn with matplotlib.

Results enter; a `matplotlib.figure.Figure` leaves. Invariants: no window is opened and
no global state of matplotlib is touched; the figures are those of the printed table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from benchmarks.results import Panel, Results, limits
from jitseq.display.style import ACCENTS

WIDTH, ROW, MARGIN = 4.2, 0.19, 1.5
"""Inches of a panel, of a row of it, and around its rows."""

ACROSS = 3
MEAN = "geometric mean"
AHEAD, BEHIND, AVERAGE = (ACCENTS[k] for k in ("contraction", "update", "movement"))


def figure(results: Results) -> Any:
    """Bars of ratios, a panel for each contestant; a sentence where there are none."""
    from matplotlib.figure import Figure

    panels = results.panels()
    if not panels:
        made = Figure(figsize=(WIDTH, MARGIN))
        made.suptitle("no other contestant ran", fontsize=10)
        return made
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    height = down * (ROW * (len(results.rows) + 1) + MARGIN) + 0.8
    made = Figure(figsize=(WIDTH * across, height), layout="constrained", dpi=110)
    grid = made.subplots(down, across, squeeze=False).ravel()
    peers = [panel for panel in panels if not panel.eager]
    for panel, axis in zip(panels, grid, strict=False):
        draw(axis, panel, results.labels, [panel] if panel.eager else peers)
    for axis in grid[len(panels) :]:
        axis.set_axis_off()
    made.suptitle(textwrap.fill(results.title, 42 * across), fontsize=11)
    command = textwrap.fill(results.command, 60 * across)
    made.supxlabel(f"times as long as jitseq\n{command}", fontsize=8)
    return made


def draw(
    axis: Any, panel: Panel, labels: Sequence[str], alike: Sequence[Panel]
) -> None:
    """One panel, on an axis that holds the ratios of all that are ``alike``."""
    stands = panel.standing
    bottom = len(labels) + 0.4
    places = [float(i) for i, r in enumerate(panel.ratios) if r is not None] + [bottom]
    colours = [AHEAD if ratio >= 1 else BEHIND for ratio in panel.raced] + [AVERAGE]
    ratios = [*panel.raced, stands.mean]
    axis.barh(places, [r - 1 for r in ratios], 0.7, left=1, color=colours)
    for place, ratio in zip(places, ratios, strict=True):
        axis.annotate(
            f"{ratio:.2f}", (ratio, place), (3 if ratio >= 1 else -3, 0),
            textcoords="offset points", ha="left" if ratio >= 1 else "right",
            va="center", fontsize=7,
            fontweight="bold" if ratio == stands.least else "normal",
        )  # fmt: skip
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks([*range(len(labels)), bottom], [*labels, MEAN], fontsize=7)
    axis.set_ylim(bottom + 0.6, -0.6)
    low, high = limits(alike)
    room = (high / low) ** 0.25
    axis.set_xscale("log")
    axis.set_xlim(low / room if low < 1 else 0.97, high * room)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", which="both", labelsize=7)
    axis.set_title(
        f"beside {panel.title}: worst {stands.least:.2f}\n"
        f"({stands.worst.model}, batch {stands.worst.batch})",
        fontsize=8,
    )

"""A training history as HTML: line charts of losses and accuracies, and the table.

Columns of a `History` enter; markup leaves. Invariant: values that are NaN or infinite
leave a gap in their line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jitseq.display.axes import Scale, horizontal_axis, vertical_axis
from jitseq.display.markup import (
    details,
    element,
    framed,
    paragraph,
    svg,
    table,
    text,
)
from jitseq.runtime.history import NOT_PLOTTED, History, formatted

WIDTH, HEIGHT = 380.0, 216.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 10.0, 10.0, 38.0
SHOWN_ROWS = 12
"""Longer tables are closed at first."""

KINDS = ("contraction", "pointwise", "window", "reduction", "gradient", "update")
"""Colours of lines, in order of the columns."""


def history_html(history: History) -> str:
    """Charts, and the table below them."""
    if not history.epochs:
        return framed(paragraph("no epochs"))
    columns = history.to_dict()
    names = [name for name in columns if name not in NOT_PLOTTED]
    shares = [name for name in names if name.endswith("accuracy")]
    panels = [[name for name in names if name not in shares], shares]
    charts = [_panel(columns, panel, panel is shares) for panel in panels if panel]
    rows = [
        [text(formatted(name, value)) for name, value in record.items()]
        for record in history
    ]
    made = table(history.columns, rows, range(len(history.columns)))
    shown = len(rows) <= SHOWN_ROWS
    parts = [element("div", *charts, class_="side")] if charts else []
    parts.append(details(f"{len(rows)} epochs", made, shown=shown))
    if history.interrupted:
        parts.append(paragraph("interrupted"))
    return framed(*parts)


def _panel(
    columns: Mapping[str, Sequence[float]], names: Sequence[str], shares: bool
) -> str:
    kinds = dict(zip(names, KINDS * len(names), strict=False))
    keys = (
        element("span", element("i") + text(name), class_=f"key kind-{kinds[name]}")
        for name in names
    )
    epochs = columns.get("epoch") or range(1, len(columns[names[0]]) + 1)
    values = {name: columns[name] for name in names}
    chart = _chart(list(epochs), values, kinds, shares)
    caption = element("p", *keys, class_="legend")
    return element("div", caption, chart, style=f"flex:1 1 {WIDTH - 100:.0f}px")


def _chart(
    epochs: Sequence[float],
    columns: Mapping[str, Sequence[float]],
    kinds: Mapping[str, str],
    shares: bool,
) -> str:
    finite = [v for values in columns.values() for v in values if math.isfinite(v)]
    low, high = _range(finite or [0.0, 1.0], shares)
    last = max(epochs[-1], epochs[0] + 1)
    x = Scale(epochs[0], last, LEFT, WIDTH - RIGHT - 8, whole=True)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = horizontal_axis(x, HEIGHT - BOTTOM, TOP, "epoch")
    form = ".0%" if shares and high - low > 0.05 else ".1%" if shares else "g"
    parts += vertical_axis(y, LEFT, WIDTH - RIGHT, "", form)
    for name, values in columns.items():
        style = f"line kind-{kinds[name]}"
        title = element("title", text(name))
        drawn = _line(epochs, values, x, y)
        parts.append(element("path", title, class_=style, d=drawn))
        parts += [
            element("circle", class_=f"fill kind-{kinds[name]}", cx=x(e), cy=y(v), r=2)
            for e, v in zip(epochs, values, strict=True)
            if math.isfinite(v) and len(epochs) <= 40
        ]
    return svg(WIDTH, HEIGHT, *parts, class_="chart")


def _range(values: Sequence[float], shares: bool) -> tuple[float, float]:
    """What the axis shows: a little more than the values, and zero where it is near."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    if 0 <= low < (high - low) / 2:
        low = room
    if shares:
        return max(low - room, 0.0), min(high + room, 1.0) if high < 1 else 1.0
    return low - room, high + room


def _line(epochs: Sequence[float], values: Sequence[float], x: Scale, y: Scale) -> str:
    """A path through the finite values."""
    parts, pen = [], "M"
    for epoch, value in zip(epochs, values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        parts.append(f"{pen}{x(epoch):.1f} {y(value):.1f}")
        pen = "L"
    return "".join(parts) or "M0 0"

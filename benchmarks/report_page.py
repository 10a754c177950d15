"""The page of a benchmark: charts of ratios, the table, the machine, the command.

Results enter; HTML leaves. Invariants: the page needs nothing but itself; its figures
are those of the printed table; no labels of a chart overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Panel, Results, limits
from benchmarks.table import disagreements, standing
from jitseq.display.axes import Scale, horizontal_axis
from jitseq.display.markup import (
    element,
    heading,
    paragraph,
    svg,
    svg_text,
    table,
    text,
)
from jitseq.display.style import CSS, PAGE

WIDTH, TOP, ROW, BOTTOM = 346.0, 18.0, 16.0, 36.0
GAP = 6.0
"""Above the bar of the geometric mean, and between a bar and its labels."""

BOLD = 7.4
"""Width of a character of a bold label, at most on average."""

MEAN = "geometric mean"
AHEAD, BEHIND, AVERAGE = "contraction", "update", "movement"
RATIOS = "Each bar is another contestant's time over jitseq's, on a logarithmic axis; "
RULES = f"""
.jitseq .panels {{ display: flex; flex-wrap: wrap; gap: 8px 20px; }}
.jitseq .panels section {{ flex: 1 1 {WIDTH - 18:.0f}px;
  max-width: {WIDTH + 30:.0f}px; }}
.jitseq .alarm {{ font-weight: 600; color: #dc4c3e; overflow-wrap: anywhere; }}
.jitseq .command {{ overflow-wrap: anywhere; }}
"""


def page(results: Results) -> str:
    """The page, one self-contained file without scripts."""
    title = f"jitseq bench: {results.title}"
    wide = "width=device-width, initial-scale=1"
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content=wide),
        element("title", text(title)),
        element("style", CSS + PAGE + RULES),
    ]
    body = element("main", *_body(results), class_="jitseq")
    html = element("html", element("head", *head), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def _body(results: Results) -> list[str]:
    rows = results.table, results.rows
    wrong = disagreements(*rows, results.what)
    return [
        element("h1", text("jitseq beside its peers")),
        paragraph(results.title),
        *(element("p", text(line), class_="alarm") for line in wrong),
        _list(results.table.summary(results.rows)),
        *_charts(results),
        element("h2", text("Times in µs")),
        _table(results),
        element("h2", text("Machine")),
        _list([f"{name}: {value}" for name, value in results.machine().items()]),
        _list([f"{n} {v or 'not installed'}" for n, v in results.versions().items()]),
        element("h2", text("Command")),
        element("p", element("code", text(results.command)), class_="command"),
    ]


def _list(lines: Sequence[str]) -> str:
    items = (element("li", text(" ".join(line.split()))) for line in lines)
    return element("ul", *items)


def _table(results: Results) -> str:
    """The printed table; its last row has the geometric means."""
    shown = results.table
    headers = ["model", "batch", *shown.columns, *shown.ratios]
    rows = [
        [text(cell) for cell in (row.model, row.batch, *shown.cells(row))]
        for row in results.rows
    ]
    found = [standing(results.rows, names) for names in shown.ratios.values()]
    means = ["-" if each is None else f"{each.mean:.2f}" for each in found]
    blank = [""] * (len(shown.columns) + 1)
    totals = [text(MEAN), *blank, *means] if any(found) else []
    return table(headers, rows, range(1, len(headers)), totals)


def _charts(results: Results) -> list[str]:
    """A chart for each panel; eager mode has an axis of its own."""
    panels = results.panels()
    if not panels:
        return []
    peers = [panel for panel in panels if not panel.eager]
    scales = {
        panel.title: _scale(results.labels, [panel] if panel.eager else peers)
        for panel in panels
    }
    drawn = (_section(panel, results.labels, scales[panel.title]) for panel in panels)
    return [
        element("h2", text("Ratios")),
        paragraph(RATIOS + "rows are model and batch size, bold the least ratio."),
        _legend(),
        element("div", *drawn, class_="panels"),
    ]


def _legend() -> str:
    kinds = ((AHEAD, "jitseq is faster"), (BEHIND, "jitseq is slower"), (AVERAGE, MEAN))
    keys = (
        element("span", element("i") + text(name), class_=f"key kind-{kind}")
        for kind, name in kinds
    )
    return element("p", *keys, class_="legend")


def _section(panel: Panel, labels: Sequence[str], x: Scale) -> str:
    stands = panel.standing
    caption = (
        f"{MEAN} {stands.mean:.2f}, ahead in {stands.ahead} of {stands.raced}; "
        f"worst {stands.least:.2f} ({stands.worst.model}, batch {stands.worst.batch})"
    )
    parts = [heading(f"Beside {panel.title}"), paragraph(caption)]
    return element("section", *parts, chart(panel, labels, x))


def _scale(labels: Sequence[str], panels: Sequence[Panel]) -> Scale:
    """An axis for all of the panels, with room for labels on both sides."""
    low, high = limits(panels)
    left = _margin(labels)
    widest = max(len(f"{ratio:.2f}") for panel in panels for ratio in panel.raced)
    room = widest * BOLD + GAP
    start = left + (len("0.00") * BOLD + GAP if low < 1 else 0.0)
    return Scale(low, high, start, WIDTH - room, logarithmic=True)


def _margin(labels: Sequence[str]) -> float:
    """Where the place for bars begins."""
    return max(map(len, [*labels, MEAN])) * BOLD + GAP


def chart(panel: Panel, labels: Sequence[str], x: Scale) -> str:
    """Bars from the line at 1.0 to each ratio, and one for their geometric mean."""
    bottom = TOP + ROW * (len(labels) + 1) + GAP
    parts = horizontal_axis(x, bottom, TOP - 4, "times as long as jitseq")
    even = x(1.0)
    left = _margin(labels) - GAP
    for i, (label, ratio) in enumerate(zip(labels, panel.ratios, strict=True)):
        strong = ratio == panel.standing.least
        kind = AHEAD if ratio is None or ratio >= 1 else BEHIND
        parts += _bar(label, ratio, x, left, TOP + i * ROW, kind, strong)
    mean = panel.standing.mean
    parts += _bar(MEAN, mean, x, left, bottom - ROW, AVERAGE, False)
    ends = {"x1": even, "x2": even, "y1": TOP - 4, "y2": bottom}
    parts.append(element("line", class_="edge", **ends))
    parts.append(svg_text(even, TOP - 7, "1.0", class_="strong middle"))
    name = f"time of {panel.title} over jitseq's"
    height = bottom + BOTTOM
    return svg(WIDTH, height, *parts, class_="chart", aria_label=name)


def _bar(
    label: str,
    ratio: float | None,
    x: Scale,
    left: float,
    top: float,
    kind: str,
    strong: bool,
) -> list[str]:
    """A row: its label, which ends at ``left``, its bar, and the ratio beside it."""
    weight = " strong" if strong else ""
    y, even = top + ROW / 2 + 4, x(1.0)
    parts = [svg_text(left, y, label, class_=f"end{weight}")]
    if ratio is None:
        return [*parts, svg_text(even + GAP / 2, y, "–", class_="soft")]
    end = x(ratio)
    box = {"x": min(end, even), "width": abs(end - even), "height": ROW - 5}
    parts.append(element("rect", class_=f"fill kind-{kind}", y=top + 2.5, **box))
    side, anchor = (end + GAP / 2, "") if ratio >= 1 else (end - GAP / 2, "end")
    style = f"{anchor}{weight}".strip() or None
    return [*parts, svg_text(side, y, f"{ratio:.2f}", class_=style)]

"""Markup: elements, escaped text, tables, and the frame around each display.

Strings and numbers enter; well-formed HTML or SVG leaves. Invariant: text and values
of attributes are escaped, and what is nested is markup that came from here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from jitseq.display.style import CSS

VOID = ("rect", "path", "line", "circle", "meta", "col")
NUMERIC = "n"
"""Class of cells that are numbers: aligned to the right."""


def text(value: object) -> str:
    """Escaped text."""
    return html.escape(str(value), quote=True)


def element(name: str, /, *children: str, **attributes: object) -> str:
    """An element around markup; ``class_`` is class, ``stroke_width`` stroke-width.

    Attributes that are None are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID and not children:
        return f"<{name}{written}/>"
    return f"<{name}{written}>{''.join(children)}</{name}>"


def _attribute(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return text(value)


def framed(*parts: str) -> str:
    """One display: its parts under the class that all rules of style belong to."""
    return element("div", element("style", CSS), *parts, class_="jitseq")


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Iterable[int] = (),
    totals: Sequence[str] = (),
) -> str:
    """A table of markup, which scrolls sideways where it is too wide.

    ``numeric`` are the columns aligned to the right, ``totals`` a last row.
    """
    kinds = {column: NUMERIC for column in numeric}

    def row(cells: Sequence[str], name: str) -> str:
        made = (element(name, c, class_=kinds.get(i)) for i, c in enumerate(cells))
        return element("tr", *made)

    parts = [element("thead", row([text(header) for header in headers], "th"))]
    parts.append(element("tbody", *(row(cells, "td") for cells in rows)))
    if totals:
        parts.append(element("tfoot", row(totals, "td")))
    return element("div", element("table", *parts), class_="scroll")


def bar(share: float, label: str, kind: str = "contraction") -> str:
    """A bar of ``share`` (0 to 1, cut there) of its cell, beside a label.

    A share that is not known, NaN, is a dash.
    """
    if math.isnan(share):
        return text("–")
    inner = element("i", style=f"width:{min(max(share, 0.0), 1.0):.1%}")
    return element("span", inner, class_=f"bar kind-{kind}") + text(label)


def details(title: str, *parts: str, shown: bool = False) -> str:
    """Parts under a title that opens and closes them."""
    opened = "open" if shown else None
    return element("details", element("summary", text(title)), *parts, open=opened)


def heading(title: str) -> str:
    return element("h3", text(title))


def paragraph(title: str, muted: bool = True) -> str:
    return element("p", text(title), class_="muted" if muted else None)


def svg(width: float, height: float, *parts: str, **attributes: object) -> str:
    """A picture of its natural size, or as wide as its place where that is less."""
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        **attributes,
    )


def svg_text(x: float, y: float, content: str, **attributes: object) -> str:
    return element("text", text(content), x=x, y=y, **attributes)

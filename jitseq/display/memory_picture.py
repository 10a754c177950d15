"""An arena over time as SVG: buffers as rectangles, kernels along, bytes up.

Bands of bytes with their first and last step enter; a picture leaves. Invariant: a
rectangle covers exactly the steps and the bytes of its band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitseq.display.axes import CHARACTER
from jitseq.display.figures import byte_count, cut
from jitseq.display.layered import Rectangle
from jitseq.display.markup import element, svg, svg_text, text

LEFT, TOP, BOTTOM = 62.0, 8.0, 34.0
HEIGHT = 200.0
STEP = 26.0
NARROWEST = 300.0
"""Least width of the steps together."""

KINDS = ("contraction", "pointwise", "window", "reduction", "gradient")
LABEL_HEIGHT = 13.0


@dataclass(frozen=True)
class Band:
    """Bytes ``offset`` to ``offset + bytes`` from step ``first`` to ``last``."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


def rectangles(bands: Sequence[Band], steps: int, total: int) -> list[Rectangle]:
    """Where each band is drawn; the arena's start is at the bottom."""
    step = max(STEP, NARROWEST / steps)
    scale = HEIGHT / max(total, 1)
    return [
        Rectangle(
            LEFT + band.first * step,
            TOP + HEIGHT - (band.offset + band.bytes) * scale,
            (band.last - band.first + 1) * step,
            band.bytes * scale,
        )
        for band in bands
    ]


def picture(bands: Sequence[Band], kernels: Sequence[str], total: int) -> str:
    """The first ``total`` bytes of the arena while ``kernels`` run in order."""
    steps = len(kernels)
    step = max(STEP, NARROWEST / steps)
    right, bottom = LEFT + steps * step, TOP + HEIGHT
    parts = _bytes_axis(total, right)
    for index, (band, place) in enumerate(
        zip(bands, rectangles(bands, steps, total), strict=True)
    ):
        parts.append(_band(band, place, KINDS[index % len(KINDS)]))
    for index, kernel in enumerate(kernels):
        tip = element("title", text(kernel))
        number = text(kernel.split("_", 1)[0])
        x = LEFT + (index + 0.5) * step
        label = element("text", tip, number, x=x, y=bottom + 14, class_="middle soft")
        parts.append(label)
    middle = (LEFT + right) / 2
    parts.append(
        svg_text(middle, bottom + 29, "kernels in order", class_="middle soft")
    )
    return svg(right + 8, TOP + HEIGHT + BOTTOM, *parts)


def _bytes_axis(total: int, right: float) -> list[str]:
    parts = []
    for quarter in range(5):
        y = TOP + HEIGHT * (1 - quarter / 4)
        parts.append(element("line", class_="grid", x1=LEFT, x2=right, y1=y, y2=y))
        label = byte_count(total * quarter / 4)
        parts.append(svg_text(LEFT - 6, y + 4, label, class_="end soft"))
    return parts


def _band(band: Band, place: Rectangle, kind: str) -> str:
    """A rectangle, with its name where there is room for some of it."""
    tip = f"{band.name}: {byte_count(band.bytes)} at {band.offset:,}"
    parts = [
        element("title", text(tip)),
        element(
            "rect", class_="frame", x=place.x, y=place.y, rx=2, width=place.width,
            height=place.height,
        ),
    ]  # fmt: skip
    room = int((place.width - 8) / CHARACTER)
    if place.height >= LABEL_HEIGHT and room >= 2:
        label = cut(band.name, room) if room >= 6 else band.name.split("_", 1)[0]
        if len(label) <= room:
            y = place.y + place.height / 2 + 4
            parts.append(svg_text(place.x + 4, y, label))
    return element("g", *parts, class_=f"band kind-{kind}")

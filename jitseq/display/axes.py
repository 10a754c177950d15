"""Axes of charts: ticks at round numbers, linear or logarithmic, and label places.

Ranges of numbers enter; positions and SVG leave. Invariant: ticks lie inside of the
range, and labels that `place_labels` returns overlap neither each other nor a point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jitseq.display.layered import Rectangle
from jitseq.display.markup import element, svg_text

CHARACTER = 6.4
"""Width of a character of a chart's labels, at most."""

LABEL_HEIGHT = 12.0


@dataclass(frozen=True)
class Scale:
    """Numbers from ``low`` to ``high`` on pixels from ``start`` to ``stop``.

    On a ``whole`` scale ticks are integers.
    """

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers in the range: 1, 2, 5 times powers of ten, or decades."""
        if self.logarithmic:
            return _decades(self.low, self.high)
        step = _round_step((self.high - self.low) / 4)
        if self.whole:
            step = max(1.0, float(math.ceil(step)))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    found = [k * 10.0**power for power in range(first, last + 1) for k in steps]
    return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]


def horizontal_axis(scale: Scale, y: float, top: float, title: str) -> list[str]:
    """Numbers below ``y``, lines up to ``top``, and the title below the numbers."""
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=top, y2=y))
        parts.append(svg_text(x, y + 14, f"{tick:g}", class_="soft middle"))
    middle = (scale.start + scale.stop) / 2
    ends = {"x1": scale.start, "x2": scale.stop, "y1": y, "y2": y}
    parts.append(element("line", class_="axis", **ends))
    return [*parts, svg_text(middle, y + 29, title, class_="soft middle")]


def vertical_axis(
    scale: Scale, x: float, right: float, title: str, form: str = "g"
) -> list[str]:
    """Numbers left of ``x``, lines to ``right``, and the title above the numbers."""
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(element("line", class_="grid", x1=x, x2=right, y1=y, y2=y))
        parts.append(svg_text(x - 5, y + 4, f"{tick:{form}}", class_="soft end"))
    ends = {"x1": x, "x2": x, "y1": scale.start, "y2": scale.stop}
    parts.append(element("line", class_="axis", **ends))
    caption = svg_text(4.0, scale.stop - 9, title, class_="soft")
    return [*parts, caption] if title else parts


def place_labels(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    radii: Sequence[float],
    inside: Rectangle,
) -> list[Rectangle | None]:
    """A rectangle for each label beside its point, which is a circle.

    None where there is no room for it, or where it is empty. Labels come in order of
    importance.
    """
    taken = [
        Rectangle(x - radius, y - radius, 2 * radius, 2 * radius)
        for (x, y), radius in zip(points, radii, strict=True)
    ]
    found: list[Rectangle | None] = []
    for (x, y), label, radius in zip(points, labels, radii, strict=True):
        width = len(label) * CHARACTER
        free = (
            place
            for place in _around(x, y, width, radius)
            if _contains(inside, place) and not any(overlap(place, t) for t in taken)
        )
        place = next(free, None) if label else None
        found.append(place)
        if place is not None:
            taken.append(place)
    return found


def _around(x: float, y: float, width: float, radius: float) -> list[Rectangle]:
    height, near = LABEL_HEIGHT, radius + 2
    places = []
    for away in (near, near + 8, near + 16):
        lefts = (x + away, x - away - width, x - width / 2)
        tops = (y - height / 2, y - away - height, y + away)
        places += [(lefts[0], tops[0]), (lefts[1], tops[0]), (lefts[2], tops[1])]
        places += [(lefts[2], tops[2]), (lefts[0], tops[1]), (lefts[1], tops[1])]
        places += [(lefts[0], tops[2]), (lefts[1], tops[2])]
    return [Rectangle(left, top, width, height) for left, top in places]


def overlap(a: Rectangle, b: Rectangle) -> bool:
    """Whether two rectangles share more than an edge."""
    across = a.x < b.right and b.x < a.right
    return across and a.y < b.bottom and b.y < a.bottom


def _contains(outer: Rectangle, inner: Rectangle) -> bool:
    across = outer.x <= inner.x and inner.right <= outer.right
    return across and outer.y <= inner.y and inner.bottom <= outer.bottom

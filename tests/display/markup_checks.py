"""What every display promises, and the shapes in a picture, read back from markup."""

from __future__ import annotations

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
FORBIDDEN = ("<script", "javascript:", "@import", "url(", "src=", "<link", "<iframe")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def parsed(markup: str) -> ElementTree.Element:
    """The tree of a display; raises where it is not well-formed."""
    return ElementTree.fromstring(markup.removeprefix("<!DOCTYPE html>\n"))


def problems(markup: str) -> list[str]:
    """Whatever a display may not hold."""
    found = [word for word in FORBIDDEN if word in markup.lower()]
    found += re.findall(r"\son\w+=", markup)
    addresses = set(re.findall(r"\w+://[^\s\"<]+", markup))
    found += sorted(addresses - {"http://www.w3.org/2000/svg"})
    root = parsed(markup)
    ids = [item.get("id") for item in root.iter() if item.get("id")]
    found += [f"id {name} twice" for name in set(ids) if ids.count(name) > 1]
    links = [item.get("href") for item in root.iter() if item.get("href")]
    return found + [link for link in links if link.removeprefix("#") not in ids]


def boxes(root: ElementTree.Element) -> list[Box]:
    """The frames of all cards."""
    frames = [r for r in root.iter(f"{SVG}rect") if "frame" in (r.get("class") or "")]
    return [box_of(frame) for frame in frames]


def box_of(rect: ElementTree.Element) -> Box:
    x, y, w, h = (
        float(rect.get(name) or "0") for name in ("x", "y", "width", "height")
    )
    return x, y, x + w, y + h


def overlap(a: Box, b: Box, slack: float = 0.02) -> bool:
    """Whether two boxes share an area; numbers are written with two decimals."""
    across = a[0] + slack < b[2] and b[0] + slack < a[2]
    return across and a[1] + slack < b[3] and b[1] + slack < a[3]


def overlaps(found: list[Box]) -> list[tuple[Box, Box]]:
    return [
        (a, b) for i, a in enumerate(found) for b in found[i + 1 :] if overlap(a, b)
    ]


def edge_points(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Points along all edges, from their paths of M, V and C."""
    points = []
    for path in root.iter(f"{SVG}path"):
        if path.get("class") != "edge":
            continue
        x = y = 0.0
        for command, numbers in re.findall(r"([MVC])([^MVC]*)", path.get("d") or ""):
            values = [float(number) for number in numbers.split()]
            if command == "M":
                x, y = values
            elif command == "V":
                points += [(x, y + (values[0] - y) * k / 8) for k in range(9)]
                y = values[0]
            else:
                points += [bezier((x, y), values, k / 8) for k in range(9)]
                x, y = values[4:]
    return points


def bezier(start: tuple[float, float], v: list[float], t: float) -> tuple[float, float]:
    """A point of the cubic curve from ``start`` with the six numbers of a C."""
    s = 1 - t
    weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
    xs, ys = (start[0], *v[0::2]), (start[1], *v[1::2])
    return (
        sum(w * x for w, x in zip(weights, xs, strict=True)),
        sum(w * y for w, y in zip(weights, ys, strict=True)),
    )


def inside(point: tuple[float, float], box: Box, slack: float = 0.5) -> bool:
    x, y = point
    across = box[0] + slack < x < box[2] - slack
    return across and box[1] + slack < y < box[3] - slack

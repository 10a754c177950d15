"""The roofline chart: kernels by operations a byte and by operations a second.

Kernels with measured times and the machine's peaks enter; SVG leaves. A kernel can be
no higher than the flat roof (arithmetic) and the sloped ones (bytes from cache and
from memory): Williams, Waterman and Patterson, Roofline, 2009. Invariant: kernels
without arithmetic, which have no place in it, are left out; labels do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt

from jitseq.display.axes import Scale, horizontal_axis, place_labels, vertical_axis
from jitseq.display.families import short_name
from jitseq.display.layered import Rectangle
from jitseq.display.markup import element, svg, svg_text, text
from jitseq.runtime.report import KernelTime, Peaks, Profile

WIDTH, HEIGHT = 400.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 26.0, 38.0
SMALLEST, LARGEST = 3.0, 9.0
"""Radii of points; the area is the share of the time."""


def intensity(kernel: KernelTime) -> float:
    """Operations a byte."""
    return kernel.flops / kernel.bytes if kernel.bytes else 0.0


def limit(kernel: KernelTime, peaks: Peaks) -> float:
    """GFLOP/s that the roof leaves a kernel whose data come from cache."""
    return min(peaks.gflops, intensity(kernel) * peaks.cache_gbytes)


def on_chart(profile: Profile) -> list[KernelTime]:
    """Kernels that have a place on the chart; none where the peaks are unknown."""
    peaks = profile.peaks
    rates = peaks.gflops, peaks.cache_gbytes, peaks.memory_gbytes
    if not all(isfinite(rate) and rate > 0 for rate in rates):
        return []
    return [k for k in profile.kernels if k.flops and k.bytes and k.seconds]


def roofline_svg(profile: Profile) -> str:
    """The chart, or nothing where no kernel computes."""
    kernels = on_chart(profile)
    if not kernels:
        return ""
    peaks = profile.peaks
    x, y = _scales(kernels, peaks)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = horizontal_axis(x, bottom, TOP, "FLOP a byte")
    parts += vertical_axis(y, LEFT, right, "GFLOP/s")
    rates = ((peaks.memory_gbytes, "memory"), (peaks.cache_gbytes, "cache"))
    for rate, name in rates:
        parts.append(_roof(x, y, peaks.gflops, rate, name))
    caption = f"{profile.machine}: {peaks.gflops:.0f} GFLOP/s"
    parts.append(svg_text(right, TOP - 9, caption, class_="soft end"))
    parts += _points(kernels, profile, x, y)
    return svg(WIDTH, HEIGHT, *parts, class_="chart")


def roofs_html(profile: Profile) -> str:
    """What the lines are."""
    peaks = profile.peaks
    names = (
        ("rule", f"{peaks.cache_gbytes:.0f} GB/s from cache"),
        ("rule dashed", f"{peaks.memory_gbytes:.0f} GB/s from memory"),
    )
    keys = (
        element(
            "span", element("i", class_=kind) + text(name), class_="key kind-movement"
        )
        for kind, name in names
    )
    return element("p", *keys, class_="legend")


def _scales(kernels: Sequence[KernelTime], peaks: Peaks) -> tuple[Scale, Scale]:
    """Axes that hold all points and the corners of the roof, with room around."""
    corners = [peaks.gflops / peaks.memory_gbytes, peaks.gflops / peaks.cache_gbytes]
    across = [*map(intensity, kernels), *corners]
    up = [*(kernel.gflops for kernel in kernels), peaks.gflops]
    x = Scale(min(across) / 2, max(across) * 2, LEFT, WIDTH - RIGHT, True)
    return x, Scale(min(up) / 2, max(up) * 1.5, HEIGHT - BOTTOM, TOP, True)


def _roof(x: Scale, y: Scale, gflops: float, rate: float, name: str) -> str:
    """The slope of ``rate`` up to the flat roof, cut at the chart's edges."""
    start = max(x.low, y.low / rate)
    corner = max(gflops / rate, x.low)
    points = [(start, min(start * rate, gflops)), (corner, gflops), (x.high, gflops)]
    d = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    style = "line dashed kind-movement" if name == "memory" else "line kind-movement"
    tip = element("title", text(f"{rate:.0f} GB/s from {name}"))
    return element("path", tip, class_=style, d=d)


def _points(
    kernels: Sequence[KernelTime], profile: Profile, x: Scale, y: Scale
) -> list[str]:
    """Points, and one label for each function, beside its longest call."""
    ordered = sorted(kernels, key=lambda kernel: -kernel.seconds)
    total = sum(kernel.seconds for kernel in profile.kernels)
    points = [(x(intensity(k)), y(k.gflops)) for k in ordered]
    names = [short_name(kernel) for kernel in ordered]
    labels = [n if n not in names[:i] else "" for i, n in enumerate(names)]
    inside = Rectangle(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    growth = LARGEST - SMALLEST
    radii = [SMALLEST + growth * sqrt(k.seconds / total) for k in ordered]
    places = place_labels(points, labels, radii, inside)
    parts = []
    for kernel, (px, py), radius in zip(ordered, points, radii, strict=True):
        tip = f"{kernel.name} {kernel.path}: {kernel.gflops:.1f} GFLOP/s"
        title = element("title", text(tip))
        parts.append(element("circle", title, class_="frame", cx=px, cy=py, r=radius))
    for label, place in zip(labels, places, strict=True):
        if place is not None:
            parts.append(svg_text(place.x, place.bottom - 3, label, class_="strong"))
    return parts

"""A profile as HTML: bars of time, achieved rates as shares of the peaks, roofline.

A `Profile` enters; markup leaves. Invariant: all figures are for one thread; bars of
time are as long as the longest of them allows.
"""

from __future__ import annotations

from jitseq.display.families import short_name
from jitseq.display.markup import (
    bar,
    element,
    framed,
    paragraph,
    table,
    text,
)
from jitseq.display.roofline import limit, roofline_svg, roofs_html
from jitseq.runtime.report import KernelTime, Profile

HEADERS = (
    "kernel",
    "ops",
    "layer",
    "µs",
    "time",
    "GFLOP/s",
    "of peak",
    "GB/s",
    "of roof",
)


def profile_html(profile: Profile) -> str:
    """The profile as one display."""
    return framed(profile_parts(profile))


def profile_parts(profile: Profile) -> str:
    """The table, the chart and the words, without the frame around a display."""
    pairs = zip(profile.kernels, profile.shares, strict=True)
    rows = [_row(kernel, share, profile) for kernel, share in pairs]
    chart = roofline_svg(profile)
    lines = [profile.summary()]
    if chart:
        lines.append(
            "Each point is a kernel, its size the time, below the rate that its "
            "operations a byte leave it; kernels that only move data have none. "
            "“of roof” compares with that rate for bytes from cache, where more than "
            "100% says that they came from a nearer one."
        )
    picture = element("div", roofs_html(profile), chart) if chart else ""
    return "".join([table(HEADERS, rows, (3, 5, 7)), picture, *map(paragraph, lines)])


def _row(kernel: KernelTime, share: float, profile: Profile) -> list[str]:
    peaks = profile.peaks
    compute = kernel.gflops / peaks.gflops
    bound = limit(kernel, peaks)
    if bound:
        roof, kind = kernel.gflops / bound, "contraction"
    else:
        roof, kind = kernel.gbytes / peaks.cache_gbytes, "movement"
    return [
        element("code", text(short_name(kernel))),
        text(" + ".join(kernel.ops)),
        element("code", text(kernel.path)),
        f"{kernel.seconds * 1e6:.2f}",
        bar(share / (max(profile.shares) or 1.0), f"{share:.1%}", "pointwise"),
        f"{kernel.gflops:.1f}",
        bar(compute, f"{compute:.1%}"),
        f"{kernel.gbytes:.1f}",
        bar(roof, f"{roof:.0%}", kind),
    ]

"""A report of `explain()` as HTML: kernels, drawing, refusals by reason, notes.

A `Report` enters, and a `Profile` of the same program where there is one; markup
leaves. Invariant: the figures are those of the report, and shares are parts of what
all kernels do for one image, or of the measured time.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitseq.display.drawing import Picture, legend, picture_of_kernels
from jitseq.display.families import family_of_group, kernels_of_groups
from jitseq.display.figures import byte_count, scaled
from jitseq.display.markup import (
    bar,
    details,
    element,
    framed,
    heading,
    paragraph,
    table,
    text,
)
from jitseq.errors import JitseqError
from jitseq.passes.fusion_group import FusedGraph, Refusal
from jitseq.runtime.report import Profile, Report

HEADERS = (
    "kernel", "ops", "layer", "FLOP", "of FLOPs", "moved", "weights", "segment",
    "block",
)  # fmt: skip


def report_html(report: Report) -> str:
    """The whole report as one display."""
    parts = [heading("Kernels"), kernels_html(report)]
    if report.fused is not None:
        parts += [heading("Drawing"), drawing_html(report)]
    return framed(*parts, heading("Not fused"), refusals_html(report.not_fused))


def kernels_html(report: Report) -> str:
    """The table of kernels with the notes and the memory below it."""
    shares = flop_shares(report)
    kinds = _families(report)
    rows = [
        [
            element("code", text(kernel.name.split("_", 1)[0])),
            text(" + ".join(kernel.ops)),
            element("code", text(kernel.path)),
            scaled(kernel.flops),
            bar(share / (max(shares) or 1.0), f"{share:.1%}", kind),
            byte_count(kernel.bytes),
            byte_count(kernel.param_bytes),
            str(kernel.segment),
            str(kernel.block) if kernel.per_image else "once",
        ]
        for kernel, share, kind in zip(report.kernels, shares, kinds, strict=True)
    ]
    lines = [report.summary(), *(f"Note: {note}" for note in report.notes)]
    return table(HEADERS, rows, (3, 5, 6, 7, 8)) + "".join(map(paragraph, lines))


def _families(report: Report) -> list[str]:
    """The family of ops of each kernel; those that copy or pack move."""
    kinds = ["movement"] * len(report.kernels)
    if report.fused is not None:
        homes = kernels_of_groups(report.fused, report.kernels)
        for group, numbers in zip(report.fused.groups, homes, strict=True):
            for number in numbers:
                kinds[number] = family_of_group(group)
    return kinds


def flop_shares(report: Report) -> list[float]:
    """Of each kernel; those of one group, for other batch sizes, count once."""
    count = [1] * len(report.kernels)
    if report.fused is not None:
        for numbers in kernels_of_groups(report.fused, report.kernels):
            for number in numbers:
                count[number] = len(numbers)
    pairs = zip(report.kernels, count, strict=True)
    total = sum(kernel.flops / n for kernel, n in pairs) or 1.0
    return [kernel.flops / total for kernel in report.kernels]


def picture(report: Report, profile: Profile | None = None) -> Picture:
    """The fused groups, with their shares of the time where a profile is given.

    Raises JitseqError for a report without its graph, or a profile of another program.
    """
    fused = _graph_of(report)
    homes = kernels_of_groups(fused, report.kernels)
    kernels = [[report.kernels[i] for i in numbers] for numbers in homes]
    if profile is None:
        flops = flop_shares(report)
        shares = [max((flops[i] for i in numbers), default=0.0) for numbers in homes]
        return picture_of_kernels(fused, kernels, shares, "FLOPs")
    names = [kernel.name for kernel in profile.kernels]
    if names != [kernel.name for kernel in report.kernels]:
        raise JitseqError(
            "the profile is of another program than the report",
            hint="call explain() and profile() with the same arrays",
        )
    times = profile.shares
    shares = [sum(times[i] for i in numbers) for numbers in homes]
    return picture_of_kernels(fused, kernels, shares, "time")


def _graph_of(report: Report) -> FusedGraph:
    if report.fused is None:
        raise JitseqError(
            "this report does not hold its graph",
            hint="draw a report that explain() has returned",
        )
    return report.fused


def drawing_html(report: Report, profile: Profile | None = None) -> str:
    """The picture in a frame that scrolls, with a legend and what is not in it."""
    fused = _graph_of(report)
    homes = kernels_of_groups(fused, report.kernels)
    drawn_ones = {number for numbers in homes for number in numbers}
    left = (k.name for i, k in enumerate(report.kernels) if i not in drawn_ones)
    others = list(dict.fromkeys(left))
    drawn = picture(report, profile)
    measure = "FLOPs" if profile is None else "measured time"
    lines = [f"A box is a kernel, its bar the kernel's share of the {measure}."]
    if others:
        lines.append(f"Not drawn, because they only move data: {', '.join(others)}.")
    kinds = {card.kind for card in drawn.cards}
    scrolled = element("div", drawn.svg(), class_="scroll tall")
    return legend(kinds) + scrolled + paragraph(" ".join(lines))


def refusals_html(refusals: Sequence[Refusal]) -> str:
    """Pairs that stay apart, below the reason that they share."""
    if not refusals:
        return paragraph("Everything that could be fused is.")
    reasons: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        reasons.setdefault(refusal.reason, []).append(refusal)
    parts = []
    for reason, pairs in reasons.items():
        items = (
            element("li", element("code", text(f"{p.producer} → {p.consumer}")))
            for p in pairs
        )
        parts.append(details(f"{reason} ({len(pairs)})", element("ul", *items)))
    return "".join(parts)

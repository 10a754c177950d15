"""One self-contained page of everything that jitseq knows of a compiled model.

A compiled callable and samples enter; HTML leaves. Invariant: the page needs nothing
but itself, and its sections are the displays that notebooks show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitseq.display.markup import details, element, framed, text
from jitseq.display.profile_view import profile_parts
from jitseq.display.report_view import drawing_html, kernels_html, refusals_html
from jitseq.display.style import CSS, PAGE
from jitseq.errors import UnsupportedError
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.report import Report

EXCERPT = 240
"""Lines of generated source that a page holds, of each form."""

FORMS = ("program", "numba", "llvm")
PREAMBLE = "<!DOCTYPE html>\n"


def compiled_html(name: str, report: Report | None) -> str:
    """A compiled callable in a notebook: its name, and the drawing of its program."""
    head = element("p", element("code", text(name)))
    if report is None or report.fused is None:
        return framed(head)
    return framed(head, drawing_html(report), element("p", text(report.summary())))


def page(compiled: Compiled, samples: Sequence[Any], title: str) -> str:
    """The page; compiles for the samples and measures each kernel with them."""
    report = compiled.explain(*samples)
    profile = compiled.profile(*samples)
    sections = [
        ("Summary", compiled.summary(*samples).html()),
        ("Drawing", drawing_html(report, profile)),
        ("Kernels", kernels_html(report)),
        ("Not fused", refusals_html(report.not_fused)),
        ("Profile", profile_parts(profile)),
    ]
    if compiled.backend != "cuda":
        sections.append(("Memory", compiled.memory_plan(*samples).html()))
    sections.append(("Source", _sources(compiled, samples)))
    links = (element("a", text(n), href=f"#{_anchor(n)}") for n, _ in sections)
    body = [element("h1", text(title)), element("nav", *links)]
    for name, content in sections:
        section = element("h2", text(name), id=_anchor(name)) + content
        body.append(element("section", section))
    return PREAMBLE + element("html", _head(title), _body(body), lang="en") + "\n"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(title: str) -> str:
    wide = "width=device-width, initial-scale=1"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content=wide),
        element("title", text(title)),
        element("style", CSS + PAGE),
    )


def _body(parts: Sequence[str]) -> str:
    return element("body", element("main", *parts, class_="jitseq"))


def _sources(compiled: Compiled, samples: Sequence[Any]) -> str:
    """The first lines of each form of the generated code that the backend has."""
    parts = []
    for form in FORMS:
        try:
            lines = compiled.source(*samples, form=form).split("\n")
        except UnsupportedError:  # a form that this backend does not write
            continue
        shown = "\n".join(lines[:EXCERPT])
        left = len(lines) - EXCERPT
        more = f"\n… and {left} lines" if left > 0 else ""
        code = element("pre", text(shown + more))
        parts.append(details(f"{form}, {len(lines)} lines", code))
    return "".join(parts)

"""Figures as text: counts, bytes, bars of characters, tables of at most 100 columns.

Numbers and strings enter; text leaves. Invariant: no line of a table is longer than
`COLUMNS`, and what is cut ends in an ellipsis.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

COLUMNS = 100
GAP = 2
LEAST = 6
"""Columns that are cut keep so many characters."""

EIGHTHS = " ▏▎▍▌▋▊▉█"


def cut(content: str, width: int) -> str:
    """At most ``width`` characters."""
    return content if len(content) <= width else content[: width - 1] + "…"


def scaled(value: float, unit: str = "") -> str:
    """Three digits with a prefix of 1000: ``1.25 M``, ``640``."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{_digits(value / size)} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    if abs(value) >= 99.95 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def byte_count(value: float) -> str:
    """As `scaled`, with KB for 1000 bytes."""
    return scaled(value, "B").replace("kB", "KB")


def character_bar(share: float, width: int) -> str:
    """A bar of ``share`` (0 to 1) of ``width`` characters, padded with blanks."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(width)


def text_table(
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    flexible: Sequence[int] = (),
    limit: int = COLUMNS,
) -> list[str]:
    """Aligned lines; ``right`` columns end together, ``flexible`` ones may be cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + GAP * (len(widths) - 1) > limit:
        widest = max(flexible, key=lambda column: widths[column])
        if widths[widest] <= LEAST:
            raise ValueError("the columns that are never cut leave no room")
        widths[widest] -= 1
    lines = []
    for row in rows:
        cells = (cut(cell, width) for cell, width in zip(row, widths, strict=True))
        lines.append(
            (" " * GAP)
            .join(
                f"{cell:>{widths[i]}}" if i in right else f"{cell:<{widths[i]}}"
                for i, cell in enumerate(cells)
            )
            .rstrip()
        )
    return lines

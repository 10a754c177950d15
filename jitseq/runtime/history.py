"""`History`: what training measured, one record for each epoch.

Records of numbers enter; a table, columns, JSON or a figure leave. Invariant: all
records have the same names in the same order, and hold complete epochs only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

from jitseq.errors import JitseqError

Record = dict[str, float]

NOT_PLOTTED = ("epoch", "lr", "seconds")


class History:
    """Measurements by epoch; ``history[-1]["loss"]`` is ``history["loss"][-1]``.

    ``epochs`` is the list of records, ``interrupted`` whether training was stopped
    by Ctrl-C before its last epoch had ended.
    """

    def __init__(
        self, epochs: Iterable[Mapping[str, float]] = (), interrupted: bool = False
    ) -> None:
        self.epochs: list[Record] = [dict(record) for record in epochs]
        self.interrupted = interrupted

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the measurements; empty before the first epoch."""
        return tuple(self.epochs[0]) if self.epochs else ()

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.epochs)

    @overload
    def __getitem__(self, key: int) -> Record: ...
    @overload
    def __getitem__(self, key: str) -> list[float]: ...
    def __getitem__(self, key: int | str) -> Record | list[float]:
        """The record of an epoch, from 0, or the column of that name."""
        if isinstance(key, str):
            return [record[key] for record in self.epochs]
        return self.epochs[key]

    def to_dict(self) -> dict[str, list[float]]:
        """The columns by name."""
        return {name: self[name] for name in self.columns}

    def to_json(self, path: str | Path | None = None) -> str:
        """``{"interrupted": …, "epochs": [{…}, …]}``, also written to ``path``.

        NaN and infinity are written as `json` writes them, and reads them.
        """
        record = {"interrupted": self.interrupted, "epochs": self.epochs}
        text = json.dumps(record, indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def __repr__(self) -> str:
        """An aligned table, one line for each epoch."""
        rows = [self.columns]
        rows += [
            tuple(formatted(*item) for item in record.items()) for record in self.epochs
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)
            )
            for row in rows
        ]
        if not self.epochs:
            lines = ["no epochs"]
        return "\n".join([*lines, *(["interrupted"] if self.interrupted else [])])

    def _repr_html_(self) -> str:
        from jitseq.display.history_view import history_html

        return history_html(self)

    def plot(self) -> Any:
        """A `matplotlib.figure.Figure` of losses, and of accuracies if there are any.

        Raises `JitseqError` where matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ModuleNotFoundError:
            raise JitseqError(
                "a plot needs matplotlib", hint='pip install "jitseq[plot]"'
            ) from None
        names = [name for name in self.columns if name not in NOT_PLOTTED]
        shares = [name for name in names if name.endswith("accuracy")]
        panels = [[name for name in names if name not in shares], shares]
        panels = [panel for panel in panels if panel] or [[]]
        figure, axes = pyplot.subplots(
            1, len(panels), squeeze=False, figsize=(5 * len(panels), 3.5)
        )
        for panel, axis in zip(panels, axes[0], strict=True):
            for name in panel:
                axis.plot(self["epoch"], self[name], marker=".", label=name)
            axis.set_xlabel("epoch")
            if panel:
                axis.legend()
        figure.tight_layout()
        return figure


def formatted(name: str, value: float) -> str:
    """A number as tables and progress lines show it."""
    if name == "epoch":
        return f"{value:d}"
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name == "seconds":
        return f"{value:.2f}"
    return f"{value:.4g}"

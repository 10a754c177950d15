"""`History`: records, columns, a table, JSON and a figure of the same numbers."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

import jitseq as js
from jitseq.errors import JitseqError

RECORDS = [
    {"epoch": 1, "loss": 2.5, "val_accuracy": 0.5, "lr": 0.1, "seconds": 1.0},
    {"epoch": 2, "loss": 0.12345, "val_accuracy": 0.98765, "lr": 0.1, "seconds": 2.0},
]


def test_history_is_a_table_of_records() -> None:
    history = js.History(RECORDS)
    assert list(history) == RECORDS
    assert history[1] == RECORDS[1]
    assert history.to_dict()["loss"] == [2.5, 0.12345]
    assert repr(history).splitlines() == [
        "epoch    loss  val_accuracy   lr  seconds",
        "    1     2.5        50.00%  0.1     1.00",
        "    2  0.1235        98.77%  0.1     2.00",
    ]
    assert repr(js.History()) == "no epochs"
    assert js.History().to_dict() == {}


def test_history_as_json(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    text = js.History(RECORDS, interrupted=True).to_json(file)
    assert json.loads(text) == {"interrupted": True, "epochs": RECORDS}
    assert json.loads(file.read_text()) == json.loads(text)


@pytest.mark.parametrize("columns", [("epoch", "loss"), tuple(RECORDS[0]), ()])
def test_history_is_plotted(columns: tuple[str, ...]) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [{name: record[name] for name in columns} for record in RECORDS]
    figure = js.History(records if columns else ()).plot()
    labels = [line.get_label() for axis in figure.axes for line in axis.get_lines()]
    assert labels == [n for n in columns if n in ("loss", "val_accuracy")]
    pyplot.close(figure)


def test_a_plot_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(JitseqError, match="needs matplotlib"):
        js.History(RECORDS).plot()

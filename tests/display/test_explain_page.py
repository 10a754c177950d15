"""Displays in notebooks and the page of the command line: whole, closed, consistent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from display_models import branches, images, step_model
from markup_checks import parsed, problems

import jitseq as js
from jitseq import nn, optim
from jitseq.cli import main

MODEL = """
from jitseq import nn
net = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(64, 3),
)
"""


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "a <model>.py"
    path.write_text(MODEL)
    return str(path)


def displays() -> dict[str, str]:
    x = images()
    compiled = js.jit(branches())
    unused = compiled._repr_html_()
    compiled(x)
    model = step_model()
    step = js.train_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters()))
    waiting = step._repr_html_()
    step(images(4), np.zeros(4, np.int64))
    shown = {
        "compiled": compiled, "graph": compiled.graph(), "report": compiled.explain(),
        "traced": compiled.traced_graph(), "step": step, "step graph": step.graph(),
        "step report": step.explain(), "summary": compiled.summary(),
        "profile": compiled.profile(x, repeats=1),
    }  # fmt: skip
    markup = {name: value._repr_html_() for name, value in shown.items()}
    return markup | {"unused": unused, "waiting": waiting}


def test_displays_are_closed_and_follow_the_page() -> None:
    for name, markup in displays().items():
        assert problems(markup) == [], name
        root = parsed(markup)
        assert root.tag == "div" and root.get("class") == "jitseq", name
        (style,) = root.iter("style")
        rules = [line.split("{")[0] for line in (style.text or "").split("}")]
        for rule in filter(str.strip, rules):  # no rule reaches beyond the display
            assert all(s.strip().startswith(".jitseq") for s in rule.split(",")), rule
        assert "background: #" not in (style.text or "")


def test_a_callable_without_a_program_shows_its_name() -> None:
    found = displays()
    assert "Compiled(Branches" in found["unused"]
    assert "<svg" not in found["unused"] + found["waiting"]
    assert "<svg" in found["compiled"] and "<svg" in found["step"]


def test_refusals_are_grouped_by_reason() -> None:
    report = js.jit(branches()).explain(images())
    root = parsed(report._repr_html_())
    groups = {
        "".join(group[0].itertext()): ["".join(i.itertext()) for i in group.iter("li")]
        for group in root.iter("details")
    }
    pairs = [(f"{r.producer} → {r.consumer}", r.reason) for r in report.not_fused]
    assert sum(map(len, groups.values())) == len(pairs) > 4
    for title, items in groups.items():
        reason, count = title.rsplit(" (", 1)
        assert count == f"{len(items)})"
        assert items == [pair for pair, why in pairs if why == reason]


def test_kernels_of_a_report() -> None:
    report = js.jit(branches()).explain(images())
    body = next(parsed(report._repr_html_()).iter("tbody"))
    rows = [["".join(cell.itertext()) for cell in row] for row in body]
    total = sum(kernel.flops for kernel in report.kernels)
    assert [row[1] for row in rows] == [" + ".join(k.ops) for k in report.kernels]
    assert [row[4] for row in rows] == [
        f"{k.flops / total:.1%}" for k in report.kernels
    ]
    assert [row[8] for row in rows] == [str(k.block) for k in report.kernels]


def test_notes_are_shown() -> None:
    fixed = js.jit(branches(), dynamic_batch=False)
    assert "dynamic_batch is off" in fixed.explain(images())._repr_html_()


def test_the_page(
    model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.html"
    arguments = ["explain", f"{model_file}:net", "--input", "2x1x8x8"]
    assert main([*arguments, "--html", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert problems(text) == []
    root = parsed(text)
    titles = [heading.text for heading in root.iter("h2")]
    assert titles == [
        "Summary", "Drawing", "Kernels", "Not fused", "Profile", "Memory", "Source",
    ]  # fmt: skip
    (title,) = root.iter("h1")
    assert title.text == f"{model_file}:net, input 2x1x8x8"
    sources = ["".join(code.itertext()) for code in root.iter("pre")]
    assert any("kernel k" in source for source in sources)
    assert any("define void" in source or "define" in source for source in sources)
    (viewport,) = [m for m in root.iter("meta") if m.get("name") == "viewport"]
    assert viewport.get("content") == "width=device-width, initial-scale=1"


def test_a_page_that_cannot_be_written(
    model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere" / "report.html"
    arguments = ["explain", f"{model_file}:net", "--input", "1x1x8x8"]
    assert main([*arguments, "--html", str(missing)]) == 2
    assert f"cannot write {missing}" in capsys.readouterr().err

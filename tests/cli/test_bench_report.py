"""``bench --html``, ``--plot`` and ``--json``: a table of invented times, written.

The figures of page and chart are compared with the table that is printed, and with
ratios computed here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from display.markup_checks import SVG, box_of, overlaps, parsed, problems

from benchmarks import bench, gpu_bench, report, train
from benchmarks.gpu_peers import GPU_PEERS
from benchmarks.peers import PEERS
from benchmarks.report_page import page
from benchmarks.results import Results
from benchmarks.table import Row, Table, judge
from benchmarks.zoo import ZOO
from jitseq.cli import main
from jitseq.display.axes import LABEL_HEIGHT

TITLE = "median µs a call, cpu, 1 thread(s), 7 rounds"
ARGV = ["--train", "--html", "a <b>.html"]
US = 1e-6
CHARACTER, BOLD = 6.4, 7.2
"""Widths of labels' characters, of common fonts at most."""


def results(table: Table, rows: list[Row], what: str = "outputs") -> Results:
    return Results(TITLE, what, table, rows, {"torch"}, {"backend": "cpu"}, ARGV)


def host(backend: str = "cpu") -> Results:
    """Two models of which one loses to openvino, which leaves one row out."""
    times = [
        {"eager": 90 * US, "jitseq": 2 * US, "torch": 9 * US, "openvino": 4 * US},
        {"eager": 4000 * US, "jitseq": 1600 * US, "torch": 6400 * US},
        {"eager": 50 * US, "jitseq": 8 * US, "torch": 10 * US, "openvino": 6 * US},
    ]
    if backend != "cpu":
        times = [row | {"cpu": row["jitseq"] * 1.01} for row in times]
    names = (("tiny", 1), ("mobilenet_v1", 256), ("mlp", 64))
    rows = [
        Row(model, batch, seconds, dict.fromkeys(seconds, 1e-7))
        for (model, batch), seconds in zip(names, times, strict=True)
    ]
    return results(bench.table_for(backend, PEERS, 1e-4), rows)


def device() -> Results:
    """Every peer of the GPU, in ratios from 0.01 to 3000."""
    names = [peer.name for peer in GPU_PEERS]
    rows = [
        Row(model, batch, {"jitseq": US} | {
            name: US * 10 ** ((i * 37 + j * 11) % 55 / 10 - 2)
            for j, name in enumerate(names)
        })
        for i, (model, batch) in enumerate((m, b) for m in ZOO for b in (1, 64, 256))
    ]  # fmt: skip
    return results(gpu_bench.table_for(True), rows, "updates")


def alone() -> Results:
    rows = [Row("tiny", 1, {"jitseq": US}), Row("mlp", 1, {"jitseq": 2 * US})]
    return results(bench.table_for("cpu", PEERS, 1e-4), rows)


MADE: dict[str, Callable[[], Results]] = {
    "cpu": host,
    "numba": lambda: host("numba"),
    "cuda": device,
    "alone": alone,
}


@pytest.fixture(params=MADE)
def made(request: pytest.FixtureRequest) -> Results:
    return MADE[request.param]()


def texts(root: ElementTree.Element, name: str) -> list[str]:
    return ["".join(item.itertext()) for item in root.iter(name)]


# the page


def test_the_page_is_whole_and_closed(made: Results) -> None:
    written = page(made)
    assert problems(written) == []
    assert "color-scheme: light dark" in written
    root = parsed(written)
    assert TITLE in texts(root, "p")
    assert texts(root, "code") == ["python -m jitseq bench --train --html 'a <b>.html'"]


def test_the_table_is_the_printed_one(made: Results, capsys: Any) -> None:
    root = parsed(page(made))
    (body,) = root.iter("tbody")
    shown = [texts(row, "td") for row in body.iter("tr")]
    assert shown == [made.table.line(row).split() for row in made.rows]
    assert judge(made.table, made.rows, made.what) == 0
    printed = capsys.readouterr().out.splitlines()
    items = texts(root, "li")
    assert items[: len(printed)] == [" ".join(line.split()) for line in printed]


def test_geometric_means_stand_below_the_ratios() -> None:
    (footer,) = parsed(page(host("numba"))).iter("tfoot")
    fastest = (2.0 * 4.0 * 0.75) ** (1 / 3)
    cells = [cell for cell in texts(footer, "td") if cell]
    assert cells == ["geometric mean", f"{fastest:.2f}", "1.01"]


def test_panels_are_the_groups_and_the_contestants() -> None:
    def titles(made: Results) -> list[str]:
        return [panel.title for panel in made.panels()]

    assert titles(host()) == ["the fastest peer", "torch", "openvino", "eager"]
    both = ["the fastest peer", "cpu", "torch", "openvino", "eager"]
    assert titles(host("numba")) == both
    names = [peer.name for peer in GPU_PEERS]
    assert titles(device()) == ["the fastest peer", "TF32", *names]
    assert titles(alone()) == []


def test_bars_say_the_ratios_of_their_rows(made: Results) -> None:
    sections = list(parsed(page(made)).iter("section"))
    panels = made.panels()
    assert len(sections) == len(panels)
    for section, panel in zip(sections, panels, strict=True):
        assert texts(section, "h3") == [f"Beside {panel.title}"]
        found = dict(zip(made.labels, panel.ratios, strict=True))
        written = [r for r in panel.ratios if r is not None]
        mean = math.prod(r ** (1 / len(written)) for r in written)
        found["geometric mean"] = mean
        words = texts(section, f"{SVG}text")
        for label, ratio in found.items():
            value = "–" if ratio is None else f"{ratio:.2f}"
            assert words[words.index(label) + 1] == value
        (caption,) = texts(section, "p")
        assert f"geometric mean {mean:.2f}," in caption
        assert f"worst {min(written):.2f} (" in caption
        strong = [
            "".join(item.itertext())
            for item in section.iter(f"{SVG}text")
            if "strong" in (item.get("class") or "")
        ]
        assert f"{min(written):.2f}" in strong and "1.0" in strong


def test_bars_begin_at_the_line_and_end_in_proportion(made: Results) -> None:
    """Right of 1.0 where jitseq is faster, and as long as the ratio's logarithm."""
    units = []
    sections = parsed(page(made)).iter("section")
    for section, panel in zip(sections, made.panels(), strict=True):
        (line,) = (x for x in section.iter(f"{SVG}line") if x.get("class") == "edge")
        even = float(line.get("x1") or "nan")
        assert line.get("x2") == line.get("x1")
        ratios = [*panel.raced, panel.standing.mean]
        kinds = [f"kind-{'contraction' if r >= 1 else 'update'}" for r in panel.raced]
        bars = list(section.iter(f"{SVG}rect"))
        assert [(bar.get("class") or "").split()[1] for bar in bars[:-1]] == kinds
        for bar, ratio in zip(bars, ratios, strict=True):
            left, _, right, _ = box_of(bar)
            assert (left if ratio >= 1 else right) == pytest.approx(even, abs=0.02)
            if abs(math.log(ratio)) > 0.2 and not panel.eager:
                units.append((right - left) / abs(math.log(ratio)))
    assert units == pytest.approx(units[:1] * len(units), abs=0.2)


def test_labels_neither_overlap_nor_leave_the_chart(made: Results) -> None:
    for picture in parsed(page(made)).iter(f"{SVG}svg"):
        width, height = map(float, (picture.get("viewBox") or "").split()[2:])
        found = []
        for item in picture.iter(f"{SVG}text"):
            x, y = float(item.get("x") or "nan"), float(item.get("y") or "nan")
            classes = (item.get("class") or "").split()
            size = BOLD if "strong" in classes else CHARACTER
            wide = len("".join(item.itertext())) * size
            shift = 1.0 if "end" in classes else 0.5 if "middle" in classes else 0.0
            left = x - shift * wide
            found.append((left, y - LABEL_HEIGHT * 0.75, left + wide, y + 3))
        assert overlaps(found) == []
        assert all(a >= 0 and b >= 0 for a, b, _, _ in found)
        assert all(c <= width and d <= height for _, _, c, d in found)


def test_peers_share_an_axis_and_eager_has_its_own() -> None:
    ends = []
    for section in parsed(page(host())).iter("section"):
        (axis,) = (x for x in section.iter(f"{SVG}line") if x.get("class") == "axis")
        edge = next(x for x in section.iter(f"{SVG}line") if x.get("class") == "edge")
        ends.append((axis.get("x1"), axis.get("x2"), edge.get("x1")))
    assert len(set(ends[:-1])) == 1 and ends[-1] != ends[0]


def test_rows_that_disagree_are_shown() -> None:
    good = host()
    assert not re.search('class="alarm"', page(good))
    wrong = Row("mlp", 8, {"eager": US, "jitseq": US}, {"jitseq": 0.5})
    root = parsed(page(results(good.table, [*good.rows, wrong])))
    (alarm,) = (p for p in root.iter("p") if p.get("class") == "alarm")
    assert alarm.text == "outputs disagree: mlp, batch 8: {'jitseq': 0.5}"


# the chart


@pytest.mark.parametrize("name", MADE)
def test_the_chart_has_the_same_figures(name: str) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.report_plot import figure

    made = MADE[name]()
    axes = [axis for axis in figure(made).axes if axis.axison]
    panels = made.panels()
    assert len(axes) == len(panels)
    for axis, panel in zip(axes, panels, strict=True):
        ratios = [*panel.raced, panel.standing.mean]
        assert axis.get_xscale() == "log"
        assert panel.title in axis.get_title()
        assert f"worst {min(panel.raced):.2f}" in axis.get_title()
        assert [x.get_text() for x in axis.texts] == [f"{r:.2f}" for r in ratios]
        ends = [bar.get_x() + bar.get_width() for bar in axis.patches]
        assert ends == pytest.approx(ratios)
        assert {bar.get_x() for bar in axis.patches} == {1}
        (even,) = axis.get_lines()
        assert list(even.get_xdata()) == [1, 1]
        labels = [label.get_text() for label in axis.get_yticklabels()]
        assert labels == [*made.labels, "geometric mean"]
        low, high = axis.get_xlim()
        assert low < min(1, *ratios) and max(ratios) < high


def test_without_contestants_the_chart_says_so() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.report_plot import figure

    assert figure(alone()).get_suptitle() == "no other contestant ran"


# the command


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No timing: each row is invented; the models that were asked for."""
    asked: list[str] = []

    def measure(entry: Any, batch: int, **_: Any) -> Row:
        asked.append(entry.name)
        seconds = {"eager": 3e-5, "jitseq": 1e-5, "torch": 2e-5, "cpu": 1e-5}
        return Row(entry.name, batch, seconds, {"jitseq": 1e-7})

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(train, "measure", measure)
    monkeypatch.setattr(gpu_bench, "measure_calls", measure)
    monkeypatch.setattr(gpu_bench, "measure_steps", measure)
    monkeypatch.setattr(gpu_bench, "refusal", lambda: None)
    monkeypatch.setattr(gpu_bench, "device_name", lambda _: "Some GPU")
    monkeypatch.setattr(gpu_bench.Place, "release", lambda _: None)
    return asked


@pytest.mark.parametrize("backend", ["cpu", "numba", "cuda"])
@pytest.mark.parametrize("training", [False, True])
def test_all_files_of_one_run(
    backend: str, training: bool, invented: list[str], tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / f"out.{name}" for name in ("json", "html", "svg")}
    argv = ["--backend", backend, "--models", "tiny,mlp", "--peers", "none"]
    argv += ["--train"] if training else []
    argv += ["--json", str(files["json"]), "--html", str(files["html"])]
    argv += ["--plot", str(files["svg"])]
    assert main(["bench", *argv]) == 0
    assert set(invented) == {"tiny", "mlp"}
    printed = capsys.readouterr().out
    assert all(f"wrote {file}" in printed for file in files.values())
    record = json.loads(files["json"].read_text())
    assert record["backend"] == backend
    assert record["command"] == " ".join(["python -m jitseq bench", *argv])
    written = files["html"].read_text(encoding="utf-8")
    assert problems(written) == []
    root = parsed(written)
    assert texts(root, "code") == [record["command"]]
    (body,) = root.iter("tbody")
    assert len(list(body.iter("tr"))) == len(record["rows"]) == len(invented)
    assert any(f"numpy {record['versions']['numpy']}" == t for t in texts(root, "li"))
    assert ElementTree.parse(files["svg"]).getroot().tag == f"{SVG}svg"


def test_a_picture_is_a_png(invented: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "out.PNG"
    assert main(["bench", "--models", "tiny", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", [[], ["--train"], ["--backend", "cuda"]])
@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--html", "none/out.html", "there is no folder"),
        ("--json", "none/out.json", "there is no folder"),
        ("--plot", "none/out.png", "there is no folder"),
        ("--html", ".", "is a folder"),
        ("--plot", "out.pdf", "ends in neither .png nor .svg"),
    ],
)
def test_bad_files_are_refused_before_timing(
    kind: list[str], option: str, name: str, reason: str,
    invented: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr(report, "find_spec", lambda _: True)
    with pytest.raises(SystemExit) as ended:
        main(["bench", *kind, "--models", "tiny", option, str(tmp_path / name)])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert option in last and reason in last
    assert invented == [] and list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib_is_refused_before_timing(
    invented: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        main(["bench", "--models", "tiny", "--plot", str(tmp_path / "out.png")])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith('a chart needs matplotlib: pip install "jitseq[plot]"')
    assert invented == []


def test_profiles_are_not_written(tmp_path: Path, capsys: Any) -> None:
    argv = ["--backend", "cuda", "--profile", "--html", str(tmp_path / "out.html")]
    with pytest.raises(SystemExit):
        main(["bench", *argv])
    assert "--html: profiles are printed, not written" in capsys.readouterr().err

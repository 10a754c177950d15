"""Charts of profiles and histories: their figures, their labels, their text."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from markup_checks import SVG, Box, overlaps, parsed, problems

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq.display.axes import CHARACTER, LABEL_HEIGHT, Scale
from jitseq.display.figures import byte_count, character_bar, scaled, text_table
from jitseq.display.roofline import limit
from jitseq.runtime.report import KernelTime, Peaks, Profile

PEAKS = Peaks(200.0, 50.0, 20.0)


def kernel(number: int, seconds: float, flops: int, moved: int) -> KernelTime:
    name = f"k{number}_conv2d_relu"
    return KernelTime(name, ("conv2d", "relu"), f"layer{number}", seconds, flops, moved)


def profile_of(count: int) -> Profile:
    kernels = [
        kernel(i, 1e-5 * (1 + i % 3), 10**5 * (1 + i), 10**4 * (1 + i % 4))
        for i in range(count)
    ]
    return Profile((*kernels, kernel(count, 1e-6, 0, 20_000)), PEAKS)


def circles(root: ElementTree.Element) -> list[tuple[float, float, str]]:
    """Positions and names of the points of the roofline."""
    found = []
    for item in root.iter(f"{SVG}circle"):
        (title,) = item.iter(f"{SVG}title")
        name = (title.text or "").split("_")[0]
        found.append((float(item.get("cx")), float(item.get("cy")), name))
    return found


def labels(root: ElementTree.Element) -> list[Box]:
    found = []
    for item in root.iter(f"{SVG}text"):
        if item.get("class") == "strong":
            x, y = float(item.get("x")), float(item.get("y"))
            width = len(item.text or "") * CHARACTER
            found.append((x, y + 3 - LABEL_HEIGHT, x + width, y + 3))
    return found


@pytest.mark.parametrize("count", [1, 4, 12, 40])
def test_points_of_the_roofline(count: int) -> None:
    profile = profile_of(count)
    markup = profile._repr_html_()
    assert problems(markup) == []
    root = parsed(markup)
    found = {name: (x, y) for x, y, name in circles(root)}
    assert set(found) == {f"k{i}" for i in range(count)}  # the copy has no point
    kernels = {k.name.split("_")[0]: k for k in profile.kernels}
    for one, (x, y) in found.items():
        for other, (u, v) in found.items():
            a, b = kernels[one], kernels[other]
            if a.flops / a.bytes < 0.99 * b.flops / b.bytes:
                assert x < u
            if a.gflops < 0.99 * b.gflops:
                assert y > v
    assert overlaps(labels(root)) == []
    assert len(labels(root)) >= min(count, 6)


def test_logarithmic_distances() -> None:
    """Twice the rate, and four times the intensity, are equal steps for all."""
    kernels = (
        kernel(0, 1e-5, 100_000, 100_000),
        kernel(1, 1e-5, 200_000, 50_000),
        kernel(2, 1e-5, 400_000, 25_000),
    )
    found = circles(parsed(Profile(kernels, PEAKS)._repr_html_()))
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = sorted(found)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.02)


def test_one_label_for_each_function() -> None:
    kernels = tuple(kernel(7, 1e-5 * k, 100_000, 10_000 * k) for k in (1, 2, 3))
    root = parsed(Profile(kernels, PEAKS)._repr_html_())
    assert len(circles(root)) == 3
    assert len(labels(root)) == 1


def test_figures_of_a_profile() -> None:
    fast, slow = kernel(0, 1e-5, 10**6, 10**5), kernel(1, 3e-5, 10**5, 10**6)
    profile = Profile((fast, slow), PEAKS)
    assert profile.shares == pytest.approx([0.25, 0.75])
    assert limit(fast, PEAKS) == 200.0  # 10 FLOP a byte: arithmetic is the limit
    assert limit(slow, PEAKS) == pytest.approx(0.1 * 50.0)
    (body,) = parsed(profile._repr_html_()).iter("tbody")
    rows = [["".join(cell.itertext()) for cell in row] for row in body]
    fast_rate, slow_rate = 1e6 / 1e-5 / 1e9, 1e5 / 3e-5 / 1e9
    assert [row[3] for row in rows] == ["10.00", "30.00"]
    assert [row[4] for row in rows] == ["25.0%", "75.0%"]
    assert [row[5] for row in rows] == [f"{fast_rate:.1f}", f"{slow_rate:.1f}"]
    assert [row[6] for row in rows] == [
        f"{fast_rate / 2:.1f}%",
        f"{slow_rate / 2:.1f}%",
    ]
    assert [row[8] for row in rows] == ["50%", f"{slow_rate / 5:.0%}"]
    lines = str(profile).splitlines()
    assert "25.0% " + character_bar(1 / 3, 11) in lines[1]
    assert "75.0% " + "█" * 11 in lines[2]
    assert lines[-1].startswith("total 40.0 µs; one core: 200 GFLOP/s")


def test_nothing_was_measured() -> None:
    profile = Profile((kernel(0, 0.0, 10, 10), kernel(1, 0.0, 0, 0)), PEAKS)
    assert profile.shares == [0.0, 0.0]
    assert problems(profile._repr_html_()) == []
    assert "<svg" not in profile._repr_html_()
    assert str(profile).splitlines()[1].startswith("conv2d + relu")


@pytest.mark.parametrize("name", ["tiny", "cnn32", "vgg11_bn", "mobilenet_v1"])
def test_text_is_no_wider_than_a_hundred_columns(name: str) -> None:
    entry = ZOO[name]
    compiled = js.jit(entry.build(), dynamic_batch=False)
    texts = [
        compiled.explain(entry.sample(1)),
        compiled.profile(entry.sample(1), repeats=1),
    ]
    for text in map(str, texts):
        assert max(map(len, text.splitlines())) <= 100
    assert "note: compiled for this batch size" in str(texts[0])


def records(losses: list[float]) -> js.History:
    return js.History(
        {"epoch": i + 1, "loss": loss, "val_accuracy": 0.5 + i / 100, "seconds": 1.0}
        for i, loss in enumerate(losses)
    )


def lines_of(root: ElementTree.Element) -> dict[str, str]:
    """Paths of the charts' lines by name."""
    return {
        "".join(path.itertext()): path.get("d") or ""
        for path in root.iter(f"{SVG}path")
    }


def test_lines_of_a_history() -> None:
    history = records([4.0, 3.0, 2.0, 1.0])
    markup = history._repr_html_()
    assert problems(markup) == []
    lines = lines_of(parsed(markup))
    assert set(lines) == {"loss", "val_accuracy"}
    points = re.findall(r"([ML])([\d.]+) ([\d.]+)", lines["loss"])
    assert [pen for pen, _, _ in points] == ["M", "L", "L", "L"]
    steps = [
        (float(b[1]) - float(a[1]), float(b[2]) - float(a[2]))
        for a, b in pairwise(points)
    ]
    for across, down in steps:  # equal steps of numbers are equal steps of pixels
        assert (across, down) == pytest.approx(steps[0], abs=0.11)
        assert across > 0 < down
    (body,) = parsed(markup).iter("tbody")
    assert [row[1].text for row in body] == ["4", "3", "2", "1"]


def test_a_gap_where_a_loss_is_not_finite() -> None:
    lines = lines_of(parsed(records([2.0, math.nan, 1.0, math.inf, 0.5])._repr_html_()))
    assert lines["loss"].count("M") == 3
    assert "nan" not in lines["loss"] + lines["val_accuracy"]


@pytest.mark.parametrize("losses", [[], [0.0], [math.nan], [1.0, 1.0], [-1.0, 5.0]])
def test_histories_at_the_edge(losses: list[float]) -> None:
    markup = records(losses)._repr_html_()
    assert problems(markup) == []
    assert ("no epochs" in markup) == (not losses)
    interrupted = js.History(records(losses).epochs, interrupted=True)
    assert ("interrupted" in interrupted._repr_html_()) == bool(losses)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0, 1, 0, 1), [0, 0.25, 0.5, 0.75, 1]),
        (Scale(3, 97, 0, 1), [25, 50, 75]),
        (Scale(1, 3, 0, 1, whole=True), [1, 2, 3]),
        (Scale(0.5, 3000, 0, 1, logarithmic=True), [1, 10, 100, 1000]),
        (Scale(3, 40, 0, 1, logarithmic=True), [5, 10, 20]),
    ],
)
def test_ticks(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)


def test_figures_as_text() -> None:
    values = (0, 7, 999, 1000, 1234, 99_960, 1_500_000, 0.5)
    assert [scaled(v) for v in values] == [
        "0", "7", "999", "1 k", "1.23 k", "100 k", "1.50 M", "0.50",
    ]  # fmt: skip
    assert byte_count(2_048) == "2.05 KB"
    assert [len(character_bar(s / 7, 9)) for s in range(9)] == [9] * 9
    assert character_bar(0.5, 4) == "██  "
    rows = [("name", "1"), ("x" * 60, "22")]
    lines = text_table(rows, right=(1,), flexible=(0,), limit=20)
    assert lines == ["name" + " " * 15 + "1", "x" * 15 + "…  22"]
    with pytest.raises(ValueError, match="no room"):
        text_table(rows, flexible=(1,), limit=20)


def test_a_machine_whose_peaks_are_unknown() -> None:
    unknown = Peaks(math.nan, math.nan, math.nan)
    markup = Profile((kernel(0, 1e-5, 10, 10), kernel(1, 0.0, 0, 9)), unknown)
    assert problems(markup._repr_html_()) == []
    assert "<svg" not in markup._repr_html_()
    assert "width:nan" not in markup._repr_html_()

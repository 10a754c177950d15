"""Interleaved samples and what is told of them, with a clock that calls move."""

from __future__ import annotations

import builtins
import gc
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any
from xml.etree import ElementTree

import pytest

import jitseq as js
from benchmarks.timing import median_seconds
from jitseq.compare import contestants
from jitseq.compare.timing import (
    LEAST_ROUNDS,
    SAMPLE_SECONDS,
    SLOW_SECONDS,
    sampled_seconds,
)
from jitseq.compare.timings import Benchmark, Timing


class Clock:
    """Seconds that pass only when a call says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: Sequence[float]) -> Callable[[], None]:
        """A call that takes the next of ``seconds``, over and over."""
        left = cycle(seconds)

        def called() -> None:
            self.called.append(name)
            self.now += next(left)

        return called


def timed(**samples: Sequence[float]) -> Benchmark:
    timings = {name: Timing(tuple(each)) for name, each in samples.items()}
    return Benchmark("model", "call", 1, timings, dict.fromkeys(timings, 0.0))


def test_samples_are_those_of_the_clock() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", [1.0]), "b": clock.call("b", [0.25, 0.5])}
    taken = sampled_seconds(calls, 4, clock=clock)
    assert taken == {"a": [1.0] * 4, "b": [0.25, 0.5] * 2}


def test_rounds_alternate_their_order() -> None:
    clock = Clock()
    calls = {name: clock.call(name, [1.0]) for name in "abc"}
    sampled_seconds(calls, 3, clock=clock)
    assert "".join(clock.called) == "aabbcc" + "abc" + "cba" + "abc"


def test_short_calls_are_repeated_in_a_sample() -> None:
    clock = Clock()
    seconds = SAMPLE_SECONDS / 8
    taken = sampled_seconds({"a": clock.call("a", [seconds])}, 2, clock=clock)
    assert taken["a"] == [pytest.approx(seconds)] * 2
    warm_up = len(clock.called) - 2 * 9  # one in front of each sample's eight
    assert warm_up * seconds >= 0.03


def test_slow_patient_contestants_are_sampled_less() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", [SLOW_SECONDS]), "b": clock.call("b", [1.0])}
    taken = sampled_seconds(calls, 5, frozenset({"a"}), clock=clock)
    assert [len(taken[name]) for name in "ab"] == [2, 5]


def test_a_limit_of_seconds_ends_the_rounds() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", [1.0])}
    assert len(sampled_seconds(calls, 50, seconds=10.0, clock=clock)["a"]) == 10
    short = sampled_seconds(calls, 50, seconds=0.0, clock=clock)["a"]
    assert len(short) == LEAST_ROUNDS


def test_the_collector_is_off_and_back_on() -> None:
    states: list[bool] = []
    median_seconds({"a": lambda: states.append(gc.isenabled())}, 1)
    assert not any(states) and gc.isenabled()


# figures


def test_medians_quartiles_and_ratios() -> None:
    result = timed(cpu=[1.0, 2.0, 3.0, 4.0, 5.0], torch=[8.0, 9.0, 9.0, 9.0, 10.0])
    assert result.seconds == {"cpu": 3.0, "torch": 9.0}
    assert result.timings["cpu"].quartiles == (2.0, 4.0)
    assert result.ratio("torch", "cpu") == 3.0
    assert result.ratio("cpu", "torch") == pytest.approx(1 / 3)
    assert result.told_apart("cpu", "torch")
    with pytest.raises(js.JitseqError, match="'jax' did not run"):
        result.ratio("jax", "cpu")
    assert Timing((2.0,)).quartiles == (2.0, 2.0)


def test_overlapping_quartiles_tell_no_difference() -> None:
    result = timed(cpu=[1.0, 2.0, 1.0, 2.0], torch=[1.5, 2.5, 1.5, 2.5])
    assert not result.told_apart("cpu", "torch")
    text = str(result)
    assert "cpu and torch: no difference can be told" in text
    assert "1.33 ?" in text
    apart = timed(cpu=[1.0] * 4, torch=[1.5] * 4)
    assert apart.notes() == [] and "?" not in str(apart)


def test_drift_between_rounds_is_told() -> None:
    steady = timed(cpu=[1.0, 1.05] * 4)
    assert steady.notes() == []
    drifting = timed(cpu=[1.0] * 5 + [1.3] * 5)
    assert drifting.timings["cpu"].drift == pytest.approx(0.3)
    assert "took +30%" in str(drifting)


def test_tables_and_html_fit() -> None:
    names = (*contestants.BACKENDS, *contestants.LIBRARIES)
    seconds = {name: [1.234e-6 * 10**i] * 4 for i, name in enumerate(names)}
    result = timed(**seconds)
    text = str(result)
    assert max(map(len, text.splitlines())) <= 100
    assert "1.23 µs" in text and "1.23 ms" in text and "1.23 s" in text
    html = result._repr_html_()
    root = ElementTree.fromstring(html)
    assert "<script" not in html
    assert len([r for r in root.iter() if r.tag.endswith("rect")]) == len(names)


def test_boxes_stand_where_the_times_are() -> None:
    html = timed(a=[1.0, 2.0, 3.0, 4.0], b=[5.0, 6.0, 7.0, 8.0])._repr_html_()
    root = ElementTree.fromstring(html)
    a, b = [r for r in root.iter() if r.tag.endswith("rect")]
    left, right = float(a.get("x", "")), float(b.get("x", ""))
    assert left + float(a.get("width", "")) < right
    assert float(a.get("y", "")) < float(b.get("y", ""))


def test_plot() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    (axis,) = timed(cpu=[1.0] * 4, torch=[50.0] * 4).plot().axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cpu", "torch"]
    assert axis.get_xscale() == "log"


def test_a_plot_without_matplotlib(monkeypatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(js.JitseqError, match="a plot needs matplotlib"):
        timed(cpu=[1.0] * 4).plot()

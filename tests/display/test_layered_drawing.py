"""Drawings: boxes are apart, edges avoid them, and all that runs is there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from display_models import branches, images, step_model
from markup_checks import boxes, edge_points, inside, overlaps, parsed

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.display.layered import isotonic, layered
from jitseq.errors import JitseqError


def random_graph(seed: int) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    sizes = [tuple(rng.uniform(20, 200, 2).tolist()) for _ in range(count)]
    pairs = [(i, j) for j in range(count) for i in range(j)]
    kept = rng.random(len(pairs)) < rng.uniform(0.03, 0.25)
    return sizes, [pair for pair, keep in zip(pairs, kept, strict=True) if keep]


@pytest.mark.parametrize("seed", range(25))
def test_boxes_and_edges_of_random_graphs(seed: int) -> None:
    sizes, edges = random_graph(seed)
    found = layered(sizes, edges)
    places = [(b.x, b.y, b.right, b.bottom) for b in found.boxes]
    assert overlaps(places) == []
    assert [(b.width, b.height) for b in found.boxes] == sizes
    assert [(route.source, route.target) for route in found.routes] == edges
    for route in found.routes:
        source, target = found.boxes[route.source], found.boxes[route.target]
        assert route.points[0][1] == source.bottom
        assert route.points[-1][1] == target.y
        assert source.x < route.points[0][0] < source.right
        assert target.x < route.points[-1][0] < target.right
        assert all(a[1] <= b[1] for a, b in pairwise(route.points))
        # what is between two points stays in the rectangle that they span
        for (x0, y0), (x1, y1) in pairwise(route.points):
            span = (min(x0, x1), y0, max(x0, x1), y1)
            assert not any(overlaps([span, box]) for box in places)
    assert all(b.x > -1e-6 and b.right <= found.width + 1e-6 for b in found.boxes)
    assert all(b.y > -1e-6 and b.bottom <= found.height + 1e-6 for b in found.boxes)


def test_an_edge_back_is_refused() -> None:
    with pytest.raises(ValueError, match="leads back"):
        layered([(1, 1), (1, 1)], [(1, 0)])


def test_a_chain_is_straight_and_a_skip_passes_beside_it() -> None:
    found = layered([(100, 30)] * 4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert found.boxes[1].x == pytest.approx(found.boxes[2].x)
    (skip,) = [r for r in found.routes if (r.source, r.target) == (0, 3)]
    passing = [x for x, y in skip.points if found.boxes[1].y < y < found.boxes[3].y]
    assert passing
    assert not any(found.boxes[1].x <= x <= found.boxes[1].right for x in passing)


@pytest.mark.parametrize("seed", range(10))
def test_isotonic_against_its_closed_form(seed: int) -> None:
    """``max over j <= i of min over k >= i`` of the mean of values j to k."""
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=9), rng.uniform(0.5, 4, 9)

    def mean(j: int, k: int) -> float:
        return float(np.average(values[j : k + 1], weights=weights[j : k + 1]))

    expected = [
        max(min(mean(j, k) for k in range(i, 9)) for j in range(i + 1))
        for i in range(9)
    ]
    assert isotonic(values.tolist(), weights.tolist()) == pytest.approx(expected)


def pictures() -> dict[str, str]:
    compiled = js.jit(branches()).prepare(images())
    chain = ZOO["mobilenet_v1"]
    model = step_model()
    step = js.train_step(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
    step(images(4), np.zeros(4, np.int64))
    return {
        "traced": compiled.traced_graph().to_svg(),
        "optimised": compiled.graph().to_svg(),
        "fused": compiled.explain().to_svg(),
        "mobilenet": js.jit(chain.build()).traced_graph(chain.sample(1)).to_svg(),
        "step graph": step.graph().to_svg(),
        "step": step.explain().to_svg(),
    }


def test_pictures_of_models() -> None:
    for name, picture in pictures().items():
        root = parsed(picture)
        found = boxes(root)
        assert len(found) > 8, name
        assert overlaps(found) == [], name
        points = edge_points(root)
        assert len(points) > 60, name
        touching = [p for p in points if any(inside(p, box) for box in found)]
        assert touching == [], name
        width, height = float(root.get("width")), float(root.get("height"))
        shift = 6.0  # the margin by which everything is moved
        assert all(b[2] + shift <= width and b[3] + shift <= height for b in found)


def test_every_kernel_has_a_box_and_its_share(tmp_path) -> None:
    compiled = js.jit(branches()).prepare(images())
    report = compiled.explain()
    path = tmp_path / "picture.svg"
    text = report.to_svg(path)
    assert path.read_text(encoding="utf-8") == text
    texts = [item.text for item in parsed(text).iter() if item.text]
    total = sum(kernel.flops for kernel in report.kernels)
    drawn = [k for k in report.kernels if k.ops != ("copy",)]
    for kernel in drawn:
        assert texts.count(kernel.name.split("_")[0]) >= 1
        assert f"{kernel.flops / total:.1%}" in texts
    titles = [t for t in texts if t.startswith("k") and t[1:].isdigit()]
    assert sorted(titles) == sorted(k.name.split("_")[0] for k in drawn)


def test_shares_of_time_are_those_of_the_profile() -> None:
    x = images()
    compiled = js.jit(branches())
    profile = compiled.profile(x, repeats=3)
    total = sum(kernel.seconds for kernel in profile.kernels)
    shown = compiled.explain(x).to_svg(profile=profile)
    for kernel in profile.kernels:
        if kernel.ops != ("copy",):
            assert f">{kernel.seconds / total:.1%}<" in shown
    other = js.jit(nn.Linear(3, 2)).profile(np.ones((2, 3), np.float32), repeats=1)
    with pytest.raises(JitseqError, match="another program"):
        compiled.explain(x).to_svg(profile=other)


def test_functions_of_several_inputs_are_drawn() -> None:
    @js.jit
    def scaled(x, factor):
        return {"sum": x + x * factor, "same": x * 1.0}

    x = np.ones((3, 4), np.float32)
    scaled(x, x)
    text = scaled.traced_graph().to_svg()
    assert text.count(">input<") == 2
    assert text.count(">output<") == len(set(scaled.traced_graph().outputs))


def test_kernels_for_other_batch_sizes_share_a_box() -> None:
    compiled = js.jit(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    report = compiled.explain(np.ones((2, 4), np.float32))
    first, second = report.kernels
    few = [replace(k, name=f"{k.name}_few") for k in (first, second)]
    several = replace(report, kernels=(few[0], first, few[1], second))
    texts = [item.text for item in parsed(several.to_svg()).iter() if item.text]
    assert texts.count("k0 k0") == texts.count("k1 k1") == 1
    total = first.flops + second.flops
    for kernel in (first, second):
        assert f"{kernel.flops / total:.1%}" in texts

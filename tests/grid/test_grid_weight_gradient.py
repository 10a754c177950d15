"""Weight gradients as grids of threads: parts of the batch, and their sums.

Groups are made by hand, their kernels run one by one in the interpreter; the references
are those of the ops, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import pytest
from grid_graph import LARGE, SMALL
from grid_kernels import Case, run_kernels
from tolerance import assert_close

from jitseq.ir.compute import WeightGradient
from jitseq.ir.target import GridTarget
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.grid.lowered import GridKernel
from jitseq.passes.grid.weight_gradient import lower_weight_gradient

TARGETS = pytest.mark.parametrize("target", [SMALL, LARGE], ids=["small", "large"])
Attributes = dict[str, object]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def conv(
    x: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    origin: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> tuple[Shapes, Attributes]:
    """With as much padding behind the image as in front of it."""
    size = (
        (n + 2 * o - d * (k - 1) - 1) // s + 1
        for n, o, d, k, s in zip(x[2:], origin, dilation, kernel, stride)
    )
    attrs = {
        "kernel": kernel, "stride": stride, "origin": origin, "dilation": dilation,
        "groups": groups,
    }  # fmt: skip
    return (x, (x[0], outputs, *size)), attrs


CASES = {
    "3x3": conv((2, 3, 9, 7), 5, (3, 3), origin=(1, 1)),
    "one image": conv((1, 4, 5, 6), 7, (3, 3)),
    "one channel": conv((3, 1, 8, 9), 6, (5, 5), origin=(2, 2)),
    "several tiles": conv((2, 9, 6, 5), 70, (3, 3), origin=(1, 1)),
    "1x1": conv((3, 5, 4, 3), 6, (1, 1)),
    "strided": conv((2, 3, 9, 8), 4, (3, 2), (2, 3), (1, 1)),
    "dilated": conv((2, 2, 11, 9), 4, (3, 3), (1, 2), (2, 1), (2, 3)),
    "7x7": conv((1, 3, 12, 11), 5, (7, 7), (2, 2), (3, 3)),
    "taps that read nothing": conv((2, 2, 2, 2), 3, (7, 7), (3, 3), (6, 6)),
    "one pixel": conv((5, 2, 3, 3), 7, (3, 3)),
    "two groups": conv((2, 4, 6, 5), 18, (3, 3), origin=(1, 1), groups=2),
    "narrow groups": conv((2, 6, 6, 5), 9, (3, 2), (2, 1), (1, 0), groups=3),
    "depthwise": conv((3, 6, 7, 5), 6, (3, 3), origin=(1, 1), groups=6),
    "depthwise, two each": conv((2, 3, 6, 6), 6, (3, 3), groups=3),
}
LINEAR: dict[str, Shapes] = {
    "rows": ((9, 33), (9, 17)),
    "one row": ((1, 5), (1, 7)),
    "many rows": ((150, 6), (150, 3)),
    "several tiles": ((4, 300), (4, 70)),
    "axes": ((2, 3, 8), (2, 3, 16)),
    "more axes": ((2, 3, 5, 4), (2, 3, 5, 7)),
}


def lowered(
    op: str, shapes: Shapes, attrs: Attributes, target: GridTarget, **options: object
) -> tuple[Case, Group, list[GridKernel]]:
    """The gradients of a weight and of a bias, whose op is last in the graph."""
    case = Case(shapes, **{"batched": 2, **options})  # type: ignore[arg-type]
    x, g = case.values
    case.emit(op, x, g, **attrs)
    case.emit("channel_sum", g, axis=1 if attrs else -1)
    anchor, bias = case.emit.nodes
    group = Group(anchor, companions=(bias,))
    record = compute_of(anchor)
    assert isinstance(record, WeightGradient)
    kernels = lower_weight_gradient(group, record, case.scope(target))
    return case, group, kernels


def check(case: Case, group: Group, kernels: Sequence[GridKernel]) -> None:
    found = run_kernels(kernels, case)
    expected, magnitude = case.references(group.outputs)
    terms = case.arrays[1].size // max(expected[1].size, 1)
    for value, e, m in zip(group.outputs, expected, magnitude, strict=True):
        assert_close(found[value], e, m, terms)


@TARGETS
@pytest.mark.parametrize("name", CASES)
def test_convolutions(name: str, target: GridTarget) -> None:
    check(*lowered("conv2d_weight_grad", *CASES[name], target))


@pytest.mark.parametrize("name", list(CASES)[::2])
def test_float64_without_batch(name: str) -> None:
    options: Attributes = {"batched": 0, "dtype": "float64"}
    check(*lowered("conv2d_weight_grad", *CASES[name], SMALL, **options))


@TARGETS
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers(name: str, target: GridTarget) -> None:
    check(*lowered("linear_weight_grad", LINEAR[name], {}, target))


def test_outer_product_of_vectors() -> None:
    check(*lowered("linear_weight_grad", ((9,), (4,)), {}, SMALL, batched=0))


@pytest.mark.parametrize("images", [1, 2, 5, 16])
@pytest.mark.parametrize("name", ["3x3", "depthwise"])
def test_any_batch_has_the_same_parts(name: str, images: int) -> None:
    """More parts than images as well as fewer; the kernels are the same."""
    (x, g), attrs = CASES[name]
    shapes = (images, *x[1:]), (images, *g[1:])
    case, group, kernels = lowered("conv2d_weight_grad", shapes, attrs, SMALL)
    check(case, group, kernels)
    first = kernels[0]
    assert not first.launch.per_image
    (parts,) = {s.value.type.shape[0] for s in first.writes}
    assert parts == SMALL.splits


@pytest.mark.parametrize("name", CASES)
def test_parts_are_added_once(name: str) -> None:
    """Not more of them than the target allows; a single part is the gradient."""
    _, group, kernels = lowered("conv2d_weight_grad", *CASES[name], LARGE)
    weight = group.output.type.shape
    (source,) = kernels[0].writes
    parts = prod(source.value.type.shape) // prod(weight)
    assert 1 <= parts <= LARGE.splits
    if parts == 1:
        assert source.value is group.output
    else:
        (total,) = [kernel for kernel in kernels[1:] if source in kernel.reads]
        assert [s.value for s in total.writes] == [group.output]


def test_gradient_of_no_pixels_is_zero() -> None:
    """Each tap of a kernel that lies outside of all windows."""
    case, group, kernels = lowered(
        "conv2d_weight_grad", *CASES["taps that read nothing"], SMALL
    )
    found = run_kernels(kernels, case)[group.output]
    (expected, _), _ = case.references(group.outputs)
    assert (expected == 0).any()
    np.testing.assert_array_equal(found[expected == 0], 0.0)

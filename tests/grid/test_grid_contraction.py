"""Contractions as grids of threads: every kernel of a group, against float64.

Groups are made by hand, their kernels run one by one in the interpreter, which refuses
races and what lies outside of buffers. Outputs start as NaN, so that what no thread
stores is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import pytest
from grid_graph import LARGE, SMALL
from grid_kernels import Case, run_kernels
from native_graph import Nodes
from tolerance import assert_close

from jitseq.ir.compute import Contraction
from jitseq.ir.graph import Value
from jitseq.ir.target import GridTarget
from jitseq.passes.fusion_group import Group, compute_of
from jitseq.passes.grid.contraction import lower_contraction
from jitseq.passes.grid.lowered import GridKernel

TARGETS = pytest.mark.parametrize("target", [SMALL, LARGE], ids=["small", "large"])


def conv(
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> dict[str, object]:
    return {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
    }  # fmt: skip


def transposed(
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    extra: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> dict[str, object]:
    return {
        "stride": stride, "padding": padding, "output_padding": extra,
        "dilation": dilation, "groups": groups,
    }  # fmt: skip


def input_gradient(
    size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    origin: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> dict[str, object]:
    return {
        "stride": stride, "origin": origin, "dilation": dilation, "groups": groups,
        "input_size": size,
    }  # fmt: skip


CONVOLUTIONS = {
    "3x3": (((2, 3, 9, 7), (5, 3, 3, 3), (5,)), conv(padding=(1, 1, 1, 1))),
    "one image": (((1, 4, 6, 6), (7, 4, 3, 3)), conv(padding=(1, 1, 1, 1))),
    "several tiles": (((3, 2, 11, 12), (70, 2, 3, 3), (70,)), conv()),
    "1x1": (((3, 5, 4, 3), (6, 5, 1, 1), (6,)), conv()),
    "1x1, strided": (((2, 5, 7, 5), (6, 5, 1, 1)), conv(stride=(2, 2))),
    "1x1, padded": (((2, 2, 3, 4), (3, 2, 1, 1), (3,)), conv(padding=(1, 0, 2, 1))),
    "5x5": (((2, 1, 8, 8), (4, 1, 5, 5)), conv(padding=(2, 2, 2, 2))),
    "7x7, strided": (((1, 3, 15, 13), (6, 3, 7, 7)), conv((2, 2), (3, 3, 3, 3))),
    "wide padding": (((2, 2, 4, 3), (3, 2, 3, 3)), conv(padding=(4, 3, 5, 2))),
    "dilated": (((2, 3, 10, 9), (4, 3, 3, 2)), conv((2, 1), (2, 1, 0, 2), (2, 3))),
    "taps that read nothing": (
        ((2, 2, 2, 2), (3, 2, 7, 7)), conv((3, 3), (6, 5, 6, 7)),
    ),
    "two groups": (((2, 16, 5, 6), (18, 8, 3, 3), (18,)), conv(groups=2)),
    "four groups": (
        ((2, 8, 5, 6), (12, 2, 3, 3), (12,)), conv(padding=(1, 1, 1, 1), groups=4),
    ),
    "depthwise": (
        ((3, 6, 7, 5), (6, 1, 3, 3), (6,)), conv((2, 1), (1, 1, 1, 1), groups=6),
    ),
    "whole image": (((3, 2, 4, 5), (7, 2, 4, 5), (7,)), conv()),
    "one pixel, padded": (((5, 2, 2, 2), (7, 2, 4, 4)), conv(padding=(1, 1, 1, 1))),
    "long sums": (((2, 30, 4, 5), (9, 30, 3, 3), (9,)), conv(padding=(1, 1, 1, 1))),
    "one row": (((4, 3, 1, 17), (5, 3, 1, 4)), conv(padding=(0, 0, 1, 2))),
}  # fmt: skip

TRANSPOSED = {
    "plain": (((2, 3, 4, 5), (3, 4, 3, 3), (4,)), transposed(padding=(1, 1))),
    "2x2, strided": (((1, 4, 5, 3), (4, 9, 2, 2)), transposed((2, 2))),
    "output padding": (
        ((2, 3, 4, 4), (3, 5, 3, 3), (5,)), transposed((2, 2), (1, 1), (1, 1)),
    ),
    "phases without taps": (((2, 2, 3, 3), (2, 3, 1, 2), (3,)), transposed((3, 4))),
    "no bias, no taps": (((1, 2, 4, 3), (2, 2, 1, 1)), transposed((3, 3))),
    "dilated": (
        ((1, 2, 4, 6), (2, 3, 3, 3)), transposed((2, 3), (2, 1), (1, 2), (2, 2)),
    ),
    "groups": (((2, 4, 4, 5), (4, 9, 3, 2), (18,)), transposed((2, 1), groups=2)),
    "depthwise": (
        ((2, 5, 5, 5), (5, 1, 4, 4), (5,)), transposed((2, 2), (1, 1), groups=5),
    ),
    "one pixel": (((2, 9, 1, 1), (9, 4, 4, 4)), transposed()),
}  # fmt: skip

GRADIENTS = {
    "3x3": (((2, 5, 9, 7), (5, 3, 3, 3)), input_gradient((9, 7), origin=(1, 1))),
    "1x1": (((2, 5, 3, 4), (5, 9, 1, 1)), input_gradient((3, 4))),
    "strided": (
        ((1, 6, 4, 2), (6, 2, 3, 2)), input_gradient((8, 7), (2, 3), (1, 0), (1, 2)),
    ),
    "1x1, strided": (((1, 6, 4, 2), (6, 3, 1, 1)), input_gradient((8, 4), (2, 2))),
    "groups": (((2, 6, 5, 4), (6, 1, 3, 5)), input_gradient((5, 4), groups=3)),
}  # fmt: skip

LINEAR = {
    "rows": (((9, 33), (17, 33), (17,)), {}),
    "one row": (((1, 70), (3, 70), (3,)), {}),
    "long rows": (((3, 300), (70, 300)), {}),
    "one feature": (((13, 1), (1, 1), (1,)), {}),
    "axes": (((2, 3, 8), (16, 8), (16,)), {}),
    "more axes": (((2, 3, 5, 8), (7, 8), (7,)), {}),
}
LINEAR_GRADIENTS = {
    "rows": (((9, 17), (17, 33)), {}),
    "one output": (((5, 1), (1, 6)), {}),
    "axes": (((2, 3, 16), (16, 8)), {}),
}

CASES = [
    pytest.param(op, *case, id=f"{op}: {name}")
    for op, cases in (
        ("conv2d", CONVOLUTIONS),
        ("conv_transpose2d", TRANSPOSED),
        ("conv2d_input_grad", GRADIENTS),
        ("linear", LINEAR),
        ("linear_input_grad", LINEAR_GRADIENTS),
    )
    for name, case in cases.items()
]
Shapes = Sequence[tuple[int, ...]]


def lowered(case: Case, group: Group, target: GridTarget) -> list[GridKernel]:
    assert group.anchor is not None
    record = compute_of(group.anchor)
    assert isinstance(record, Contraction)
    return lower_contraction(group, record, case.scope(target))


def alternatives(kernels: Sequence[GridKernel]) -> list[list[GridKernel]]:
    """The kernels that run for one number of images, for each such choice."""
    starts = sorted({kernel.least for kernel in kernels})
    return [
        [k for k in kernels if k.least <= n and (k.most is None or n <= k.most)]
        for n in starts
    ]


def check_group(case: Case, group: Group, target: GridTarget, terms: int) -> None:
    """All outputs by every choice of kernels, for the batch of the case."""
    expected, magnitude = case.references(group.outputs)
    for kernels in alternatives(lowered(case, group, target)):
        found = run_kernels(kernels, case)
        for value, e, m in zip(group.outputs, expected, magnitude, strict=True):
            if e.dtype.kind == "f":
                assert_close(found[value], e, m, terms)
            else:
                np.testing.assert_array_equal(found[value], e)


@TARGETS
@pytest.mark.parametrize("op, shapes, attrs", CASES)
def test_contraction(
    op: str, shapes: Shapes, attrs: dict[str, object], target: GridTarget
) -> None:
    case = Case(shapes, batched=1)
    case.emit(op, *case.values, **attrs)
    (node,) = case.emit.nodes
    check_group(case, Group(node), target, prod(shapes[1]))


@pytest.mark.parametrize("op, shapes, attrs", CASES[::2])
def test_float64_without_batch(
    op: str, shapes: Shapes, attrs: dict[str, object]
) -> None:
    """The number of images is a constant of the kernel."""
    case = Case(shapes, batched=0, dtype="float64")
    case.emit(op, *case.values, **attrs)
    (node,) = case.emit.nodes
    check_group(case, Group(node), SMALL, prod(shapes[1]))


def test_vector_times_matrix() -> None:
    case = Case(((9,), (4, 9), (4,)), batched=0)
    case.emit("linear", *case.values)
    check_group(case, Group(case.emit.nodes[0]), SMALL, 9)


# what follows the sums

Follow = Callable[[Nodes, Value, Value, Value], Value]


def residual(emit: Nodes, x: Value, same: Value, channel: Value) -> Value:
    return emit("relu", emit("add", emit("mul", x, channel), same))


@TARGETS
@pytest.mark.parametrize(
    "op, shapes, attrs",
    [
        ("conv2d", *CONVOLUTIONS["3x3"]),
        ("conv2d", *CONVOLUTIONS["depthwise"]),
        ("conv2d", *CONVOLUTIONS["whole image"]),
        ("conv_transpose2d", *TRANSPOSED["output padding"]),
    ],
    ids=["3x3", "depthwise", "whole image", "transposed"],
)
def test_pointwise_nodes(
    op: str, shapes: Shapes, attrs: dict[str, object], target: GridTarget
) -> None:
    """A broadcast and a full operand, at each output's place."""
    plain = Case(shapes, batched=1)
    out = plain.emit(op, *plain.values, **attrs).type.shape
    full, channel = (shapes[0][0], *out[1:]), (1, out[1], 1, 1)
    case = Case((*shapes, channel, full), batched=1, more_batched=(len(shapes) + 1,))
    emit = case.emit
    *given, scale, same = case.values
    residual(emit, emit(op, *given, **attrs), same, scale)
    anchor, *inner = emit.nodes
    check_group(case, Group(anchor, tuple(inner)), target, prod(shapes[1]))


@pytest.mark.parametrize("axes", [(), (3,), (2, 3)])
def test_operands_of_linear_layers(axes: tuple[int, ...]) -> None:
    shapes = ((4, *axes, 6), (5, 6), (5,), (4, *axes, 5), (5,))
    case = Case(shapes, batched=1, more_batched=(3,))
    x, weight, bias, same, channel = case.values
    residual(case.emit, case.emit("linear", x, weight, bias), same, channel)
    anchor, *inner = case.emit.nodes
    check_group(case, Group(anchor, tuple(inner)), SMALL, 6)


WINDOWS = [(2, 2), (3, 3), (1, 2), (2, 1), (3, 1), (4, 4), (2, 3)]


def pooling(kind: str, window: tuple[int, int]) -> dict[str, object]:
    found: dict[str, object] = {
        "kernel": window, "stride": window, "padding": (0, 0), "ceil_mode": False,
    }  # fmt: skip
    if kind == "avg":
        return found | {"count_include_pad": True, "divisor_override": None}
    return found | {"dilation": (1, 1)}


@TARGETS
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("window", WINDOWS)
def test_pooling(
    window: tuple[int, int], kind: str, groups: int, target: GridTarget
) -> None:
    """Rows and columns that belong to no window are not stored."""
    shapes = ((3, 4, 9, 11), (6, 4 // groups, 3, 3), (6,))
    case = Case(shapes, batched=1)
    emit = case.emit
    attrs = conv(padding=(1, 1, 1, 1), groups=groups)
    emit("relu", emit("conv2d", *case.values, **attrs))
    emit(f"{kind}_pool2d", emit.nodes[-1].output, **pooling(kind, window))
    emit("tanh", emit.nodes[-1].output)
    anchor, relu, pool, tanh = emit.nodes
    check_group(case, Group(anchor, (relu,), pool, (tanh,)), target, 36)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", WINDOWS[:4])
def test_index_of_the_maximum(window: tuple[int, int], groups: int) -> None:
    """Small whole numbers: equal maxima are frequent, and sums exact."""
    shapes = ((2, 4, 6, 9), (3 * groups, 4 // groups, 3, 3))
    case = Case(shapes, batched=1, whole=True)
    emit, attrs = case.emit, pooling("max", window)
    products = emit("conv2d", *case.values, **conv(groups=groups))
    emit("max_pool2d", products, **attrs)
    emit("max_pool2d_index", products, **attrs)
    anchor, pool, index = emit.nodes
    check_group(case, Group(anchor, (), pool, (), (index,)), SMALL, 1)


# how the work is dealt out


@pytest.mark.parametrize(
    "kernel, sizes", [((4, 4), 1), ((2, 2), 1), ((3, 4), 2), ((3, 3), 4)]
)
def test_phases_of_equal_size_are_one_kernel(
    kernel: tuple[int, int], sizes: int
) -> None:
    case = Case(((2, 3, 4, 5), (3, 2, *kernel), (2,)), batched=1)
    attrs = transposed((2, 2), extra=tuple(k % 2 for k in kernel))
    case.emit("conv_transpose2d", *case.values, **attrs)
    group = Group(case.emit.nodes[0])
    assert len(lowered(case, group, SMALL)) == sizes
    check_group(case, group, SMALL, 3 * prod(kernel))


@pytest.mark.parametrize("features", [(300, 7), (64, 10), (512, 512), (8, 20000)])
def test_each_number_of_images_has_one_kernel(features: tuple[int, int]) -> None:
    inputs, outputs = features
    case = Case(((1, inputs), (outputs, inputs)), batched=1)
    case.emit("linear", *case.values)
    kernels = lowered(case, Group(case.emit.nodes[0]), LARGE)
    first, *others = sorted(kernels, key=lambda kernel: kernel.least)
    assert first.least == 1
    for kernel in others:
        assert first.most is not None and kernel.least == first.most + 1
        first = kernel
    assert first.most is None

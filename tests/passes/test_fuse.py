"""Which nodes share a kernel, and the reason given for every pair that does not."""

from __future__ import annotations

import pytest
from pass_cases import traced

from jitseq import nn
from jitseq.nn import functional as F
from jitseq.passes.fuse import fuse
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.static_values import static_values

SHAPE = (2, 4, 12, 12)
CONV = nn.Conv2d(4, 4, 3, padding=1)
DEPTHWISE = nn.Conv2d(4, 4, 3, groups=4)
TRANSPOSED = nn.ConvTranspose2d(4, 4, 2, stride=2)


def fused(function, *shapes, enabled: bool = True) -> FusedGraph:
    graph = traced(function, *(shapes or (SHAPE,)))
    return fuse(graph, static_values(graph), enabled)


def kernels(result: FusedGraph) -> list[tuple[str, ...]]:
    return [group.ops for group in result.groups]


FUSED = {
    "activation": (lambda x: F.relu(CONV(x)), [("conv2d", "relu")]),
    "pooling and more": (
        lambda x: F.relu6(F.max_pool2d(F.relu(CONV(x)), 2)),
        [("conv2d", "relu", "max_pool2d", "relu6")],
    ),
    "average": (lambda x: F.avg_pool2d(CONV(x), (2, 4)), [("conv2d", "avg_pool2d")]),
    "residual": (lambda x: F.relu(CONV(x) + x), [("conv2d", "add", "relu")]),
    "pointwise only": (lambda x: F.exp(x) * x - x, [("exp", "mul", "sub")]),
    "after pooling": (lambda x: -F.max_pool2d(x, 3, 1), [("max_pool2d", "neg")]),
    "transposed": (lambda x: F.relu(TRANSPOSED(x)), [("conv_transpose2d", "relu")]),
    "two chains": (
        lambda x: F.relu(F.exp(x) + F.tanh(x)), [("exp", "tanh", "add", "relu")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_fused(name) -> None:
    function, expected = FUSED[name]
    result = fused(function)
    assert kernels(result) == expected
    assert result.refusals == ()


def two_readers(x):
    y = CONV(x)
    return F.relu(y) * F.tanh(y)


def returned(x):
    y = CONV(x)
    return F.relu(y), y


REFUSED = {
    "other readers": two_readers,
    "is a result of the program": returned,
    "reads each element more than once": lambda x: CONV(CONV(x)),
    "needs whole rows": lambda x: F.softmax(CONV(x), 1),
    "only moves elements": lambda x: F.permute(CONV(x), (0, 2, 3, 1)),
    "permute only moves elements": lambda x: F.relu(F.permute(x, (0, 2, 3, 1))),
    "writes its rows in several passes": lambda x: F.relu(F.softmax(x, 1)),
    "broadcasts": lambda x: F.exp(F.max_pool2d(x, 12)) * x,
    "pooling joins convolutions only": lambda x: F.max_pool2d(F.exp(x), 2),
    "depthwise": lambda x: F.max_pool2d(DEPTHWISE(x), 2),
    "already ends in a pooling window": lambda x: F.max_pool2d(
        F.max_pool2d(CONV(x), 2), 2
    ),
    "interleaved outputs": lambda x: F.max_pool2d(TRANSPOSED(x), 2),
    "padded, dilated": lambda x: F.max_pool2d(CONV(x), 2, padding=1),
    "overlap": lambda x: F.max_pool2d(CONV(x), 3, 1),
    "gaps": lambda x: F.max_pool2d(CONV(x), 2, 4),
    "does not fit a register tile": lambda x: F.avg_pool2d(CONV(x), 6),
    "already fused with": lambda x: CONV(x) + CONV(F.exp(x)),
    "vectors that are mostly empty": lambda x: F.tanh(CONV(x)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused(reason) -> None:
    result = fused(REFUSED[reason])
    assert any(reason in refusal.reason for refusal in result.refusals), result
    assert len(result.groups) > 1


def test_disabled() -> None:
    result = fused(lambda x: F.relu(CONV(x)), enabled=False)
    assert kernels(result) == [("conv2d",), ("relu",)]
    assert [refusal.reason for refusal in result.refusals] == ["fusion is disabled"]


@pytest.mark.parametrize("name", [*FUSED, *REFUSED])
def test_groups_partition_the_dynamic_nodes_in_a_valid_order(name) -> None:
    function = FUSED[name][0] if name in FUSED else REFUSED[name]
    result = fused(function)
    dynamic = [n for n in result.graph.nodes if n.output not in result.static]
    assert sorted(map(id, dynamic)) == sorted(
        id(node) for group in result.groups for node in group.nodes
    )
    known = set(result.graph.inputs) | set(result.static)
    for group in result.groups:
        assert known.issuperset(group.external_inputs)
        known.add(group.output)


def test_refusals_name_the_layers() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Softmax(1))
    (refusal,) = fused(model).refusals
    assert str(refusal) == "conv2d (0) -> softmax (1): softmax needs whole rows"

"""What ops are, for colours and labels: families of ops, kernels of groups, work.

Nodes, groups and kernels of a report enter; names of families, pairings and counts of
multiplications leave. Invariant: `macs` counts products of an input and a weight as
PyTorch's counters do, products with padding included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Protocol

from jitseq.ir.compute import (
    Contraction,
    Movement,
    Pointwise,
    Reduction,
    Uniform,
    Update,
    WeightGradient,
    Window,
    WindowGradient,
    WindowIndex,
)
from jitseq.ir.graph import Node
from jitseq.ir.types import TensorType
from jitseq.passes.fusion_group import FusedGraph, Group, compute_of

FAMILIES = (
    ("contraction", Contraction),
    ("window", Window),
    ("pointwise", Pointwise | Uniform),
    ("reduction", Reduction),
    ("movement", Movement),
    ("gradient", WeightGradient | WindowGradient | WindowIndex),
    ("update", Update),
)
"""Names and records; what is none of these is decomposed before it is lowered."""

WEIGHT_OF_OUTPUT = ("oihw", "oi")
"""Axes of weights all of which, but the first, are summed for each output element."""


class KernelLike(Protocol):
    """A kernel of a report or of a profile."""

    @property
    def name(self) -> str: ...
    @property
    def ops(self) -> tuple[str, ...]: ...
    @property
    def path(self) -> str: ...


def family(node: Node) -> str:
    """One of `jitseq.display.style.ACCENTS`."""
    record = compute_of(node)
    found = (name for name, kind in FAMILIES if isinstance(record, kind))
    return next(found, "composite")


def family_of_group(group: Group) -> str:
    return family(group.anchor or group.chain[0])


def is_view(group: Group) -> bool:
    """Whether the group shows memory of its input, so that no kernel may run."""
    return [node.op for node in group.nodes] == ["reshape"]


def short_name(kernel: KernelLike) -> str:
    """``k3`` of ``k3_conv2d_relu``: the function in the generated source."""
    return kernel.name.split("_", 1)[0]


def kernels_of_groups(
    fused: FusedGraph, kernels: Sequence[KernelLike]
) -> tuple[tuple[int, ...], ...]:
    """The kernels of each group: the next ones with its ops and its path.

    A group has several where each is for other batch sizes, and none where it is a
    view of what is already in memory.
    """
    known: defaultdict[tuple[tuple[str, ...], str], list[int]] = defaultdict(list)
    for index, kernel in enumerate(kernels):
        known[kernel.ops, kernel.path].append(index)
    keys = [(group.ops, group.path) for group in fused.groups]
    each = {key: max(1, len(known[key]) // keys.count(key)) for key in keys}
    found = []
    for key in keys:
        found.append(tuple(known[key][: each[key]]))
        del known[key][: each[key]]
    return tuple(found)


def macs(node: Node) -> int:
    """Multiplications with weights for one image, or for all where there is no batch.

    Of convolutions, their transposes and linear layers; other ops have none.
    """
    record = compute_of(node)
    if not isinstance(record, Contraction):
        return 0
    weight = prod(node.inputs[1].type.inner_shape)
    if record.weight_axes in WEIGHT_OF_OUTPUT:
        return elements(node.output.type) * weight // record.out_channels
    return elements(node.inputs[0].type) * weight // record.in_channels


def elements(type: TensorType) -> int:
    """Of one image, or of everything where there is no batch."""
    return prod(type.inner_shape)


def shape_text(type: TensorType) -> str:
    """``n×16×32×32``; a scalar is ``()``."""
    return "×".join(str(extent) for extent in type.shape) or "()"

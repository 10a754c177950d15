"""The passes, in order: Graph → FusedGraph → LaidOut → kernels → Program.

Every pass is a pure function. The graph is verified between graph passes. Optional
passes can be disabled by name, which tests use to compare results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitseq.config import logs
from jitseq.ir.graph import Graph
from jitseq.ir.target import Target
from jitseq.ir.verify import verify
from jitseq.passes.fold_batchnorm import decompose_batchnorm, fold_batchnorm
from jitseq.passes.fuse import fuse
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.rematerialise import rematerialise
from jitseq.passes.simplify import drop_dead, simplify
from jitseq.passes.static_values import static_values

if TYPE_CHECKING:
    from jitseq.passes.layout import LaidOut
    from jitseq.passes.lower.operands import Lowered
    from jitseq.passes.memory import Planned
    from jitseq.passes.segment import Stretch

GraphPass = Callable[[Graph], Graph]

GRAPH_PASSES: tuple[tuple[str, GraphPass], ...] = (
    ("drop_dead", drop_dead),
    ("fold_batchnorm", fold_batchnorm),
    ("decompose_batchnorm", decompose_batchnorm),
    ("simplify", simplify),
    ("rematerialise", rematerialise),
)

OPTIONAL_PASSES = (
    "fold_batchnorm", "simplify", "rematerialise", "fuse", "segment", "reuse_memory"
)  # fmt: skip


def optimise(graph: Graph, disabled: frozenset[str] = frozenset()) -> FusedGraph:
    """Graph passes and fusion; what is cached on disk is a function of the result."""
    verify(graph)
    for name, run in GRAPH_PASSES:
        if name in disabled:
            continue
        graph = run(graph)
        verify(graph)
        if logs("passes"):
            print(f"after {name}:\n{graph}", file=sys.stderr)
    fused = fuse(graph, static_values(graph), "fuse" not in disabled)
    if logs("passes"):
        print(f"after fuse:\n{fused}", file=sys.stderr)
    return fused


@dataclass(frozen=True)
class Scheduled:
    """Everything the later passes decided, for rendering and for reports.

    ``kernels`` are in the order in which they run.
    """

    fused: FusedGraph
    laid: LaidOut
    kernels: tuple[Lowered, ...]
    stretches: tuple[Stretch, ...]
    planned: Planned


def schedule(
    fused: FusedGraph, target: Target, disabled: frozenset[str] = frozenset()
) -> Scheduled:
    """Layout, kernels, phases, segments and memory for one target.

    These passes are imported here: a program that the disk cache has needs none.
    """
    from jitseq.passes.layout import lay_out
    from jitseq.passes.lower.group import lower_group, with_packing
    from jitseq.passes.memory import plan_memory
    from jitseq.passes.phases import phases
    from jitseq.passes.segment import stretches

    laid = lay_out(fused, target)
    groups = [lower_group(group, laid, fused, target) for group in laid.groups]
    unordered = with_packing(groups, laid, fused.static, target)
    steps = phases(unordered, laid.owner)
    kernels = tuple(unordered[i] for step in steps for i in step.kernels)
    blocked = "segment" not in disabled and fused.batched
    runs = stretches(kernels, steps, target, blocked)
    planned = plan_memory(fused, laid, kernels, runs, "reuse_memory" not in disabled)
    return Scheduled(fused, laid, kernels, runs, planned)

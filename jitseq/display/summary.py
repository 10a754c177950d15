"""`summary`: one line for each layer of a model, and what compilation made of it.

A compiled model and samples of its inputs enter; `Summary`, a table of records that
shows itself as text and as HTML, leaves. Invariant: parameters are counted once,
however many layers share them, and every layer of the model has a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jitseq.display.families import (
    is_view,
    kernels_of_groups,
    macs,
    shape_text,
)
from jitseq.display.figures import byte_count, scaled, text_table
from jitseq.display.markup import element, framed, paragraph, table, text
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.trace import closed_over
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.static_values import static_values
from jitseq.runtime.report import Report

NUMBERS = (3, 4)
"""Columns of numbers."""


@dataclass(frozen=True)
class LayerRow:
    """One layer, or one operation that a function or a ``forward`` calls itself.

    ``path`` is that of the layer, ``layer`` its class or the op, ``detail`` its
    ``repr``. ``output`` has the batch as n; it is empty where a layer is not called.
    ``params`` are its own, ``trainable`` those of them that require a gradient;
    ``macs`` are multiplications with weights, for one image where there is a batch.
    ``kernel`` is the name of the kernel that computes it: several are joined by
    commas, and words in brackets say why there is none.
    """

    path: str
    layer: str
    detail: str
    output: str
    params: int
    trainable: int
    macs: int
    kernel: str


@dataclass(frozen=True)
class Summary:
    """Layers in the order in which they run, and totals; prints as a table."""

    name: str
    inputs: tuple[str, ...]
    rows: tuple[LayerRow, ...]
    params: int
    trainable: int
    param_bytes: int
    macs: int
    arena_bytes: int
    per_image: bool
    scratch_of: str = "a thread"

    def __str__(self) -> str:
        cells = [("layer", "", "output", "parameters", "MACs", "kernel")]
        cells += [
            (r.path, r.layer, r.output, _number(r.params), _number(r.macs), r.kernel)
            for r in self.rows
        ]
        total = ("total", "", "", f"{self.params:,}", f"{self.macs:,}", "")
        lines = text_table([*cells, total], right=NUMBERS, flexible=(0, 1, 2, 5))
        head = f"{self.name}({', '.join(self.inputs)})"
        return "\n".join([head, "", *lines, "", *self.facts()])

    __repr__ = __str__

    def facts(self) -> list[str]:
        """The totals in words."""
        frozen = self.params - self.trainable
        return [
            f"{self.params:,} parameters ({self.trainable:,} trainable, "
            f"{frozen:,} frozen), {byte_count(self.param_bytes)}",
            f"{scaled(self.macs)} MACs {'an image' if self.per_image else 'a call'}, "
            f"{byte_count(self.arena_bytes)} of scratch {self.scratch_of}",
        ]

    def _repr_html_(self) -> str:
        return framed(self.html())

    def html(self) -> str:
        """The table, without the frame around a display."""
        rows = [
            [
                element("code", text(row.path)),
                element("span", text(row.layer), title=row.detail or None),
                text(row.output),
                _number(row.params),
                _number(row.macs),
                element("code", text(row.kernel)),
            ]
            for row in self.rows
        ]
        headers = ("layer", "", "output", "parameters", "MACs", "kernel")
        totals = ("total", "", "", f"{self.params:,}", f"{self.macs:,}", "")
        head = element("code", text(f"{self.name}({', '.join(self.inputs)})"))
        facts = "; ".join(self.facts())
        parts = element("p", head), table(headers, rows, NUMBERS, totals)
        return "".join((*parts, paragraph(facts)))


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def summarise(
    name: str, target: Any, traced: Graph, fused: FusedGraph, report: Report
) -> Summary:
    """The summary of ``target``, traced to ``traced`` and compiled from ``fused``."""
    modules = dict(_modules(target))
    homes = _Homes(fused, report)
    rows = _rows(modules, traced, homes)
    variables = {
        id(p): p for module in modules.values() for p in module._parameters.values()
    }
    found = [p for p in variables.values() if p is not None]
    return Summary(
        name=name,
        inputs=tuple(str(value.type) for value in traced.inputs),
        rows=tuple(rows),
        params=sum(p.size for p in found),
        trainable=sum(p.size for p in found if p.requires_grad),
        param_bytes=sum(p.size * p.dtype.itemsize for p in found),
        macs=sum(map(macs, traced.nodes)),
        arena_bytes=report.arena_bytes,
        per_image=any(value.type.has_batch for value in traced.inputs),
        scratch_of=report.scratch_of,
    )


def _modules(target: Any) -> Iterable[tuple[str, Any]]:
    """Paths and modules of a target, or of those that a function closes over."""
    if hasattr(target, "named_modules"):
        yield from target.named_modules()
        return
    for root, value in closed_over(target).items():
        if hasattr(value, "named_modules"):
            yield from value.named_modules(prefix=root)


def _rows(modules: Mapping[str, Any], traced: Graph, homes: _Homes) -> list[LayerRow]:
    """Rows of what runs, in order; layers that run nothing follow the one before."""
    own = {path: m for path, m in modules.items() if _is_row(m)}
    by_layer: dict[str, list[Node]] = {}
    order: list[tuple[str, Node | None]] = []
    for node in traced.nodes:
        leaf = node.path in own and not own[node.path]._modules
        if not leaf:
            order.append((node.path, node))
        elif node.path not in by_layer:
            order.append((node.path, None))
        if leaf:
            by_layer.setdefault(node.path, []).append(node)
    at = 0
    for path in own:
        if (path, None) in order:
            at = order.index((path, None)) + 1
        else:
            order.insert(at, (path, None))
            at += 1
    rows = []
    for path, single in order:
        if single is None:
            nodes = by_layer.get(path, [])
            value = traced.layer_outputs.get(path)
            rows.append(_layer_row(path, own[path], nodes, value, homes))
        else:
            rows.append(_node_row(single, homes))
    return rows


def _is_row(module: Any) -> bool:
    """Layers without layers of their own, and whatever else has parameters."""
    has_own = any(p is not None for p in module._parameters.values())
    return has_own or not module._modules


def _layer_row(
    path: str, module: Any, nodes: Sequence[Node], output: Value | None, homes: _Homes
) -> LayerRow:
    params = [p for p in module._parameters.values() if p is not None]
    leaf = not module._modules
    return LayerRow(
        path=path,
        layer=type(module).__name__,
        detail=repr(module) if leaf else "",
        output=shape_text(output.type) if leaf and output is not None else "",
        params=sum(p.size for p in params),
        trainable=sum(p.size for p in params if p.requires_grad),
        macs=sum(map(macs, nodes)),
        kernel=homes.of_nodes(nodes) if leaf else "",
    )


def _node_row(node: Node, homes: _Homes) -> LayerRow:
    shapes = ", ".join(shape_text(value.type) for value in node.outputs)
    kernel = homes.of_nodes([node])
    return LayerRow(node.path, node.op, "", shapes, 0, 0, macs(node), kernel)


class _Homes:
    """Which kernels compute what was traced at a place.

    Passes keep each node's path and place, so nodes are found again by both.
    """

    def __init__(self, fused: FusedGraph, report: Report) -> None:
        self.names: dict[tuple[str, int], list[str]] = {}
        homes = kernels_of_groups(fused, report.kernels)
        for group, numbers in zip(fused.groups, homes, strict=True):
            found = [report.kernels[i].name.replace("_", " ", 1) for i in numbers]
            missing = "[view]" if is_view(group) else "[no kernel]"
            for node in group.nodes:
                for name in found or [missing]:
                    self._add(node, name)
        static = static_values(fused.graph)
        for node in fused.graph.nodes:
            if static.issuperset(node.outputs):
                self._add(node, "[in weights]")

    def _add(self, node: Node, name: str) -> None:
        names = self.names.setdefault((node.path, node.place), [])
        if name not in names:
            names.append(name)

    def of_nodes(self, nodes: Sequence[Node]) -> str:
        """Names of kernels; without any, why there is none."""
        if not nodes:
            return "[nothing to do]"
        keys = [(node.path, node.place) for node in nodes]
        found = list(dict.fromkeys(n for key in keys for n in self.names.get(key, ())))
        kernels = [name for name in found if not name.startswith("[")]
        return ", ".join(kernels) or next(iter(found), "[folded away]")

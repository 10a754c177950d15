"""Graphs and fused graphs as SVG: boxes for ops or kernels, arrows for values.

A Graph, or a FusedGraph with its kernels and their shares of the work, enters; a
picture leaves, from top to bottom. What depends on parameters only is computed once
and not drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jitseq.display.families import (
    KernelLike,
    family,
    family_of_group,
    shape_text,
    short_name,
)
from jitseq.display.figures import cut
from jitseq.display.layered import Rectangle, Route, layered
from jitseq.display.markup import element, framed, paragraph, svg, svg_text, text
from jitseq.display.style import ACCENTS, CSS, STANDALONE
from jitseq.ir.graph import Graph, Node, Value
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.static_values import static_values

CHARACTER = 7.3
"""Width of a character of the monospaced font, at most."""

PAD = 9.0
LINE = 17.0
HEAD = 20.0
BAR = 15.0
MARGIN = 6.0
LONGEST = 34
"""Characters of a line in a box."""

ARROW = 7.0


@dataclass(frozen=True)
class Card:
    """What one box says: a title, a note beside it, lines; ``share`` is a bar."""

    title: str
    note: str
    lines: tuple[str, ...]
    kind: str
    share: float | None = None
    dashed: bool = False
    tip: str = ""

    @property
    def size(self) -> tuple[float, float]:
        head = len(self.title) + (len(self.note) + 2 if self.note else 0)
        longest = max([head, *map(len, self.lines)])
        height = HEAD + LINE * len(self.lines) + (4 if self.lines else 2)
        bar = 0.0 if self.share is None else BAR
        return max(96.0, longest * CHARACTER + 2 * PAD), height + bar


@dataclass(frozen=True)
class Picture:
    """Cards in topological order, and edges between them."""

    cards: tuple[Card, ...]
    edges: tuple[tuple[int, int], ...]

    def svg(self, standalone: bool = False) -> str:
        """The picture; with colours of its own where it is ``standalone``."""
        found = layered([card.size for card in self.cards], self.edges)
        parts = [element("style", CSS + STANDALONE)] if standalone else []
        parts += [_edge(route) for route in found.routes]
        parts += [
            _card(card, box) for card, box in zip(self.cards, found.boxes, strict=True)
        ]
        shift = f"translate({MARGIN:.0f} {MARGIN:.0f})"
        size = found.width + 2 * MARGIN, found.height + 2 * MARGIN
        kind = "jitseq" if standalone else None
        return svg(*size, element("g", *parts, transform=shift), class_=kind)


def picture_of_graph(graph: Graph) -> Picture:
    """One box for each node."""
    static = static_values(graph)
    drawn = [node for node in graph.nodes if not static.issuperset(node.outputs)]
    cards = [_node_card(node) for node in drawn]
    made = {value: i for i, node in enumerate(drawn) for value in node.outputs}
    reads = [node.inputs for node in drawn]
    return _picture(graph, graph.outputs, cards, made, reads)


def graph_html(graph: Graph) -> str:
    """The picture of a graph as one display, with what is not in it."""
    picture = picture_of_graph(graph)
    static = static_values(graph)
    hidden = sum(static.issuperset(node.outputs) for node in graph.nodes)
    note = ""
    if hidden:
        note = f"{hidden} nodes that depend on parameters only are not drawn."
    kinds = [card.kind for card in picture.cards]
    drawn = element("div", picture.svg(), class_="scroll tall")
    return framed(legend(kinds), drawn, paragraph(note) if note else "")


def legend(kinds: Collection[str]) -> str:
    """Names of families of ops beside their colours."""
    keys = (
        element("span", element("i") + text(kind), class_=f"key kind-{kind}")
        for kind in ACCENTS
        if kind in kinds and kind != "end"
    )
    return element("p", *keys, class_="legend")


def picture_of_kernels(
    fused: FusedGraph,
    kernels: Sequence[Sequence[KernelLike]],
    shares: Sequence[float],
    measure: str,
) -> Picture:
    """One box for each group of fused nodes.

    ``kernels`` are those of each group, ``shares`` the groups' parts of the whole, of
    which ``measure`` says what it is: "FLOPs" or "time".
    """
    cards = []
    for group, own, share in zip(fused.groups, kernels, shares, strict=True):
        nodes = sorted(group.nodes, key=lambda node: node.place)
        shapes = ", ".join(shape_text(value.type) for value in group.outputs)
        tip = "\n".join(f"{node.op}  {node.path}" for node in nodes)
        if own:
            tip += f"\n{share:.1%} of {measure}"
        card = Card(
            title=" ".join(map(short_name, own)) or "view",
            note=cut(group.path, 24),
            lines=(*(node.op for node in nodes), cut(f"→ {shapes}", LONGEST)),
            kind=family_of_group(group),
            share=share if own else None,
            dashed=not own,
            tip=tip,
        )
        cards.append(card)
    made = {v: i for i, group in enumerate(fused.groups) for v in group.outputs}
    reads = [group.external_inputs for group in fused.groups]
    outputs = [value for value in fused.graph.outputs if value not in fused.changed]
    return _picture(fused.graph, outputs, cards, made, reads)


def _picture(
    graph: Graph,
    outputs: Sequence[Value],
    cards: list[Card],
    made: dict[Value, int],
    reads: Sequence[Sequence[Value]],
) -> Picture:
    """With boxes for inputs in front of the cards, and for outputs behind them.

    An input without a batch, such as a learning rate, has a box for each reader.
    """
    batched = any(value.type.has_batch for value in graph.inputs)
    shared = [v for v in graph.inputs if v.type.has_batch or not batched]
    readers: dict[Value, list[int]] = {}
    for reader, values in enumerate(reads):
        for value in dict.fromkeys(values):
            readers.setdefault(value, []).append(reader)
    ends: list[Card] = []
    entering: list[tuple[int, int]] = []
    for value in graph.inputs:
        found = readers.get(value, [])
        groups = [found] if value in shared else [[reader] for reader in found]
        for group in filter(None, groups):
            entering += [(len(ends), reader) for reader in group]
            ends.append(_end_card("input", value))
    shift = len(ends)
    edges = [(end, reader + shift) for end, reader in entering]
    edges += [
        (made[value] + shift, reader + shift)
        for value, found in readers.items()
        for reader in found
        if value in made
    ]
    everything = [*ends, *cards]
    for value in dict.fromkeys(outputs):
        if value in made:
            edges.append((made[value] + shift, len(everything)))
            everything.append(_end_card("output", value))
    return Picture(tuple(everything), tuple(dict.fromkeys(edges)))


def _end_card(title: str, value: Value) -> Card:
    note = cut(value.name, 20) if title == "input" else ""
    return Card(title, note, (cut(str(value.type), LONGEST),), "end")


def _node_card(node: Node) -> Card:
    shapes = ", ".join(shape_text(value.type) for value in node.outputs)
    attributes = "\n".join(f"{name}={value}" for name, value in node.attrs.items())
    return Card(
        title=node.op,
        note=cut(node.path, 24),
        lines=(cut(f"→ {shapes}", LONGEST),),
        kind=family(node),
        tip=f"{node.op}\n{attributes}".strip(),
    )


def _card(card: Card, box: Rectangle) -> str:
    style = "frame" + (" dashed plain" if card.dashed or card.kind == "end" else "")
    parts = [element("title", text(card.tip))] if card.tip else []
    parts.append(
        element(
            "rect", class_=style, x=box.x, y=box.y, rx=5,
            width=box.width, height=box.height,
        )
    )  # fmt: skip
    left, right, y = box.x + PAD, box.right - PAD, box.y + 15
    parts.append(svg_text(left, y, card.title, class_="mono strong"))
    if card.note:
        parts.append(svg_text(right, y, card.note, class_="mono soft end"))
    for line in card.lines:
        y += LINE
        kind = "mono soft" if line.startswith("→") else "mono"
        parts.append(svg_text(left, y, line, class_=kind))
    if card.share is not None:
        parts += _share(card.share, left, right, y + 10)
    return element("g", *parts, class_=f"card kind-{card.kind}")


def _share(share: float, left: float, right: float, y: float) -> list[str]:
    """A bar whose length is the kernel's part of the whole, and the number."""
    room = right - left - 44
    return [
        element("rect", class_="track", x=left, y=y, width=room, height=5, rx=2),
        element("rect", class_="fill", x=left, y=y, width=room * share, height=5, rx=2),
        svg_text(right, y + 7, f"{share:.1%}", class_="soft end"),
    ]


def _edge(route: Route) -> str:
    """A line that bends between layers, with a head."""
    *points, (x, y) = route.points
    points.append((x, y - ARROW + 1))
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        bend = f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
        parts.append(f"V{y1:.1f}" if x0 == x1 else bend)
    head = f"M{x:.1f} {y:.1f}l-3.6 {-ARROW}h7.2z"
    line = element("path", class_="edge", d="".join(parts))
    return line + element("path", class_="arrow", d=head)

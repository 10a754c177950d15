"""Layered drawing of an acyclic graph: where boxes stand and edges run.

Sizes of boxes, in topological order, and edges between them enter; rectangles and
routes leave. Boxes stand in layers by their longest path from a source (Sugiyama,
Tagawa and Toda, 1981): edges that skip layers pass through places of their own, the
order in a layer follows the barycentre of neighbours, and positions minimise squared
distances from neighbours under the order (isotonic regression, solved by pooling).
Invariant: rectangles are disjoint, and a route touches the two boxes that it joins
only, since it runs straight down inside of layers and bends between them.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 8
"""Rounds of ordering, and of placing, down and up again."""

GAP_X = 26.0
GAP_Y = 34.0
LANE = 6.0
"""Width of the place that a passing edge has."""

LANE_GAP = 10.0
"""Between two passing edges."""

PORT = 14.0
"""Distance between edges at one side of a box, where there is room."""

STRAIGHT = 6.0
"""How much more a passing edge counts than a box when positions are balanced."""


@dataclass(frozen=True)
class Rectangle:
    """Left, top and size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True)
class Route:
    """An edge: points from the bottom of ``source`` down to the top of ``target``."""

    source: int
    target: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layered:
    """Places of boxes and edges, inside of ``width`` by ``height``."""

    boxes: tuple[Rectangle, ...]
    routes: tuple[Route, ...]
    width: float
    height: float


def layered(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]
) -> Layered:
    """Place boxes of ``(width, height)`` whose edges lead to later boxes.

    Raises ValueError for an edge that does not.
    """
    if any(source >= target for source, target in edges):
        raise ValueError("an edge leads back")
    return _Layout(sizes, tuple(dict.fromkeys(edges))).run()


class _Layout:
    """Cells are boxes, by their number, and behind them the places of edges."""

    def __init__(
        self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]
    ) -> None:
        self.sizes = sizes
        self.edges = edges
        self.count = len(sizes)
        self.layers: list[list[int]] = []
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.chains: list[list[int]] = []
        self.centre: list[float] = []

    def run(self) -> Layered:
        self._make_layers()
        self._order()
        self._place()
        return self._drawn()

    # layers

    def _ranks(self) -> list[int]:
        ranks = [0] * self.count
        for source, target in sorted(self.edges, key=lambda edge: edge[1]):
            ranks[target] = max(ranks[target], ranks[source] + 1)
        entered = {target for _, target in self.edges}
        for cell in range(self.count):
            readers = [t for s, t in self.edges if s == cell]
            if cell not in entered and readers:
                ranks[cell] = min(ranks[reader] for reader in readers) - 1
        return ranks

    def _make_layers(self) -> None:
        ranks = self._ranks()
        self.layers = [[] for _ in range(max(ranks, default=-1) + 1)]
        for cell, rank in enumerate(ranks):
            self.layers[rank].append(cell)
        for source, target in self.edges:
            chain = [source]
            for rank in range(ranks[source] + 1, ranks[target]):
                chain.append(self._new_lane(rank))
            chain.append(target)
            for upper, lower in pairwise(chain):
                self.below[upper].append(lower)
                self.above[lower].append(upper)
            self.chains.append(chain)

    def _new_lane(self, rank: int) -> int:
        self.above.append([])
        self.below.append([])
        self.layers[rank].append(len(self.above) - 1)
        return len(self.above) - 1

    # order

    def _order(self) -> None:
        best, least = [list(layer) for layer in self.layers], self._crossings()
        for sweep in range(SWEEPS):
            if least == 0:
                break
            self._sort(self.above if sweep % 2 == 0 else self.below, sweep % 2 == 1)
            crossings = self._crossings()
            if crossings < least:
                best, least = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _sort(self, neighbours: list[list[int]], upwards: bool) -> None:
        """Order each layer by the mean place of its neighbours in the one before."""
        for layer in reversed(self.layers) if upwards else self.layers:
            place = self._places()
            keys = {
                cell: sum(place[n] for n in neighbours[cell]) / len(neighbours[cell])
                if neighbours[cell]
                else place[cell]
                for cell in layer
            }
            layer.sort(key=lambda cell: keys[cell])

    def _places(self) -> dict[int, float]:
        """Where cells stand in their layers, from 0 to 1."""
        return {
            cell: (index + 0.5) / len(layer)
            for layer in self.layers
            for index, cell in enumerate(layer)
        }

    def _crossings(self) -> int:
        """Pairs of edges that cross between neighbouring layers."""
        total = 0
        place = {c: i for layer in self.layers for i, c in enumerate(layer)}
        for layer in self.layers:
            seen: list[int] = []
            for cell in layer:
                ends = sorted(place[below] for below in self.below[cell])
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    # positions

    def _width(self, cell: int) -> float:
        return self.sizes[cell][0] if cell < self.count else LANE

    def _offsets(self, layer: list[int]) -> list[float]:
        """Least distances of the centres from the first one."""
        offsets = [0.0]
        for left, right in pairwise(layer):
            both = (self._width(left) + self._width(right)) / 2
            gap = LANE_GAP if min(left, right) >= self.count else GAP_X
            offsets.append(offsets[-1] + both + gap)
        return offsets

    def _place(self) -> None:
        self.centre = [0.0] * len(self.above)
        for layer in self.layers:
            offsets = self._offsets(layer)
            for cell, offset in zip(layer, offsets, strict=True):
                self.centre[cell] = offset - offsets[-1] / 2
        for sweep in range(SWEEPS):
            upwards = sweep % 2 == 1
            neighbours = self.below if upwards else self.above
            for layer in reversed(self.layers) if upwards else self.layers:
                self._balance(layer, neighbours)
        left = min(
            (self.centre[c] - self._width(c) / 2 for c in range(len(self.above))),
            default=0.0,
        )
        self.centre = [centre - left for centre in self.centre]

    def _balance(self, layer: list[int], neighbours: list[list[int]]) -> None:
        """Move each cell as near to its neighbours' mean as the order lets it."""
        offsets = self._offsets(layer)
        wanted, weights = [], []
        for cell, offset in zip(layer, offsets, strict=True):
            near = neighbours[cell]
            mean = sum(self.centre[n] for n in near) / len(near) if near else None
            wanted.append((self.centre[cell] if mean is None else mean) - offset)
            weights.append(STRAIGHT if cell >= self.count else 1.0)
        fitted = isotonic(wanted, weights)
        for cell, value, offset in zip(layer, fitted, offsets, strict=True):
            self.centre[cell] = value + offset

    # drawing

    def _drawn(self) -> Layered:
        tops, heights, y = [], [], 0.0
        for layer in self.layers:
            height = max((self.sizes[c][1] for c in layer if c < self.count), default=0)
            tops.append(y)
            heights.append(height)
            y += height + GAP_Y
        boxes: dict[int, Rectangle] = {}
        rows: dict[int, tuple[float, float]] = {}
        for layer, top, height in zip(self.layers, tops, heights, strict=True):
            for cell in layer:
                rows[cell] = (top, top + height)
                if cell < self.count:
                    w, h = self.sizes[cell]
                    x = self.centre[cell] - w / 2
                    boxes[cell] = Rectangle(x, top + (height - h) / 2, w, h)
        routes = tuple(self._route(chain, boxes, rows) for chain in self.chains)
        width = max(
            (self.centre[c] + self._width(c) / 2 for c in range(len(self.above))),
            default=0.0,
        )
        placed = tuple(boxes[cell] for cell in range(self.count))
        return Layered(placed, routes, width, max(y - GAP_Y, 0.0))

    def _route(
        self,
        chain: list[int],
        boxes: dict[int, Rectangle],
        rows: dict[int, tuple[float, float]],
    ) -> Route:
        source, target = chain[0], chain[-1]
        x = self._port(source, chain[1], self.below)
        points = [(x, boxes[source].bottom), (x, rows[source][1])]
        for cell in chain[1:-1]:
            points += [(self.centre[cell], y) for y in rows[cell]]
        x = self._port(target, chain[-2], self.above)
        points += [(x, rows[target][0]), (x, boxes[target].y)]
        return Route(source, target, tuple(dict.fromkeys(points)))

    def _port(self, cell: int, other: int, neighbours: list[list[int]]) -> float:
        """Where an edge meets a box: side by side, in the order of the other ends."""
        around = sorted(neighbours[cell], key=lambda near: self.centre[near])
        step = min(PORT, self.sizes[cell][0] / (len(around) + 1))
        index = around.index(other)
        return self.centre[cell] + (index - (len(around) - 1) / 2) * step


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence of least weighted squared distance.

    Adjacent violators are pooled (Ayer et al., 1955).
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, mass, count = pools.pop()
            total = mass + pool[1]
            both = (mean * mass + pool[0] * pool[1]) / total
            pool = (both, total, count + pool[2])
        pools.append(pool)
    return [mean for mean, _, count in pools for _ in range(count)]

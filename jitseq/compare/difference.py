"""What `diff` found: one record for each layer, as text and as HTML.

Records enter; a `Difference` shows itself. Invariants: records stand in the order in
which they are computed, forward before backward, so that the first one that is not ok
is where two backends part; no line of text is longer than 100 columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jitseq.display.figures import cut, text_table
from jitseq.display.markup import details, element, framed, paragraph, table, text

SHOWN = 12
"""Records that are listed as text when all are ok, or around the first that is not."""

HEADERS = ("layer", "ops", "quantity", "max abs", "max rel", "of tolerance", "")
NUMBERS = (3, 4, 5)


@dataclass(frozen=True)
class LayerDifference:
    """One value that a layer computes, in two backends.

    Attributes:
        path: the layer; empty for operations of the target itself.
        ops: what computes it, in order.
        quantity: ``"output"``, ``"new value of …"`` or ``"gradient of …"``.
        type: dtype and shape.
        backward: whether the backward pass computes it.
        max_abs, max_rel: the largest difference of the two backends, whatever the
            layers before contributed; relative to the larger of both.
        shares: for each backend its largest error in units of the tolerance, against
            float64 on the backend's own inputs of the layer. With ``rtol`` or ``atol``
            the difference of the backends in those units, twice.
        index: where the larger of both is.
        values: of both backends there.
        expected: the float64 value there, on the inputs of the backend that is
            farther away.
        tolerance: the error that is allowed there.
    """

    path: str
    ops: tuple[str, ...]
    quantity: str
    type: str
    backward: bool
    max_abs: float
    max_rel: float
    shares: tuple[float, float]
    index: tuple[int, ...]
    values: tuple[float, float]
    expected: float
    tolerance: float

    @property
    def share(self) -> float:
        """The larger of `shares`; above 1 the layer differs."""
        return max(self.shares)

    @property
    def ok(self) -> bool:
        return self.share <= 1.0

    @property
    def name(self) -> str:
        """The layer's path, or the operations where they belong to no layer."""
        return self.path or " + ".join(self.ops)

    def cells(self) -> tuple[str, ...]:
        """One row of the table."""
        marks = "" if self.ok else "differs"
        figures = (f"{self.max_abs:.2g}", f"{self.max_rel:.2g}", f"{self.share:.2g}")
        return (self.path, " + ".join(self.ops), self.quantity, *figures, marks)


@dataclass(frozen=True)
class NonFinite:
    """The first layer that computed a NaN or an infinity.

    ``kind`` is ``"NaN"`` or ``"Inf"``, ``backends`` those in which it appears, and
    ``sources`` what the layer read that was not finite: empty when it made one from
    finite values.
    """

    path: str
    ops: tuple[str, ...]
    quantity: str
    kind: str
    backends: tuple[str, ...]
    index: tuple[int, ...]
    sources: tuple[str, ...]

    def sentence(self) -> str:
        origin = "finite values"
        if self.sources:
            origin = f"{', '.join(self.sources)}, not finite"
        return (
            f"first {self.kind}: {_place(self.path, self.ops)}, {self.quantity} at "
            f"{_bracketed(self.index)} in {' and '.join(self.backends)}, from {origin}"
        )


@dataclass(frozen=True)
class ProgramDifference:
    """A result of the program that a caller runs, beside the one that returns all.

    ``difference`` is the largest; ``allowed`` is half of the digits of the largest
    value (the root of eps), and what rounding explains where sums cancel.
    """

    backend: str
    quantity: str
    difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.allowed

    def sentence(self) -> str:
        return (
            f"{self.backend}: {self.quantity} of the fused program is "
            f"{self.difference:.2g} away from the one that returns every layer's "
            f"output, {self.allowed:.2g} is allowed"
        )


@dataclass(frozen=True)
class Difference:
    """Two backends side by side; true when they agree. Prints as a table.

    ``layers`` has the records in the order of computation, ``programs`` the fused
    programs' results, ``nonfinite`` the first NaN or infinity in either backend; a NaN
    that both have is no difference.
    """

    name: str
    backends: tuple[str, str]
    layers: tuple[LayerDifference, ...]
    programs: tuple[ProgramDifference, ...]
    nonfinite: NonFinite | None

    @property
    def ok(self) -> bool:
        """Whether no layer and no program's result is beyond its tolerance."""
        return all(x.ok for x in self.layers) and all(x.ok for x in self.programs)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def first(self) -> LayerDifference | None:
        """The first layer that differs, forward before backward."""
        return next((layer for layer in self.layers if not layer.ok), None)

    @property
    def first_output(self) -> LayerDifference | None:
        """The first layer whose output differs."""
        return self._first(False)

    @property
    def first_gradient(self) -> LayerDifference | None:
        """The first layer, from the end of the model, whose gradient differs."""
        return self._first(True)

    def _first(self, backward: bool) -> LayerDifference | None:
        found = (x for x in self.layers if x.backward == backward and not x.ok)
        return next(found, None)

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        a, b = self.backends
        if self.ok:
            count = len(self.layers)
            lines = [f"{a} and {b} agree: {count} values differ by rounding only"]
        else:
            lines = [f"{a} and {b} differ"]
        for layer in (self.first_output, self.first_gradient):
            lines += [] if layer is None else _sentences(layer, self.backends)
        wrong = [each.sentence() for each in self.programs if not each.ok]
        if wrong and self.first is None:
            wrong.append("no layer differs alone: look at what is fused, and memory")
        lines += wrong
        return lines + ([self.nonfinite.sentence()] if self.nonfinite else [])

    def __str__(self) -> str:
        rows = [HEADERS, *(layer.cells() for layer in self._near())]
        lines = text_table(rows, right=NUMBERS, flexible=(0, 1, 2))
        left = len(self.layers) - len(rows) + 1
        more = [f"… and {left} more in .layers"] if left else []
        findings = [cut(line, 100) for x in self.findings() for line in _wrapped(x)]
        return "\n".join([self.name, "", *findings, "", *lines, *more])

    __repr__ = __str__

    def _near(self) -> tuple[LayerDifference, ...]:
        """The records that text shows: those around the first that is not ok."""
        if self.first is None:
            return self.layers[:SHOWN]
        start = max(self.layers.index(self.first) - SHOWN // 2, 0)
        return self.layers[start : start + SHOWN]

    def _repr_html_(self) -> str:
        rows = [
            [text(cell) for cell in layer.cells()[:-1]] + [_mark(layer.ok)]
            for layer in self.layers
        ]
        head, *findings = self.findings()
        listed = element("ul", *(element("li", text(line)) for line in findings))
        return framed(
            element("p", element("code", text(self.name))),
            element("p", text(head), class_="strong"),
            listed if findings else "",
            details(
                f"{len(rows)} values", table(HEADERS, rows, NUMBERS), shown=not self.ok
            ),
            paragraph("of tolerance: above 1 is more than rounding explains"),
        )


def _mark(ok: bool) -> str:
    return "" if ok else element("span", text("differs"), class_="strong")


def _sentences(layer: LayerDifference, backends: tuple[str, str]) -> Iterable[str]:
    order = "first gradient" if layer.backward else "first output"
    farther = backends[layer.shares[1] > layer.shares[0]]
    both = ", ".join(
        f"{name} {value:.9g}" for name, value in zip(backends, layer.values)
    )
    yield (
        f"{order} that differs: {_place(layer.path, layer.ops)}, {layer.quantity} "
        f"{layer.type}"
    )
    yield (
        f"  at {_bracketed(layer.index)}: {both}; float64 {layer.expected:.9g} "
        f"± {layer.tolerance:.2g}"
    )
    alone = layer.shares[0] != layer.shares[1]
    told = f", {farther} is farther from float64" if alone else ""
    yield (
        f"  largest difference {layer.max_abs:.2g} ({layer.max_rel:.2g} relative), "
        f"{layer.share:.3g} tolerances{told}"
    )


def _place(path: str, ops: tuple[str, ...]) -> str:
    done = " + ".join(ops)
    return f"{path} ({done})" if path else done


def _bracketed(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"


def _wrapped(sentence: str, width: int = 100) -> Iterable[str]:
    """Lines of at most ``width`` columns, broken at blanks."""
    indent = "  " if sentence.startswith("  ") else ""
    line = ""
    for word in sentence.split():
        if line and len(indent) + len(line) + 1 + len(word) > width:
            yield indent + line
            line, indent = word, "    "
        else:
            line = f"{line} {word}" if line else word
    yield indent + line

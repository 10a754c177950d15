"""Panels: elements of a matrix product that a block brings to its shared memory.

An `Operand`, which says where the elements of lines and products lie, and a `Panel`,
which says which thread loads which of them, enter; instructions leave. Invariant: all
threads load equally many elements, and no bank of shared memory twice at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.program import Affine, Reg, Type

L = TypeVar("L")
P = TypeVar("P")


class Operand(Protocol[L, P]):
    """Elements by line (or column) and product; each half of an index is shared."""

    def line(self, number: Affine) -> L:
        """What belongs to a line of the block."""

    def product(self, number: Affine) -> P:
        """What belongs to a product."""

    def load(self, line: L, product: P) -> Reg:
        """The element, or zero where there is none."""


@dataclass(frozen=True)
class Panel:
    """How the threads of a block bring ``depth`` products of some lines together.

    Neighbouring threads load neighbouring products of a line (``along_products``), or
    neighbouring lines' elements of a product, whichever lie side by side in memory.
    """

    lines: int
    depth: int
    threads: int
    warp: int
    along_products: bool

    @property
    def width(self) -> int:
        """Threads side by side."""
        return self.depth if self.along_products else self.threads // self.depth

    @property
    def at_once(self) -> int:
        """Lines of which the threads load an element at the same time."""
        return self.threads // self.depth

    @property
    def loads(self) -> int:
        """Elements that each thread loads in a step, all of one product."""
        return -(-self.lines // self.at_once)

    @property
    def stride(self) -> int:
        """Elements of shared memory between products.

        Where a warp stores several products of the same lines, theirs lie in
        different banks.
        """
        covered = -(-self.loads * self.at_once // self.warp) * self.warp
        lines = self.warp // self.depth if self.along_products else self.width
        return covered + lines % self.warp

    @property
    def size(self) -> int:
        return self.depth * self.stride


class PanelLoader(Generic[L, P]):
    """Emits the loads of one panel: into registers, and on to shared memory."""

    def __init__(
        self,
        builder: GridBuilder,
        type: Type,
        panel: Panel,
        name: str,
        operand: Operand[L, P],
        thread: Affine,
    ) -> None:
        self.b = builder
        self.type = type
        self.panel = panel
        self.operand = operand
        self.shared = builder.shared(f"{name}_panel", type.element, panel.size)
        self.next = builder.local(f"{name}_next", type.element, panel.loads)
        low = builder.remainder(thread, panel.width)
        high = builder.quotient(thread, panel.width)
        along = panel.along_products
        self.first_line, self.own_product = (high, low) if along else (low, high)

    def fetch(self, first: Affine) -> None:
        """Load the products from ``first`` on."""
        product = self.operand.product(first + self.own_product)

        def one(k: Affine) -> None:
            line = self.operand.line(self.first_line + k * self.panel.at_once)
            self.b.store(self.next, k, self.operand.load(line, product))

        self.b.loop("k", 0, self.panel.loads, 1, one)

    def share(self) -> None:
        """Store what was loaded last where all threads of the block see it."""
        first = self.own_product * self.panel.stride + self.first_line

        def one(k: Affine) -> None:
            value = self.b.load(self.next, k, self.type)
            self.b.store(self.shared, first + k * self.panel.at_once, value)

        self.b.loop("k", 0, self.panel.loads, 1, one)

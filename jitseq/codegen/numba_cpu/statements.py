"""Statements of generated kernels: what stands between a Program and its Python text.

Calls on packs and loops that carry packs. Invariant: packs and registers are assigned
once and compared by identity; `names.py` decides which of them share a name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jitseq.codegen.numba_cpu.dependences import Dependences
from jitseq.ir.program import Affine, Instr, Item, Loop, Pointer, Reg, Type


@dataclass(frozen=True, eq=False)
class Pack:
    """Vectors of one type with a name in common; compared by identity.

    ``op`` is what made them, or ``carry`` for what a loop carries.
    """

    type: Type
    size: int
    op: str


Place = tuple[Pack, int]
"""A register as a member of a pack."""


@dataclass(frozen=True, eq=False)
class Accumulation:
    """Steps of a register tile: elements of x, at i, times vectors of w, at j.

    ``rows`` and ``columns`` are elements from the first one of a step, which is
    ``x_steps`` and ``w_steps`` from that of the first step. Where x or w is ``pinned``,
    it is pinned at each step. ``vectors`` says that x holds vectors too, ``ahead`` how
    far in front of the weights they are prefetched.
    """

    x: Pointer
    i: Affine
    w: Pointer
    j: Affine
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    pinned: bool
    w_pinned: bool
    vectors: bool
    x_steps: tuple[int, ...] = (0,)
    w_steps: tuple[int, ...] = (0,)
    ahead: int | None = None

    def goes_on_with(self, other: Accumulation) -> bool:
        """Whether a step differs from these by constants only."""

        def same(a: Affine, b: Affine) -> bool:
            return frozenset(a.terms) == frozenset(b.terms)

        return (
            (self.x, self.pinned, self.rows) == (other.x, other.pinned, other.rows)
            and (self.w, self.w_pinned) == (other.w, other.w_pinned)
            and (self.columns, self.vectors) == (other.columns, other.vectors)
            and same(self.i, other.i)
            and same(self.j, other.j)
        )


@dataclass(frozen=True, eq=False)
class Statement:
    """One call, for all of ``instrs``.

    ``operands`` are the members that each vector argument consists of, by its position;
    ``splats`` are the loads of an ``outer_fma``, ``sum`` what an ``accumulate`` adds.
    """

    op: str
    instrs: tuple[Instr, ...]
    result: Pack | None
    operands: dict[int, tuple[Place, ...]]
    splats: tuple[Instr, ...] = ()
    sum: Accumulation | None = None


@dataclass(frozen=True, eq=False)
class Carried:
    """Some of the registers that a loop carries: a pack inside, and one behind it."""

    positions: tuple[int, ...]
    inside: Pack
    after: Pack


@dataclass(frozen=True, eq=False)
class LoopStatement:
    loop: Loop
    carried: tuple[Carried, ...]
    body: Body


Body = tuple[Statement | LoopStatement, ...]


@dataclass(frozen=True, eq=False)
class PackedKernel:
    """The body, the places of vectors, and equal indices by their first register."""

    constants: tuple[tuple[Pack, float], ...]
    body: Body
    places: dict[Reg, Place]
    same: dict[Reg, Reg]


@dataclass(frozen=True, eq=False)
class Registers:
    """What is known of a kernel's registers while its bodies are grouped, in order."""

    users: dict[Reg, list[Item]]
    places: dict[Reg, Place] = field(default_factory=dict)
    same: dict[Reg, Reg] = field(default_factory=dict)
    dependences: Dependences = field(default_factory=Dependences)

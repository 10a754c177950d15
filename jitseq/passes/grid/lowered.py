"""A kernel that a grid of threads runs, and what its buffers are bound to.

Enter a group of a `FusedGraph` and a `GridTarget`; kernels leave, each with the grid
that runs it. Invariants: every value lies in row-major order without gaps, an element
of an output is stored once, and what has no batch does not depend on how many threads
there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jitseq.ir.graph import Value
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.layout import Layout, element_count, row_major
from jitseq.ir.program import ELEMENT_BYTES, Affine, Kernel, Launch, Reg, Type
from jitseq.ir.target import GridTarget
from jitseq.ir.types import TensorType
from jitseq.passes.fusion_group import FusedGraph, Group, compute_of
from jitseq.passes.lower.group import flops, kernel_name
from jitseq.passes.lower.operands import ELEMENTS, Accesses, Operands, Source


@dataclass(frozen=True)
class GridKernel(Accesses):
    """A kernel, its grid, what its buffers are bound to, and its cost for one image.

    ``moved_bytes`` are those of values with a batch (of all values where there is
    none), ``param_bytes`` the others. ``count`` is the number of whatever else than
    images the kernel counts. It runs for ``least`` to ``most`` images only.
    """

    kernel: Kernel
    sources: tuple[Source, ...]
    launch: Launch
    flops: int
    moved_bytes: int
    param_bytes: int
    ops: tuple[str, ...]
    path: str
    count: int | None = None
    least: int = 1
    most: int | None = None

    @property
    def per_image(self) -> bool:
        return self.launch.per_image


class RowMajorLayouts(dict[Value, Layout]):
    """The layout of every value: logical order, computed when it is asked for."""

    def __missing__(self, value: Value) -> Layout:
        self[value] = row_major(value.type)
        return self[value]


class GridOperands(Operands):
    """The buffers of one kernel; static values are packed in their own order."""

    builder: GridBuilder

    def __init__(self, scope: Scope) -> None:
        fused = scope.fused
        super().__init__(GridBuilder(), scope.layouts, fused.static, fused.generated)

    def load(
        self,
        value: Value,
        index: Affine,
        type: Type,
        stride: int = 0,
        valid: int | None = None,
    ) -> Reg:
        """An element of a value, as ``type``; computed where it is random."""
        return self.load_where(None, value, index, type)

    def load_where(
        self, mask: Reg | None, value: Value, index: Affine, type: Type
    ) -> Reg:
        """An element where ``mask`` is true (or None), else zero.

        Random numbers are not masked.
        """
        buffer = self.read(value)
        if value in self.generated:
            return self.builder.uniform(buffer, index, type, 0)
        if mask is None:
            return self.builder.load(buffer, index, type)
        return self.builder.load_where(mask, buffer, index, type)


@dataclass(frozen=True)
class Scope:
    """What the lowering of every group of a program needs."""

    fused: FusedGraph
    target: GridTarget
    layouts: RowMajorLayouts = field(default_factory=RowMajorLayouts)

    def operands(self) -> GridOperands:
        """The builder and the buffers of a new kernel."""
        return GridOperands(self)

    def temporary(self, dtype: str, shape: Sequence[int], name: str = "parts") -> Value:
        """A value without a batch that one kernel of a group leaves for another."""
        return Value(TensorType(dtype, tuple(shape)), name)

    def launch(self, value: Value, per_thread: int | None = None) -> Launch:
        """A thread for each element of a value, or for each ``per_thread``."""
        threads = self.target.threads
        each = self.target.items if per_thread is None else per_thread
        items, batched = element_count(value.type), value.type.has_batch
        return Launch(threads, items, threads * each, batched)

    def finish(
        self,
        group: Group,
        operands: GridOperands,
        launch: Launch,
        suffix: str = "",
        count: int | None = None,
        images: tuple[int, int | None] = (1, None),
        cost: int | None = None,
    ) -> GridKernel:
        """The kernel under construction; its name says which ops it computes.

        Args:
            group: what it is a kernel of.
            operands: its builder and buffers.
            launch: the grid that runs it.
            suffix: what tells the kernels of one group apart.
            count: what the kernel's count is where it is not the images.
            images: the least and the most images for which it runs.
            cost: multiplications and additions where they are not the group's.
        """
        if cost is None:
            cost = flops(group, compute_of(group.anchor) if group.anchor else None)
        name = kernel_name(group.ops) + (f"_{suffix}" if suffix else "")
        moved, fixed = _bytes(operands.sources)
        return GridKernel(
            operands.builder.finish(name),
            tuple(operands.sources),
            launch,
            cost,
            moved,
            fixed,
            group.ops,
            group.path,
            count,
            *images,
        )


def _bytes(sources: Sequence[Source]) -> tuple[int, int]:
    """Of what has a batch, for one image; of everything else."""
    batched = fixed = 0
    for source in sources:
        type = source.value.type
        size = element_count(type) * ELEMENT_BYTES[ELEMENTS[type.dtype]]
        if type.has_batch:
            batched += size
        else:
            fixed += size
    return (batched, fixed) if batched else (fixed, 0)

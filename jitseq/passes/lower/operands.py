"""What a kernel reads and writes, and the pointwise expressions inside it.

`Operands` binds each buffer of a kernel to a value of the graph or to a packed
parameter. `Epilogue` evaluates a chain of pointwise nodes on registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jitseq.ir.compute import Pointwise
from jitseq.ir.graph import Node, Value
from jitseq.ir.kernel_builder import KernelBuilder, Vector, VectorScalars
from jitseq.ir.layout import Layout
from jitseq.ir.op import get_op
from jitseq.ir.packing import RAW
from jitseq.ir.packing import Pack as Pack
from jitseq.ir.program import Affine, Buffer, Kernel, Reg, Type, affine

ELEMENTS = {
    "float32": "f32", "float64": "f64",
    "int64": "i64", "int32": "i32", "uint32": "u32", "uint8": "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The value behind a buffer; ``pack`` is set for parameters."""

    value: Value
    pack: Pack | None = None


class Operands:
    """Creates each buffer of a kernel once.

    ``packed_values`` are read through a `Pack` always: what depends on parameters
    only, and the parameters that a training step changes. ``generated`` values are
    computed from their keys; their layout says by which index.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        layouts: Mapping[Value, Layout],
        packed_values: frozenset[Value],
        generated: Mapping[Value, Value] | None = None,
    ) -> None:
        self.builder = builder
        self.layouts = layouts
        self.packed_values = packed_values
        self.generated = generated or {}
        self.sources: list[Source] = []
        self._buffers: dict[Source, Buffer] = {}

    def read(self, value: Value) -> Buffer:
        value = self.generated.get(value, value)
        pack = RAW if value in self.packed_values else None
        return self._buffer(Source(value, pack), False)

    def load(
        self, value: Value, index: Affine, type: Type, stride: int, valid: int | None
    ) -> Reg:
        """Elements of a value, lanes ``stride`` apart; generated where it is random."""
        buffer = self.read(value)
        if value not in self.generated:
            return self.builder.gather(buffer, index, type, stride, valid)
        layout = self.layouts[value]
        if value.type.has_batch:
            index = index + affine(self.builder.first) * layout.stride(0)
        return self.builder.uniform(buffer, index, type, stride)

    def packed(self, value: Value, pack: Pack) -> Buffer:
        return self._buffer(Source(value, pack), False)

    def pack_into(self, value: Value, pack: Pack) -> Buffer:
        """Where the packed form of a value is written."""
        return self._buffer(Source(value, pack), True)

    def write(self, value: Value) -> Buffer:
        """The memory of a value; of a variable, for a change in place."""
        return self._buffer(Source(value), True)

    def _buffer(self, source: Source, written: bool) -> Buffer:
        if source not in self._buffers:
            element = ELEMENTS[source.value.type.dtype]
            name = f"{'out' if written else 'in'}{len(self.sources)}"
            self._buffers[source] = self.builder.buffer(name, element, written)
            self.sources.append(source)
        return self._buffers[source]


@dataclass(frozen=True)
class Position:
    """The element of lane 0 by logical index, and the dimension the lanes run along.

    ``valid`` lanes are inside of the tensor; None means all.
    """

    index: tuple[Affine, ...]
    vector_dim: int
    valid: int | None = None


def fetch(
    operands: Operands, value: Value, shape: Sequence[object], at: Position, type: Type
) -> Reg:
    """Load ``value``, broadcast to ``shape``, at a position of the output."""
    layout = operands.layouts[value]
    index = affine(layout.offset)
    lane_stride = 0
    shift = len(shape) - layout.ndim
    for dim, factors in enumerate(layout.dims):
        extent, stride = factors[0]
        out_dim = dim + shift
        if extent == 1:
            continue
        assert len(factors) == 1, "operands of a fused chain have simple layouts"
        index = index + at.index[out_dim] * stride
        if out_dim == at.vector_dim:
            lane_stride = stride
    return operands.load(value, index, type, lane_stride, at.valid)


class Epilogue:
    """A chain of pointwise nodes whose results stay in registers."""

    def __init__(self, builder: KernelBuilder, nodes: Sequence[Node]) -> None:
        self.builder = builder
        self.nodes = tuple(nodes)

    def apply(
        self,
        known: Mapping[Value, Reg],
        type: Type,
        fetch: Callable[[Value, Sequence[object]], Reg],
    ) -> Reg:
        """The chain's last result, given the registers that it starts from.

        ``fetch(value, shape)`` loads an operand, broadcast to a node's shape.
        """
        regs = dict(known)
        scalars = VectorScalars(self.builder, type)
        for node in self.nodes:
            shape = node.output.type.shape
            arguments = []
            for value in node.inputs:
                if value not in regs:
                    regs[value] = fetch(value, shape)
                arguments.append(Vector(scalars, regs[value]))
            compute = get_op(node.op).compute
            assert isinstance(compute, Pointwise), node.op
            result = compute.expr(scalars, *arguments, **node.attrs)
            regs[node.output] = scalars.vector(result).reg
        return regs[self.nodes[-1].output]


def apply_chain(
    operands: Operands, nodes: Sequence[Node], start: Value, reg: Reg, at: Position
) -> Reg:
    """The result of pointwise ``nodes`` at a position, where ``start`` is ``reg``."""
    if not nodes:
        return reg
    type = reg.type
    return Epilogue(operands.builder, nodes).apply(
        {start: reg},
        type,
        lambda value, shape: fetch(operands, value, shape, at, type),
    )


def store_at(operands: Operands, value: Value, reg: Reg, at: Position) -> None:
    """Write the element(s) of ``value`` at a position."""
    layout = operands.layouts[value]
    index = affine(layout.offset)
    for dim, position in enumerate(at.index):
        index = index + position * layout.stride(dim)
    operands.builder.store(operands.write(value), index, reg, at.valid)


class Accesses:
    """A kernel and the values behind its buffers, in order."""

    kernel: Kernel
    sources: tuple[Source, ...]

    @property
    def reads(self) -> tuple[Source, ...]:
        pairs = zip(self.kernel.buffers, self.sources, strict=True)
        return tuple(source for buffer, source in pairs if not buffer.written)

    @property
    def writes(self) -> tuple[Source, ...]:
        pairs = zip(self.kernel.buffers, self.sources, strict=True)
        return tuple(source for buffer, source in pairs if buffer.written)


@dataclass(frozen=True)
class Lowered(Accesses):
    """A kernel, what its buffers are bound to, and its cost for one image.

    ``flops`` counts multiplications and additions of the operation as written;
    ``moved_bytes`` activations read and written; ``param_bytes`` what is read or
    added to that has no batch, once a block. A kernel that is not ``per_image`` runs
    once; one that ``accumulates`` adds to its outputs. ``count`` is the number of
    whatever else than images it loops over.
    """

    kernel: Kernel
    sources: tuple[Source, ...]
    flops: int
    moved_bytes: int
    param_bytes: int
    ops: tuple[str, ...]
    path: str
    per_image: bool
    accumulates: bool
    count: int | None = None

"""A parameter in row-major order → the buffer that a kernel reads.

Enters the two buffers of a kernel under construction and the `Pack`; leaves one copy
for each of its pieces, with register transposes where the parameter and the packed
buffer are contiguous along different axes. Nothing outside of the parameter is read.
Padding is not written: the packed buffer must start as zeros.
"""

from __future__ import annotations

from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.packing import Pack, pack_pieces
from jitseq.ir.program import Buffer
from jitseq.ir.target import Target
from jitseq.passes.lower.nest import View, emit_copy


def lower_pack(
    builder: KernelBuilder,
    pack: Pack,
    shape: tuple[int, ...],
    source: Buffer,
    out: Buffer,
    target: Target,
) -> None:
    """Copy a parameter of ``shape`` from ``source`` to ``out``.

    ``out`` holds `ir.packing.packed_size` elements of the same type.
    """
    lanes = target.lanes(out.element)
    for piece in pack_pieces(pack, shape):
        reading = tuple(((extent, stride),) for extent, stride, _ in piece.dims)
        writing = tuple(((extent, stride),) for extent, _, stride in piece.dims)
        emit_copy(
            builder,
            View(out, piece.packed_offset, writing),
            View(source, piece.source_offset, reading),
            lanes,
        )

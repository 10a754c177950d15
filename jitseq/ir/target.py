"""The processor that code is scheduled for, as plain numbers.

Every scheduling choice reads a `Target`; AVX-512, AVX2 and NEON are values of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitseq.ir.program import ELEMENT_BYTES


@dataclass(frozen=True)
class Target:
    """Vector width and register count of one instruction set, and cache sizes.

    ``cpu`` and ``features`` are LLVM's names; sizes are in bytes. ``fma_latency`` is
    in cycles, ``fma_per_cycle`` counts vector instructions.
    """

    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fma_latency: int = 4
    fma_per_cycle: int = 2
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20

    def lanes(self, element: str) -> int:
        """Elements of one vector register."""
        return self.vector_bytes // ELEMENT_BYTES[element]

    @property
    def key(self) -> str:
        """Text that tells targets apart, for cache keys."""
        sizes = (self.vector_bytes, self.registers, self.l1_bytes, self.l2_bytes)
        return f"{self.cpu};{self.features};{sizes}"


@dataclass(frozen=True)
class GridTarget:
    """The graphics processor that grids are scheduled for, as plain numbers.

    Blocks of a kernel have ``threads``, a multiple of ``warp``. ``items`` is what one
    thread of an elementwise kernel computes. A block of a contraction computes a tile
    of ``tile`` (pixels, channels) in steps of ``depth`` products, each of its threads
    ``thread_tile`` of it. ``splits`` is the most parts into which a sum over the whole
    batch is cut.
    """

    warp: int = 32
    threads: int = 256
    items: int = 1
    tile: tuple[int, int] = (128, 64)
    thread_tile: tuple[int, int] = (8, 4)
    depth: int = 8
    splits: int = 64
    shared_bytes: int = 48 << 10

    @property
    def key(self) -> str:
        """Text that tells targets apart, for cache keys."""
        return repr(self)

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

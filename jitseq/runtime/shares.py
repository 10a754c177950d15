"""How the threads of a call share its images.

The manifest of a program, a batch size and a number of threads enter; the images of a
share of each segment leave, and the work that several threads then draw shares of.
"""

from __future__ import annotations

import numpy as np

from jitseq.runtime.executable import Executable, Manifest

THREADING_FLOPS = 20_000_000
"""Work below which a second thread costs more than it brings (about 0.1 ms)."""

LINGER_ROUNDS = 1_000_000
"""How often (about 0.3 ms) a thread looks for its next task before it sleeps: a
processor that had halted runs the first 0.4 ms at half speed on virtual machines."""

SHARES_A_THREAD = 8
"""Shares of the batch for each thread: a late thread takes fewer of them."""

SHARES_WITH_SUMS = 4
SMALL_SUMS = 1 << 20
"""The same where each share has sums of its own to zero and to add, of that many
bytes; one share a thread where they are larger."""


def work_of_one_thread(manifest: Manifest) -> int:
    """Images up to which a second thread would not help."""
    return max(1, THREADING_FLOPS // max(manifest.flops, 1))


def shares_of_call(
    manifest: Manifest, n: int, threads: int
) -> tuple[list[int] | None, int]:
    """Images of a share of each segment, for threads; how many shares have sums."""
    if threads == 1 or manifest.flops * n < THREADING_FLOPS:
        return None, 1
    rounds = 1 if manifest.sums_bytes else SHARES_A_THREAD
    if 0 < manifest.sums_bytes <= SMALL_SUMS:
        rounds = SHARES_WITH_SUMS
    grains = [
        share_of_batch(n, threads, block, least, rounds) if batched else 1
        for block, least, batched in zip(
            manifest.blocks, manifest.least_blocks, manifest.batched, strict=True
        )
    ]
    batched = [g for g, b in zip(grains, manifest.batched, strict=True) if b]
    most = -(-n // min(batched, default=n))
    return grains, most if manifest.sums_bytes else 1


def share_of_batch(
    n: int, threads: int, block: int, least: int, most: int = SHARES_A_THREAD
) -> int:
    """Images that a thread draws at a time.

    The same number of shares for each thread, ``most`` at most; more of them even out
    delays, but each has the images that hide the reading of weights, and whole blocks
    where it exceeds one.
    """
    rounds = max(1, min(most, n // (threads * least)))
    share = -(-n // (threads * rounds))
    return share if share < block else -(-share // block) * block


class SharedWork:
    """One call's work for several threads; owns what they read and write.

    An interrupt can end the call while another thread still computes: that thread's
    reference to this object keeps all of it alive. Scratch memory is free again as
    soon as any participant returns: then all images are done, and others look at the
    counters only.
    """

    def __init__(
        self,
        code: Executable,
        context: np.ndarray,
        memory: object,
        counters: np.ndarray,
        n: int,
    ) -> None:
        self.code = code
        self._owned = context, memory, counters
        self._places = context.ctypes.data, counters.ctypes.data
        self._n = n

    def run(self, arena: np.ndarray) -> None:
        context, counters = self._places
        self.code.work(context, arena.ctypes.data, counters, self._n)

    def post(self, slot: int, arena: np.ndarray) -> bool:
        """Hand the work to a thread that lingers at ``slot``; whether it took it."""
        context, counters = self._places
        work = self.code.work_address
        places = (work, context, arena.ctypes.data, counters)
        return bool(self.code.post(slot, *places, self._n))

    def linger(self, slot: int) -> None:
        self.code.linger(slot, LINGER_ROUNDS)

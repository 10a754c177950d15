"""Segments: runs of kernels executed for one block of images before the next.

A phase of kernels on images is one segment or several, any other phase is one.

Intermediates of a block stay in the L2 cache, so blocks should be small; weights that
do not fit into it are read again for every block, so blocks should be large. A
segment ends where no block size suits both its kernels and the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jitseq.ir.target import Target
from jitseq.passes.lower.operands import Lowered
from jitseq.passes.phases import Phase

LARGEST_BLOCK = 96
"""Images a block at most: arena memory grows with it, speed does not."""

IMAGES_OF_A_TILE = 8
"""Linear layers compute 24, 8 or one image at a time: a block of 6 images would take
six times as long as one of 8."""

FLOPS_PER_WEIGHT_BYTE = 43
"""Work that hides one byte of weights from L3: four times 254 GFLOP/s over 95 GB/s,
four again so that streaming costs a few percent (measured on Zen 5)."""


@dataclass(frozen=True)
class Range:
    """Block sizes that suit a kernel."""

    least: int
    most: int

    def stretch(self, start: int, stop: int) -> Stretch:
        """Kernels in the largest block that suits them, in whole tiles of images."""
        block = self.most
        if block >= IMAGES_OF_A_TILE * 3 // 4:
            block = max(1, block // IMAGES_OF_A_TILE) * IMAGES_OF_A_TILE
        return Stretch(start, stop, block, self.least)


@dataclass(frozen=True)
class Stretch:
    """Kernels ``start:stop`` and their block size.

    From ``least`` images at a time, reading weights is hidden behind the work. A
    stretch that is not ``batched`` runs once.
    """

    start: int
    stop: int
    block: int
    least: int
    batched: bool = True


def stretches(
    kernels: Sequence[Lowered],
    phases: Sequence[Phase],
    target: Target,
    enabled: bool = True,
) -> tuple[Stretch, ...]:
    """The stretches of all phases; ``kernels`` are in the order of the phases.

    Between two phases of images is an empty stretch that runs once: there the sums of
    all shares are added.
    """
    found: list[Stretch] = []
    start = 0
    for phase in phases:
        stop = start + len(phase.kernels)
        if phase.batched:
            if found and found[-1].batched:
                found.append(Stretch(start, start, 1, 1, batched=False))
            inside = segments(kernels[start:stop], target, enabled)
            found += [
                replace(s, start=s.start + start, stop=s.stop + start) for s in inside
            ]
        else:
            found.append(Stretch(start, stop, 1, 1, batched=False))
        start = stop
    return tuple(found)


def segments(
    kernels: Sequence[Lowered], target: Target, enabled: bool = True
) -> tuple[Stretch, ...]:
    """Split kernels on images, in order, into segments with a block size each."""
    if not enabled:
        return (Stretch(0, len(kernels), 1, 1),) if kernels else ()
    found: list[Stretch] = []
    start = 0
    open_range = Range(1, LARGEST_BLOCK)
    for index, kernel in enumerate(kernels):
        suits = block_range(kernel, target)
        least = max(open_range.least, suits.least)
        most = min(open_range.most, suits.most)
        if least > most and index > start:
            found.append(open_range.stretch(start, index))
            start, least, most = index, suits.least, suits.most
        open_range = Range(least, max(least, most))
    if kernels:
        found.append(open_range.stretch(start, len(kernels)))
    return tuple(found)


def block_range(kernel: Lowered, target: Target) -> Range:
    """The block sizes between streaming weights and overflowing the cache."""
    most = max(1, target.l2_bytes // 2 // max(kernel.moved_bytes, 1))
    least = 1
    if kernel.param_bytes > target.l2_bytes // 2:
        work = max(kernel.flops, 1)
        least = math.ceil(FLOPS_PER_WEIGHT_BYTE * kernel.param_bytes / work)
    least = min(least, LARGEST_BLOCK)
    return Range(least, max(least, min(most, LARGEST_BLOCK)))

"""What `Compiled.explain` and `Compiled.profile` return: data that prints as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jitseq.passes.fusion_group import FusedGraph, Refusal
from jitseq.runtime.executable import KernelInfo

COLUMNS = 100


@dataclass(frozen=True)
class Report:
    """How a program was compiled.

    ``kernels`` in execution order, ``not_fused`` the pairs that stay apart and why,
    ``arena_bytes`` scratch memory a thread, ``compile_seconds`` from graph to code,
    ``origin`` "compiled" or "disk"; ``notes`` says where anything runs eagerly or
    with a fixed batch size. On backend "cuda" scratch memory is for each image, and a
    kernel's block is its threads.
    """

    kernels: tuple[KernelInfo, ...]
    not_fused: tuple[Refusal, ...]
    arena_bytes: int
    compile_seconds: float
    origin: str
    target: str
    notes: tuple[str, ...]
    backend: str = "cpu"
    fused: FusedGraph | None = field(default=None, repr=False, compare=False)
    """What was compiled, for drawings."""

    def __str__(self) -> str:
        lines = [f"{'kernel':<40}{'MFLOP':>10}{'KB':>10}{'weights KB':>12}{'block':>7}"]
        for kernel in self.kernels:
            name = " + ".join(kernel.ops)
            numbers = (
                f"{kernel.flops / 1e6:>10.3f}{kernel.bytes / 1e3:>10.1f}"
                f"{kernel.param_bytes / 1e3:>12.1f}{kernel.block:>7}"
            )
            lines.append(
                f"{_cut(name, 39):<40}{numbers}  {_cut(kernel.path, 19)}".rstrip()
            )
        if self.not_fused:
            lines += ["", "not fused"]
            lines += [_cut(f"  {refusal}", COLUMNS) for refusal in self.not_fused]
        for line in (self.summary(), *(f"note: {note}" for note in self.notes)):
            lines += ["", *textwrap.wrap(line, COLUMNS)]
        return "\n".join(lines)

    __repr__ = __str__

    @property
    def scratch_of(self) -> str:
        """What has ``arena_bytes`` of scratch memory."""
        return "an image" if self.backend == "cuda" else "a thread"

    def summary(self) -> str:
        """Counts, memory, and how the code came to be, in words."""
        segments = len({kernel.segment for kernel in self.kernels})
        return (
            f"{len(self.kernels)} kernels in {segments} segments, "
            f"{self.arena_bytes / 1e3:.1f} KB of scratch {self.scratch_of}; "
            f"{self.origin} in {self.compile_seconds:.3f} s "
            f"by backend {self.backend!r} for {self.target}"
        )

    def _repr_html_(self) -> str:
        from jitseq.display.report_view import report_html

        return report_html(self)

    def to_svg(
        self, path: str | Path | None = None, profile: Profile | None = None
    ) -> str:
        """The fused groups as a picture, also written to ``path``.

        Bars are shares of the operations, or of the time in a ``profile`` of the same
        program. Raises `JitseqError` for a profile of another one.
        """
        from jitseq.display.report_view import picture

        text = picture(self, profile).svg(standalone=True)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text


@dataclass(frozen=True)
class KernelTime:
    """One kernel's measured time for one call, in seconds, beside its work."""

    name: str
    ops: tuple[str, ...]
    path: str
    seconds: float
    flops: int
    bytes: int

    @property
    def gflops(self) -> float:
        """Floating-point operations a nanosecond."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """Bytes moved a nanosecond, parameters included."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(frozen=True)
class Peaks:
    """What one core of this machine reaches.

    ``gflops`` of a loop of independent float32 FMAs; ``cache_gbytes`` reading 16 MB
    again and again, ``memory_gbytes`` reading 160 MB, each the best of seven.
    """

    gflops: float
    cache_gbytes: float
    memory_gbytes: float


@dataclass(frozen=True)
class Profile:
    """Kernels in execution order, and what this machine could do at best."""

    kernels: tuple[KernelTime, ...]
    peaks: Peaks
    machine: str = "one core"

    def __str__(self) -> str:
        from jitseq.display.figures import character_bar

        head = f"{'kernel':<31}{'µs':>10}{'share':>7} {'':<11}{'GFLOP/s':>9}"
        lines = [head + f"{'of peak':>8}{'GB/s':>7}"]
        longest = max(self.shares, default=1.0) or 1.0
        for kernel, part in zip(self.kernels, self.shares, strict=True):
            share = kernel.gflops / self.peaks.gflops
            lines.append(
                f"{_cut(' + '.join(kernel.ops), 30):<31}{kernel.seconds * 1e6:>10.2f}"
                f"{part:>7.1%} {character_bar(part / longest, 11)}"
                f"{kernel.gflops:>9.1f}{share:>8.1%}{kernel.gbytes:>7.1f}"
                f"  {_cut(kernel.path, 14)}".rstrip()
            )
        return "\n".join([*lines, self.summary()])

    __repr__ = __str__

    @property
    def shares(self) -> list[float]:
        """Each kernel's part of the time of all."""
        total = sum(kernel.seconds for kernel in self.kernels) or 1.0
        return [kernel.seconds / total for kernel in self.kernels]

    def summary(self) -> str:
        """The time of all kernels, and the peaks, in words."""
        total = sum(kernel.seconds for kernel in self.kernels)
        return (
            f"total {total * 1e6:.1f} µs; {self.machine}: "
            f"{self.peaks.gflops:.0f} GFLOP/s, "
            f"{self.peaks.cache_gbytes:.0f} GB/s from cache, "
            f"{self.peaks.memory_gbytes:.0f} GB/s from memory"
        )

    def _repr_html_(self) -> str:
        from jitseq.display.profile_view import profile_html

        return profile_html(self)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def kernel_times(
    infos: Sequence[KernelInfo], seconds: Sequence[float], images: int
) -> tuple[KernelTime, ...]:
    """Join measured seconds a call with each kernel's work for ``images``."""
    times = []
    for info, spent in zip(infos, seconds, strict=True):
        count = images if info.per_image else 1
        blocks = -(-count // info.block)
        moved = info.bytes * count + info.param_bytes * blocks
        times.append(
            KernelTime(info.name, info.ops, info.path, spent, info.flops * count, moved)
        )
    return tuple(times)

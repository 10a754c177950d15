"""What `Compiled.explain` and `Compiled.profile` return: data that prints as text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from jitseq.passes.fusion_group import Refusal
from jitseq.runtime.executable import KernelInfo

COLUMNS = 100


@dataclass(frozen=True)
class Report:
    """How a program was compiled.

    ``kernels`` in execution order, ``not_fused`` the pairs that stay apart and why,
    ``arena_bytes`` scratch memory a thread, ``compile_seconds`` from graph to code,
    ``origin`` "compiled" or "disk"; ``notes`` says where anything runs eagerly or
    with a fixed batch size.
    """

    kernels: tuple[KernelInfo, ...]
    not_fused: tuple[Refusal, ...]
    arena_bytes: int
    compile_seconds: float
    origin: str
    target: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{'kernel':<48}{'MFLOP':>10}{'KB':>10}{'weights KB':>12}{'block':>7}"]
        for kernel in self.kernels:
            name = " + ".join(kernel.ops)
            numbers = (
                f"{kernel.flops / 1e6:>10.3f}{kernel.bytes / 1e3:>10.1f}"
                f"{kernel.param_bytes / 1e3:>12.1f}{kernel.block:>7}"
            )
            lines.append(
                f"{_cut(name, 47):<48}{numbers}  {_cut(kernel.path, 20)}".rstrip()
            )
        if self.not_fused:
            lines += ["", "not fused"]
            lines += [_cut(f"  {refusal}", COLUMNS) for refusal in self.not_fused]
        lines += ["", self._summary(), *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def _summary(self) -> str:
        segments = len({kernel.segment for kernel in self.kernels})
        return (
            f"{len(self.kernels)} kernels in {segments} segments, "
            f"{self.arena_bytes / 1e3:.1f} KB of scratch a thread; {self.origin} in "
            f"{self.compile_seconds:.3f} s for {self.target}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


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

    def __str__(self) -> str:
        total = sum(kernel.seconds for kernel in self.kernels) or 1.0
        head = f"{'kernel':<44}{'µs':>10}{'share':>7}{'GFLOP/s':>9}"
        head += f"{'of peak':>8}{'GB/s':>7}"
        lines = [head]
        for kernel in self.kernels:
            share = kernel.gflops / self.peaks.gflops
            lines.append(
                f"{_cut(' + '.join(kernel.ops), 43):<44}{kernel.seconds * 1e6:>10.2f}"
                f"{kernel.seconds / total:>7.1%}{kernel.gflops:>9.1f}{share:>8.1%}"
                f"{kernel.gbytes:>7.1f}  {_cut(kernel.path, 14)}".rstrip()
            )
        lines.append(
            f"total {total * 1e6:.1f} µs; one core: {self.peaks.gflops:.0f} GFLOP/s, "
            f"{self.peaks.cache_gbytes:.0f} GB/s from cache, "
            f"{self.peaks.memory_gbytes:.0f} GB/s from memory"
        )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


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

"""Kernel times on a GPU beside its roofline.

A `Profile` of the cuda backend enters; a table leaves. Invariant: the peaks are those
that the device's clocks and widths give, as the driver reports them, not measured ones;
of float32 without tensor cores, which jitseq does not use.
"""

from __future__ import annotations

from jitseq.runtime.report import KernelTime, Peaks, Profile

HEADER = (
    f"{'kernel':<40}{'µs':>10}{'share':>7}{'GFLOP/s':>9}{'of peak':>8}"
    f"{'GB/s':>8}{'of peak':>8}{'roofline':>9}"
)


def least_seconds(kernel: KernelTime, peaks: Peaks) -> float:
    """The roofline: what the work takes where one of the two peaks is reached.

    Williams, Waterman, Patterson (2009). A kernel whose bytes are in the L2 cache can
    be faster than that.
    """
    at_peak = kernel.flops / peaks.gflops, kernel.bytes / peaks.memory_gbytes
    return max(at_peak) / 1e9


def profile_text(profile: Profile) -> str:
    """One line a kernel; ``roofline`` is the least possible time over the measured.

    Kernels that have not run, those for other batch sizes, have no line.
    """
    peaks = profile.peaks
    kernels = [kernel for kernel in profile.kernels if kernel.seconds > 0]
    total = sum(kernel.seconds for kernel in kernels)
    least = sum(least_seconds(kernel, peaks) for kernel in kernels)
    lines = [_line(kernel, total, peaks) for kernel in kernels]
    roofline = f"{peaks.gflops / 1e3:.1f} TFLOP/s and {peaks.memory_gbytes:,.0f} GB/s"
    share = _share(least, total) if kernels else "nothing"
    last = f"total {total * 1e6:.2f} µs, {share} of the roofline of {roofline}"
    return "\n".join([HEADER, *lines, last])


def _line(kernel: KernelTime, total: float, peaks: Peaks) -> str:
    name = " + ".join(kernel.ops)
    name = name if len(name) < 40 else f"{name[:38]}…"
    seconds = kernel.seconds
    return (
        f"{name:<40}{seconds * 1e6:>10.2f}{_share(seconds, total):>7}"
        f"{kernel.gflops:>9.0f}{_share(kernel.gflops, peaks.gflops):>8}"
        f"{kernel.gbytes:>8.0f}{_share(kernel.gbytes, peaks.memory_gbytes):>8}"
        f"{_share(least_seconds(kernel, peaks), seconds):>9}  {kernel.path}"
    ).rstrip()


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}"

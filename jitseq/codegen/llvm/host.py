"""Targets known by name, and the one that this machine is.

Enters ``JITSEQ_TARGET`` or nothing; leaves a `Target`. The vector width follows from
the features that LLVM reports or that the named x86-64 level implies.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from jitseq.config import setting
from jitseq.errors import JitseqError
from jitseq.ir.target import Target

LEVELS = {
    "x86-64": Target("x86-64", "", 16, 16),
    "x86-64-v2": Target("x86-64-v2", "", 16, 16),
    "x86-64-v3": Target("x86-64-v3", "", 32, 16),
    "x86-64-v4": Target("x86-64-v4", "", 64, 32),
}


def selected_target() -> Target:
    """The target that ``JITSEQ_TARGET`` names, else this machine's."""
    name = setting("JITSEQ_TARGET")
    if not name or name == "native":
        return host_target()
    if name not in LEVELS:
        raise JitseqError(
            f"JITSEQ_TARGET={name} is not a known target",
            hint=f"one of native, {', '.join(LEVELS)}",
        )
    return LEVELS[name]


@cache
def host_target() -> Target:
    """This machine, with vector width, registers and cache sizes."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    flat = features.flatten()
    if features.get("avx512f") and features.get("avx512vl"):
        vector_bytes, registers = 64, 32
    elif features.get("avx2") and features.get("fma"):
        vector_bytes, registers = 32, 16
    elif features.get("neon"):
        vector_bytes, registers = 16, 32
    else:
        vector_bytes, registers = 16, 16
    return Target(
        llvm.get_host_cpu_name(),
        flat,
        vector_bytes,
        registers,
        l1_bytes=_cache_bytes(1, 32 << 10),
        l2_bytes=_cache_bytes(2, 1 << 20),
    )


def _cache_bytes(level: int, default: int) -> int:
    """The size of the data cache of ``level``, as Linux reports it."""
    root = Path("/sys/devices/system/cpu/cpu0/cache")
    try:
        for entry in sorted(os.listdir(root)):
            folder = root / entry
            if not entry.startswith("index"):
                continue
            if (folder / "type").read_text().strip() == "Instruction":
                continue
            if int((folder / "level").read_text()) == level:
                return int((folder / "size").read_text().strip().rstrip("K")) << 10
    except (OSError, ValueError):
        pass
    return default

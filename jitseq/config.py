"""Every environment variable that jitseq reads, in one table.

Each is read when it is used, so that tests and notebooks can change it at run time.
"""

from __future__ import annotations

import os

VARIABLES = {
    "JITSEQ_BACKEND": "default backend: cpu, numba, cuda or eager",
    "JITSEQ_NUM_THREADS": "threads a compiled program may use (default: all cores)",
    "JITSEQ_CACHE_DIR": "directory of compiled programs (default: the user's cache)",
    "JITSEQ_DISABLE": "1 runs every compiled callable eagerly",
    "JITSEQ_CUDA_GRAPHS": "0 launches every kernel on its own on backend cuda",
    "JITSEQ_TARGET": "compile for another processor, for example x86-64-v3",
    "JITSEQ_LOG": "comma list of trace, passes, codegen, cache, recompiles",
}


def setting(name: str, default: str = "") -> str:
    """The value of one of `VARIABLES`, stripped; ``default`` when unset or empty."""
    assert name in VARIABLES, name
    return os.environ.get(name, "").strip() or default


def logs(topic: str) -> bool:
    """Whether ``JITSEQ_LOG`` asks for ``topic``."""
    return topic in [part.strip() for part in setting("JITSEQ_LOG").split(",")]

"""jitseq: compile Sequential models to fused native kernels, without a C++ compiler."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jitseq import nn
from jitseq.errors import (
    DeviceError,
    DtypeError,
    JitseqError,
    ShapeError,
    TraceError,
    UnsupportedError,
)
from jitseq.nn.elementwise import elementwise
from jitseq.nn.init import manual_seed

if TYPE_CHECKING:
    from jitseq import datasets, optim
    from jitseq.api import fit, jit, summary, trace, train_step, value_and_grad, vjp
    from jitseq.comparisons import benchmark, diff
    from jitseq.runtime.compiled import Compiled
    from jitseq.runtime.history import History
    from jitseq.runtime.threads import get_num_threads, set_num_threads
    from jitseq.runtime.training import TrainStep

__version__ = "0.1.0"

__all__ = [
    "Compiled",
    "DeviceError",
    "DtypeError",
    "History",
    "JitseqError",
    "ShapeError",
    "TraceError",
    "TrainStep",
    "UnsupportedError",
    "benchmark",
    "datasets",
    "diff",
    "elementwise",
    "fit",
    "get_num_threads",
    "jit",
    "manual_seed",
    "nn",
    "optim",
    "set_num_threads",
    "summary",
    "trace",
    "train_step",
    "value_and_grad",
    "vjp",
]

_LAZY = {
    "Compiled": "jitseq.runtime.compiled",
    "History": "jitseq.runtime.history",
    "TrainStep": "jitseq.runtime.training",
    "benchmark": "jitseq.comparisons",
    "diff": "jitseq.comparisons",
    "fit": "jitseq.api",
    "jit": "jitseq.api",
    "summary": "jitseq.api",
    "trace": "jitseq.api",
    "train_step": "jitseq.api",
    "value_and_grad": "jitseq.api",
    "vjp": "jitseq.api",
    "get_num_threads": "jitseq.runtime.threads",
    "set_num_threads": "jitseq.runtime.threads",
}


def __getattr__(name: str) -> Any:
    """The compiler is imported when it is first used."""
    if name in ("datasets", "optim"):
        return importlib.import_module(f"jitseq.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'jitseq' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value

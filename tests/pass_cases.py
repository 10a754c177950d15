"""What tests of passes share: targets that are the same everywhere, and tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jitseq as js
from jitseq.ir.graph import Graph
from jitseq.ir.target import Target
from jitseq.ir.trace import trace
from jitseq.ir.types import TensorType
from jitseq.nn import Module

AVX512 = Target("x86-64-v4", "", 64, 32)
AVX2 = Target("x86-64-v3", "", 32, 16)
NARROW = Target("narrow", "", 8, 8)
TARGETS = (AVX512, AVX2, NARROW)


def traced(
    target: Callable[..., Any], *shapes: Sequence[int], dtype: str = "float32"
) -> Graph:
    """The graph of a function or module; modules are put into eval mode."""
    js.manual_seed(0)
    if isinstance(target, Module):
        target.eval()
    return trace(target, [TensorType(dtype, tuple(shape)) for shape in shapes]).graph

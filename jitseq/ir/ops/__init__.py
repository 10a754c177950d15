"""The primitives, one file per family; importing this package registers them all."""

from jitseq.ir.ops import (
    activation,
    adaptive_pool,
    arithmetic,
    conv,
    conv_transpose,
    copy,
    linear,
    movement,
    norm,
    pool,
    reduction,
)

__all__ = [
    "activation",
    "adaptive_pool",
    "arithmetic",
    "conv",
    "conv_transpose",
    "copy",
    "linear",
    "movement",
    "norm",
    "pool",
    "reduction",
]

"""The primitives, one file per family; importing this package registers them all."""

from jitseq.ir.ops import (
    activation,
    adaptive_pool,
    arithmetic,
    conv,
    conv_grad,
    conv_transpose,
    copy,
    labels,
    linear,
    movement,
    norm,
    pad,
    pool,
    random,
    reduction,
    update,
)

__all__ = [
    "activation",
    "adaptive_pool",
    "arithmetic",
    "conv",
    "conv_grad",
    "conv_transpose",
    "copy",
    "labels",
    "linear",
    "movement",
    "norm",
    "pad",
    "pool",
    "random",
    "reduction",
    "update",
]

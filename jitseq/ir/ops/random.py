"""Random numbers from a key, and dropout.

random_uniform  u[i] = 24 bits of a hash of (key, i), over 2**24: in [0, 1), i the
                row-major index with the batch; constant to the gradient
dropout         y = x · s with s = 0 where u < p, else 1 / (1 - p); dx = g · s

Srivastava et al. 2014, Dropout. As in PyTorch, dropped elements are multiplied by 0:
NaN and infinities become NaN. Invariant: ``p`` is compared as a multiple of 2**-24,
so that float32 and float64 drop the same elements.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jitseq.errors import DtypeError, ShapeError
from jitseq.ir.compute import Pointwise, Uniform
from jitseq.ir.graph import Node
from jitseq.ir.op import Cotangents, Emit, Example, Op, register
from jitseq.ir.ops.checks import require_same_dim
from jitseq.ir.ops.pointwise import evaluate
from jitseq.ir.random import RANDOM_BITS, uniform
from jitseq.ir.types import TensorType, require_float


def infer_random_uniform(key: TensorType, like: TensorType) -> TensorType:
    """``key`` uint32 ``[2]``; ``like`` gives dtype and shape, it is not read."""
    require_float(like, op="random_uniform")
    if key.dtype != "uint32":
        raise DtypeError(
            f"random_uniform: a key is uint32, got {key.dtype}", facts={"key": key}
        )
    if key.shape != (2,):
        raise ShapeError("random_uniform: a key has shape [2]", facts={"key": key})
    return like


def random_uniform(key: np.ndarray, like: np.ndarray) -> np.ndarray:
    return uniform(key, like.shape, like.dtype)


def infer_dropout(x: TensorType, u: TensorType, *, p: float) -> TensorType:
    """``x`` and ``u`` of one type, ``0 <= p <= 1``."""
    require_float(x, u, op="dropout")
    facts: dict[str, object] = {"input": x, "random numbers": u}
    if x.ndim != u.ndim:
        raise ShapeError("dropout: one random number for each element", facts=facts)
    for extent, other in zip(x.shape, u.shape):
        require_same_dim("dropout", extent, other, facts)
    if not 0 <= p <= 1:
        raise ShapeError(f"dropout: p is a probability, got {p}", facts=facts)
    return x


def dropout(m: Any, x: Any, u: Any, *, p: float) -> Any:
    """``p`` is a number of the program: threshold and scale are constants."""
    threshold = math.ceil(p * 2**RANDOM_BITS) / 2**RANDOM_BITS
    scale = 1 / (1 - p) if p < 1 else 0.0
    return m.where(m.lt(u, threshold), x * 0.0, x * scale)


def _dropout_vjp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    return emit("dropout", cotangents[0], node.inputs[1], **node.attrs), None


register(
    Op(
        "random_uniform",
        infer_random_uniform,
        random_uniform,
        lambda types, attrs: Uniform(),
        examples=(
            Example(((2,), (2, 3, 5, 7)), below={0: 2**32}),
            Example(((2,), (33,)), below={0: 2**32}),
        ),
        vjp=lambda emit, node, cotangents: (None, None),
    )
)
register(
    Op(
        "dropout",
        infer_dropout,
        evaluate(dropout),
        Pointwise(dropout),
        examples=(
            Example(((2, 3, 5, 7),) * 2, {"p": 0.5}, -1.0, 1.0),
            Example(((4, 33),) * 2, {"p": 0.1}, 0.0, 1.0),
            Example(((6, 5),) * 2, {"p": 1.0}, 0.0, 1.0),
        ),
        vjp=_dropout_vjp,
    )
)

"""Every op of layers with each of its examples, and seeded inputs for them.

`CASES` are the ops of one result. `UPDATES`, which change variables in place, have
several results and are known to the optimizers too.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import jitseq.ir.ops  # noqa: F401  (registers every family)
from jitseq.ir.compute import Update
from jitseq.ir.op import REGISTRY, Example, Op
from jitseq.ir.types import BATCH, TensorType

LOWERED = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if not op.derived
    for index, example in enumerate(op.examples)
]
UPDATES = [case for case in LOWERED if isinstance(case.values[0].compute, Update)]
CASES = [case for case in LOWERED if case not in UPDATES]
CONTRACTIONS = ("conv2d", "conv_transpose2d", "linear")


def inputs_of(op: Op, example: Example, dtype: str = "float64") -> list[np.ndarray]:
    """Normal numbers, or uniform ones between the example's bounds."""
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    arrays = []
    for position, shape in enumerate(example.shapes):
        if position in example.below:
            bound, kind = example.below[position], index_dtype(example, position)
            arrays.append(rng.integers(bound, size=shape, dtype=kind))
            continue
        if example.low is None:
            array = rng.normal(size=shape)
        else:
            array = rng.uniform(example.low, example.high, shape)
        arrays.append(np.asarray(array, dtype))
    return arrays


def index_dtype(example: Example, position: int) -> str:
    """Of an input that is a number below a bound."""
    return "uint8" if example.below[position] <= 256 else "uint32"


def types_of(example: Example, dtype: str = "float32") -> list[TensorType]:
    return [
        TensorType(index_dtype(example, i) if i in example.below else dtype, shape)
        for i, shape in enumerate(example.shapes)
    ]


def batched(op: Op, example: Example, extent: object) -> list[TensorType] | None:
    """The example's types with another batch extent, or None where it has no batch."""
    if op.name == "constant" or not example.shapes[0]:
        return None
    weights = op.name in (*CONTRACTIONS, "batch_norm")
    first = example.shapes[op.name == "random_uniform"]  # behind the key
    types = []
    for index, type in enumerate(types_of(example)):
        is_batched = type.ndim == len(first) and type.shape[0] == first[0]
        if is_batched and not (weights and index):
            type = type.with_shape((extent, *type.shape[1:]))
        types.append(type)
    return types


__all__ = [
    "BATCH", "CASES", "CONTRACTIONS", "UPDATES", "batched", "index_dtype", "inputs_of",
    "types_of",
]  # fmt: skip

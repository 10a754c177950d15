"""Every lowered op with each of its examples, and seeded inputs for them."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import jitseq.ir.ops  # noqa: F401  (registers every family)
from jitseq.ir.op import REGISTRY, Example, Op
from jitseq.ir.types import BATCH, TensorType

CASES = [
    pytest.param(op, example, id=f"{op.name}-{index}")
    for op in REGISTRY.values()
    if op.lowered
    for index, example in enumerate(op.examples)
]
CONTRACTIONS = ("conv2d", "conv_transpose2d", "linear")


def inputs_of(op: Op, example: Example, dtype: str = "float64") -> list[np.ndarray]:
    """Normal numbers, or uniform ones between the example's bounds."""
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    arrays = []
    for position, shape in enumerate(example.shapes):
        if position in example.below:
            bound = example.below[position]
            kind = np.uint8 if bound <= 256 else np.uint32
            arrays.append(rng.integers(bound, size=shape, dtype=kind))
            continue
        if example.low is None:
            array = rng.normal(size=shape)
        else:
            array = rng.uniform(example.low, example.high, shape)
        arrays.append(np.asarray(array, dtype))
    return arrays


def types_of(example: Example, dtype: str = "float32") -> list[TensorType]:
    return [TensorType(dtype, shape) for shape in example.shapes]


def batched(op: Op, example: Example, extent: object) -> list[TensorType] | None:
    """The example's types with another batch extent, or None where it has no batch."""
    if op.name == "constant" or not example.shapes[0]:
        return None
    weights = op.name in (*CONTRACTIONS, "batch_norm")
    same = example.shapes[0][0]
    types = []
    for index, type in enumerate(types_of(example)):
        is_batched = type.ndim == len(example.shapes[0]) and type.shape[0] == same
        if is_batched and not (weights and index):
            type = type.with_shape((extent, *type.shape[1:]))
        types.append(type)
    return types


__all__ = ["BATCH", "CASES", "CONTRACTIONS", "batched", "inputs_of", "types_of"]

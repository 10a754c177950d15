"""Every op's examples, compiled, against its float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from op_cases import CASES, inputs_of
from tolerance import assert_close

import jitseq as js
from jitseq.ir.compute import Update
from jitseq.ir.op import REGISTRY, Example, Op
from jitseq.ir.tracer import apply
from jitseq.nn import Parameter

CONTRACTIONS = ("conv2d", "conv_transpose2d", "linear")
ELSEWHERE = ("constant", "random_uniform")
"""Ops that no user's function can consist of."""

RUNNABLE = [case for case in CASES if case.values[0].name not in ELSEWHERE]
TARGETS = ("native", "x86-64-v3")


def compiled_example(op: Op, example: Example, arrays: list[np.ndarray], **options):
    """The op as a function; weights of layers are parameters."""
    inputs = 1 if op.name in (*CONTRACTIONS, "batch_norm") else len(arrays)
    params = [Parameter(array) for array in arrays[inputs:]]

    def function(*values):
        return apply(op.name, *values, *params, **example.attrs)

    return js.jit(function, **options)(*arrays[:inputs])


def sum_magnitude(op: Op, example: Example, arrays: list[np.ndarray]):
    """Σ|a||b| and the number of terms for ops that sum products; else None."""
    wide = [np.abs(array.astype(np.float64)) for array in arrays]
    if op.name in CONTRACTIONS:
        terms = int(np.prod(arrays[1].shape[1:]))
        return op.reference(*wide, **example.attrs), terms
    if op.name in ("sum", "mean", "avg_pool2d", "adaptive_avg_pool2d"):
        return op.reference(*wide, **example.attrs), arrays[0].size
    largest = max((np.max(array, initial=1.0) for array in wide), default=1.0)
    return np.asarray(largest), 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op, example", RUNNABLE)
def test_compiled_example(op, example, target, dtype, monkeypatch) -> None:
    monkeypatch.setenv("JITSEQ_TARGET", target)
    arrays = inputs_of(op, example, dtype)
    wide = [array.astype(np.float64) for array in arrays]
    reference = op.reference(*wide, **example.attrs)
    result = compiled_example(op, example, arrays)
    assert result.dtype == dtype
    magnitude, terms = sum_magnitude(op, example, arrays)
    assert_close(result, reference, np.broadcast_to(magnitude, reference.shape), terms)


@pytest.mark.parametrize("op, example", RUNNABLE)
def test_nan_and_infinity(op, example) -> None:
    """Special values spread as they do in the reference."""
    if op.name in CONTRACTIONS:
        pytest.skip("products with zero padding are not evaluated: see docs/numerics")
    arrays = inputs_of(op, example, "float32")
    flat = arrays[0].reshape(-1)
    flat[:3] = [np.nan, np.inf, -np.inf][: flat.size]
    reference = op.reference(*arrays, **example.attrs)
    result = compiled_example(op, example, arrays)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(reference))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(reference))


def test_every_op_is_covered() -> None:
    names = {case.values[0].name for case in RUNNABLE}
    lowered = {
        name
        for name, op in REGISTRY.items()
        if not op.derived and not isinstance(op.compute, Update)
    }
    assert names.union(ELSEWHERE) == lowered

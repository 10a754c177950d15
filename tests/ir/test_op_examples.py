"""Each op's parts agree on its examples: types, reference, and compute record."""

from __future__ import annotations

import warnings

import compute_interpreter as interpreter
import numpy as np
import pytest
from op_cases import (
    BATCH,
    CASES,
    CONTRACTIONS,
    UPDATES,
    batched,
    inputs_of,
    types_of,
)

from jitseq.errors import NeedsStaticBatch
from jitseq.ir.compute import (
    Contraction,
    Movement,
    Pointwise,
    Reduction,
    Uniform,
    Update,
    Window,
)
from jitseq.ir.op import REGISTRY
from jitseq.ir.scalar import BITWISE_SELECT_SIZE, ERF_BLOCK, NumpyScalars
from jitseq.ir.types import TensorType, type_of

NEEDS_NUMBER = {
    # dimension 0 is reduced, normalised, joined, cut, moved, or matched to a number
    "softmax-3", "log_softmax-3", "linear-3", "concat-2", "slice-2", "reshape-0",
    "reshape-3", "permute-1", "permute-2", "broadcast-0", "broadcast-2",
    *(f"{kind}-{index}" for kind in ("sum", "mean", "max") for index in (4, 5)),
}  # fmt: skip
BATCHED = [case for case in CASES if batched(*case.values, BATCH) is not None]
DYNAMIC = [case for case in BATCHED if case.id not in NEEDS_NUMBER]
FROM_TYPES = [
    case
    for case in DYNAMIC
    if case.values[0].compute and not isinstance(case.values[0].compute, Pointwise)
]


def test_every_op_has_examples() -> None:
    assert {"conv2d", "relu", "add", "reshape", "softmax"} <= set(REGISTRY)
    without = [op for op in REGISTRY.values() if not op.examples]
    # the updates of optimizers are registered when a step uses them
    assert [op.name for op in without if not isinstance(op.compute, Update)] == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op, example", CASES)
def test_inferred_type_is_the_reference_type(op, example, dtype) -> None:
    if op.name == "constant":
        dtype = example.attrs["dtype"]
    inferred = op.infer(*types_of(example, dtype), **example.attrs)
    inputs = inputs_of(op, example, dtype)
    before = [x.copy() for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = op.reference(*inputs, **example.attrs)
    assert isinstance(result, np.ndarray)
    assert type_of(result) == inferred
    for x, copy in zip(inputs, before):
        np.testing.assert_array_equal(x, copy, "the reference wrote into an input")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op, example", UPDATES)
def test_updates_keep_types_and_inputs(op, example, dtype) -> None:
    """The parameter and each state array leave as they came; numbers do not."""
    inputs = inputs_of(op, example, dtype)
    before = [x.copy() for x in inputs]
    types = op.infer(*types_of(example, dtype), **example.attrs)
    results = op.reference(*inputs, **example.attrs)
    assert [type_of(result) for result in results] == list(types)
    assert types == (type_of(inputs[0]),) * (1 + op.compute.states)
    for x, copy in zip(inputs, before):
        np.testing.assert_array_equal(x, copy)


@pytest.mark.parametrize("op, example", DYNAMIC)
def test_symbolic_batch(op, example) -> None:
    result = op.infer(*batched(op, example, BATCH), **example.attrs)
    static = op.infer(*types_of(example), **example.attrs)
    assert result.shape == (BATCH, *static.shape[1:])


@pytest.mark.parametrize(
    "op, example", [case for case in BATCHED if case.id in NEEDS_NUMBER]
)
def test_dimension_0_as_a_number_needs_a_static_batch(op, example) -> None:
    with pytest.raises(NeedsStaticBatch):
        op.infer(*batched(op, example, BATCH), **example.attrs)


@pytest.mark.parametrize("op, example", DYNAMIC)
def test_empty_batch(op, example) -> None:
    types = batched(op, example, 0)
    inferred = op.infer(*types, **example.attrs)
    inputs = (np.ones(type.shape, type.dtype) for type in types)
    result = op.reference(*inputs, **example.attrs)
    assert type_of(result) == inferred
    assert result.shape[0] == 0


@pytest.mark.parametrize("op, example", CASES)
def test_compute_record_means_the_reference(op, example) -> None:
    inputs = inputs_of(op, example)
    expected = op.reference(*inputs, **example.attrs)
    if op.compute is None:
        assert op.name == "batch_norm"
        return
    if isinstance(op.compute, Pointwise):
        result = op.compute.expr(NumpyScalars, *inputs, **example.attrs)
        np.testing.assert_array_equal(np.asarray(result, expected.dtype), expected)
        return
    types = tuple(types_of(example, "float64"))
    record = op.compute(types, example.attrs)
    if isinstance(record, Movement):
        assert record.kind == op.name
        return
    if isinstance(record, Uniform):
        np.testing.assert_array_equal(
            hashes(inputs[0], expected.size), expected.ravel()
        )
        return
    np.testing.assert_allclose(evaluate(record, inputs), expected, 1e-10, 1e-12)


def hashes(key: np.ndarray, count: int) -> np.ndarray:
    """``(mix(mix(i + key[0]) ^ key[1]) >> 8) / 2**24`` in whole numbers."""

    def mix(h: int) -> int:
        h = (h ^ h >> 16) * 0x7FEB352D % 2**32
        h = (h ^ h >> 15) * 0x846CA68B % 2**32
        return h ^ h >> 16

    first, second = map(int, key)
    found = (mix(mix((i + first) % 2**32) ^ second) for i in range(count))
    return np.array([(h >> 8) / 2**24 for h in found])


def evaluate(record: object, inputs: list[np.ndarray]) -> np.ndarray:
    if isinstance(record, Window):
        return interpreter.pool(record, *inputs)
    if isinstance(record, Reduction):
        return interpreter.reduce(record, *inputs)
    assert isinstance(record, Contraction)
    if record.weight_axes != "oi":
        return interpreter.contract(record, *inputs)
    x, *weights = inputs
    pixels = x.reshape(-1, x.shape[-1], 1, 1)
    result = interpreter.contract(record, pixels, *weights)
    return result.reshape(*x.shape[:-1], record.out_channels)


@pytest.mark.parametrize("op, example", FROM_TYPES)
def test_compute_records_do_not_need_the_batch(op, example) -> None:
    symbolic = tuple(batched(op, example, BATCH))
    static = tuple(types_of(example))
    assert op.compute(symbolic, example.attrs) == op.compute(static, example.attrs)


@pytest.mark.parametrize("op, example", CASES)
def test_float32_is_close_to_float64(op, example) -> None:
    """Errors of products are bounded by a multiple of Σ|a||b|."""
    inputs = inputs_of(op, example, "float32")
    wide = [x.astype(np.float64) for x in inputs]
    result = op.reference(*inputs, **example.attrs)
    exact = op.reference(*wide, **example.attrs)
    eps = np.finfo(np.float32).eps
    if op.name in CONTRACTIONS:
        scale = op.reference(*map(np.abs, wide), **example.attrs)
        assert (np.abs(result - exact) <= 8 * eps * scale).all()
        return
    np.testing.assert_allclose(result, exact, rtol=32 * eps, atol=32 * eps)


def test_phases_cover_every_output_even_without_taps() -> None:
    op = REGISTRY["conv_transpose2d"]
    example = op.examples[4]
    record = op.compute(tuple(types_of(example)), example.attrs)
    assert len(record.phases) == 9
    assert sum(not phase.taps for phase in record.phases) == 8
    assert record.out_size == (10, 7)


def test_taps_that_read_only_padding_are_dropped() -> None:
    op = REGISTRY["conv2d"]
    types = (TensorType("float32", (1, 2, 1, 1)), TensorType("float32", (3, 2, 3, 3)))
    attrs = {
        "stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1
    }  # fmt: skip
    (phase,) = op.compute(types, attrs).phases
    assert [(tap.ky, tap.kx, tap.dy, tap.dx) for tap in phase.taps] == [(1, 1, 0, 0)]


MONOTONE = [
    case
    for case in CASES
    if (rule := case.values[0].monotone) and rule(case.values[1].attrs)
]


@pytest.mark.parametrize("op, example", MONOTONE)
def test_monotone_ops_commute_with_maxima(op, example) -> None:
    numbers = np.sort(np.random.default_rng(3).normal(size=200) * 10)
    numbers = np.concatenate([[-np.inf, -1e300], numbers, [1e300, np.inf]])
    result = op.reference(numbers, **example.attrs)
    # Neighbours may swap in the last place; a step down would be larger.
    np.testing.assert_allclose(result, np.maximum.accumulate(result), rtol=1e-15)
    assert np.isnan(op.reference(np.array([np.nan]), **example.attrs)).all()


@pytest.mark.parametrize(
    "name, attrs",
    [
        ("leaky_relu", {"negative_slope": -0.1}),
        ("leaky_relu", {"negative_slope": 0.0}),
        ("elu", {"alpha": -1.0}),
        ("celu", {"alpha": -1.0}),
        ("softplus", {"beta": 1.0, "threshold": 1.0}),
        ("hardtanh", {"min_val": 1.0, "max_val": -1.0}),
    ],
)
def test_monotone_depends_on_the_attributes(name, attrs) -> None:
    assert REGISTRY[name].monotone(attrs) is False


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_erf_is_within_two_ulp(dtype) -> None:
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(0)
    parts = [rng.uniform(-7, 7, 500), rng.uniform(0.9, 2.5, 500), rng.normal(size=500)]
    x = np.concatenate([*parts, 10 ** rng.uniform(-30, 0, 200)]).astype(dtype)
    exact = [mpmath.erf(mpmath.mpf(float(v))) for v in x]
    result = NumpyScalars.erf(x)
    assert result.dtype == dtype
    spacing = np.spacing(np.abs(np.array([float(v) for v in exact], dtype)))
    errors = [abs(mpmath.mpf(float(r)) - e) for r, e in zip(result, exact)]
    assert max(float(e) / float(s) for e, s in zip(errors, spacing)) <= 2


def test_erf_in_blocks_is_erf_of_each_block() -> None:
    x = np.linspace(-5, 5, ERF_BLOCK + 10).reshape(2, -1)
    half = ERF_BLOCK // 2 + 5
    assert x.shape == (2, half)
    separate = np.stack([NumpyScalars.erf(row) for row in x])
    np.testing.assert_array_equal(NumpyScalars.erf(x), separate)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_of_many_elements_selects_bit_by_bit(dtype) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(BITWISE_SELECT_SIZE // 64, 64)).astype(dtype)
    x[0, :4] = np.nan, np.inf, -np.inf, -0.0
    row = x[1]
    for a, b in ((0, x), (x, 0.1), (row, x), (x, x.T.copy().T), (1.5, row)):
        expected = np.where(x < 0, a, b)
        result = NumpyScalars.where(x < 0, a, b)
        assert result.dtype == expected.dtype == dtype
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))

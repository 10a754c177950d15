"""Functions of arrays: branches, several inputs and outputs, shapes, broadcasting."""

from __future__ import annotations

import numpy as np
import pytest
from error_bound import analyse, assert_within, flat
from strategies import randomise

import jitseq as js
from jitseq import nn
from jitseq.nn import functional as F

OPTIONS = ({}, {"disable_passes": ("fuse",)}, {"dynamic_batch": False})
OPTION_NAMES = ("fused", "unfused", "static")


def images(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    randomise(module, seed)
    return module.eval()


CONV = seeded(nn.Conv2d(6, 8, 3, padding=1))
SECOND = seeded(nn.Conv2d(8, 8, 3, padding=1), 1)
SHRINK = seeded(nn.Conv2d(8, 6, 1), 2)
NORM = seeded(nn.BatchNorm2d(8), 3)
SQUEEZE = seeded(nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8)), 4)
LINEAR = seeded(nn.Linear(5, 7), 5)
SCALE = images(8, 1, 1, seed=6)
TABLE = images(5, 7, seed=7)
STEM = images(2, 6, 5, 7, seed=8)


def residual(x):
    return F.relu(NORM(SECOND(F.relu(CONV(x)))) + CONV(x))


def pre_activation(x):
    hidden = CONV(x)
    return hidden + SECOND(F.relu(NORM(hidden)))


def squeeze_excite(x):
    y = CONV(x)
    gate = F.sigmoid(SQUEEZE(F.flatten(F.adaptive_avg_pool2d(y, 1), 1)))
    return y * F.unflatten(gate, 1, (8, 1, 1))


def gate_by_means(x):
    y = CONV(x)
    return y * F.sigmoid(F.mean(y, (2, 3), keepdim=True))


def both_branches(x):
    y = CONV(x)
    return F.max_pool2d(F.relu(y), 2), F.avg_pool2d(y, 2)


def used_and_returned(x):
    y = F.relu(CONV(x))
    return {"hidden": y, "out": SECOND(y), "again": [y, F.flatten(y, 1)]}


def concatenated(x):
    y = CONV(x)
    return F.concat([x, F.relu(y), y, x], 1)


def padded_conv(x):
    return CONV(F.pad(x, (1, 2, 0, 3), value=0.5))


def reflected(x):
    return F.pad(CONV(x), (2, 1, 1, 2), "reflect") * 2


def channels_to_the_end(x):
    return F.softmax(F.permute(CONV(x), (0, 2, 3, 1)), -1)


def attention(x):
    tokens = F.transpose(F.flatten(CONV(x), 2), 1, 2)
    return F.linear(tokens, SQUEEZE[0].weight) + 1


def scaled_by_constant(x):
    return CONV(x) * SCALE + SCALE / 2 - 1


def channel_first_operand(x):
    return SCALE - F.tanh(CONV(x))


def same_value_twice(x):
    y = CONV(x)
    return y * y + y + F.maximum(y, y)


def input_beside_result(x):
    return x, CONV(x), x


def only_input(x):
    return x


def transposed_only(x):
    return F.permute(x, (0, 3, 1, 2))


def row_softmax(x):
    return F.log_softmax(F.flatten(x, 1), 1), F.sum(x, (1, 3)), F.amax(x, 2)


def global_max(x):
    return F.amax(F.relu(CONV(x)), (2, 3))


def two_heads(x):
    y = F.max_pool2d(F.relu(CONV(x)), 2)
    rows = F.flatten(y, 1)
    return [F.sum(rows, 1, keepdim=True) * rows, (SECOND(y), {"mean": F.mean(y, 1)})]


def numpy_functions(x):
    return np.tanh(x) + np.maximum(x, 0.25) * np.exp(-np.abs(x))


ONE_INPUT = (
    residual, pre_activation, squeeze_excite, gate_by_means, both_branches,
    used_and_returned, concatenated, padded_conv, reflected,
    channels_to_the_end, attention, scaled_by_constant, channel_first_operand,
    same_value_twice, input_beside_result, only_input, transposed_only, row_softmax,
    global_max, two_heads, numpy_functions,
)  # fmt: skip


def check(function, batches, **options) -> None:
    """Compiled and eager results have one structure, and are within the bound."""
    compiled = js.jit(function, **options)
    for arrays in batches:
        before = [array.copy() for array in arrays]
        expected = analyse(function, arrays)
        eager, result = function(*arrays), compiled(*arrays)
        assert structure(result) == structure(eager)
        assert_within(eager, expected, arrays[0].dtype)
        assert_within(result, expected, arrays[0].dtype)
        for array, copy in zip(arrays, before):
            np.testing.assert_array_equal(array, copy)


def structure(result: object) -> object:
    """Containers and keys, without the arrays."""
    if isinstance(result, dict):
        return {key: structure(item) for key, item in result.items()}
    if isinstance(result, tuple | list):
        return type(result), [structure(item) for item in result]
    return result.shape  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_NAMES)
@pytest.mark.parametrize("function", ONE_INPUT, ids=lambda function: function.__name__)
def test_one_input(function, options) -> None:
    check(function, [(images(n, 6, 5, 7, seed=n),) for n in (3, 1, 9)], **options)


TWO_INPUTS = {
    "sum": lambda x, y: F.relu(CONV(x) + CONV(y)),
    "difference of input": lambda x, y: x - CONV_BACK(F.relu(CONV(y))),
    "concat": lambda x, y: CONV_TWELVE(F.concat([x, y], 1)),
    "one unused": lambda x, y: CONV(y) * 2,
    "both returned": lambda x, y: (y, x, x / (F.abs(y) + 1)),
    "minimum": lambda x, y: F.minimum(F.max_pool2d(x, 3, 1, 1), y),
}  # fmt: skip
CONV_BACK = seeded(nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.PReLU(6)), 9)
CONV_TWELVE = seeded(nn.Conv2d(12, 20, 3, stride=2), 10)


@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_NAMES)
@pytest.mark.parametrize("name", TWO_INPUTS)
def test_two_inputs(name, options) -> None:
    batches = [[images(n, 6, 5, 7, seed=s) for s in (n, n + 1)] for n in (2, 5)]
    check(TWO_INPUTS[name], batches, **options)


@pytest.mark.parametrize(
    "shape", [(6, 1, 1), (1, 5, 7), (7,), (5, 1), (1, 1, 1, 1), (1,)]
)
def test_second_input_broadcasts(shape) -> None:
    check(lambda x, y: F.relu(x * y) + y, [(images(4, 6, 5, 7), images(*shape))])


def test_broadcasting_of_two_batches() -> None:
    inputs = [(images(n, 6, 5, 7), images(n, 6, 1, 1, seed=1)) for n in (4, 2)]
    check(lambda x, y: CONV(x * y), inputs)
    check(lambda x, y: y + x, inputs)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 2, 5), (3, 2, 4, 5), (1, 5)])
@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_NAMES)
def test_linear_on_any_rank(shape, options) -> None:
    check(lambda x: F.relu(LINEAR(x)), [(images(*shape),)], **options)
    check(LINEAR, [(images(*shape),)], **options)


@pytest.mark.parametrize("layer", [
    CONV,
    seeded(nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1)),
    nn.MaxPool2d(2),
    nn.AvgPool2d(3, 1, 1),
    nn.AdaptiveAvgPool2d((2, 3)),
], ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_images_without_a_batch(layer) -> None:
    """``(C, H, W)`` in, ``(O, H', W')`` out; other sizes need another program."""
    check(layer, [(images(6, 5, 7),), (images(6, 8, 9, seed=1),)])


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (7,), ()])
def test_identity_models(shape) -> None:
    """An empty model returns an array of its own with the same elements."""
    x = images(*shape)
    for model in (nn.Sequential(), nn.Sequential(nn.Identity(), nn.Dropout())):
        result = js.jit(model.eval())(x)
        np.testing.assert_array_equal(result, x)
        assert not np.shares_memory(result, x)


def test_an_input_returned_twice_is_two_arrays() -> None:
    x = images(2, 3)
    first, second = js.jit(lambda x: (x, x))(x)
    first[...] = 0
    np.testing.assert_array_equal(second, x)


def test_results_without_inputs_in_them() -> None:
    """Values of parameters and constants are results like any other."""
    function = lambda x: (LINEAR.weight * 2, x + 1, TABLE)  # noqa: E731
    scaled, moved, table = js.jit(function)(images(3, 4))
    np.testing.assert_array_equal(scaled, LINEAR.weight.numpy() * 2)
    np.testing.assert_array_equal(moved, images(3, 4) + 1)
    np.testing.assert_array_equal(table, TABLE)


def test_constants_are_those_of_the_trace() -> None:
    """An array that a function closes over is copied when the function is traced."""
    constant = np.ones(4, np.float32)
    compiled = js.jit(lambda x: x + constant)
    first = compiled(images(2, 4))
    constant[:] = 5
    np.testing.assert_array_equal(compiled(images(2, 4)), first)


def test_strided_and_reversed_inputs() -> None:
    whole = images(8, 6, 10, 14)
    x = whole[::2, :, ::-2, 1::2]
    assert_within(js.jit(CONV)(x), analyse(CONV, [np.ascontiguousarray(x)]), x.dtype)


def test_long_chain_of_pointwise_functions() -> None:
    def chain(x):
        for _ in range(12):
            x = F.silu(x * 1.5 - 0.25) + x * 0.5
        return x

    check(chain, [(images(3, 70),), (images(1, 70, seed=1),)])


def test_float64_keeps_its_precision() -> None:
    model = seeded(
        nn.Sequential(nn.Linear(9, 33), nn.GELU(), nn.Linear(33, 2))
    ).double()
    x = images(4, 9, dtype="float64")
    (expected,) = analyse(model, [x])
    assert expected.error.max() < 1e-14
    assert_within(js.jit(model)(x), [expected], "float64")


def test_flat_lists_the_arrays_in_order() -> None:
    nested = {"a": [np.zeros(1), (np.ones(2),)], "b": np.zeros(3)}
    assert [leaf.size for leaf in flat(nested)] == [1, 2, 3]

"""Dropout and its random numbers: what is drawn, how evenly, and what repeats."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.errors import DtypeError, ShapeError
from jitseq.ir.random import draw_key, mix, uniform
from jitseq.ir.trace import trace
from jitseq.ir.tracer import apply
from jitseq.ir.types import TensorType
from jitseq.nn import functional as F

KEY = np.array([1, 2], np.uint32)


def model() -> nn.Sequential:
    js.manual_seed(5)
    return nn.Sequential(
        nn.Linear(20, 30), nn.Dropout(0.3), nn.Tanh(), nn.Linear(30, 10), nn.Dropout()
    )


def mixed(h: int) -> int:
    """lowbias32 in Python's own integers."""
    h ^= h >> 16
    h = h * 0x7FEB352D % 2**32
    h ^= h >> 15
    h = h * 0x846CA68B % 2**32
    return h ^ (h >> 16)


# The numbers


def test_numbers_are_hashes_of_key_and_index() -> None:
    numbers = [0, 1, 12345, 2**31, 2**32 - 1]
    assert mix(np.array(numbers, np.uint32)).tolist() == [mixed(n) for n in numbers]
    for key in ([7, 9], [2**32 - 3, 2**32 - 1]):
        u = uniform(np.array(key, np.uint32), (4, 5, 1000), np.float64).ravel()
        for i in (0, 1, 2, 5, 16383, 16384, 19999):
            h = mixed(mixed((i + key[0]) % 2**32) ^ key[1])
            assert u[i] == (h >> 8) / 2**24


def test_both_dtypes_and_all_shapes_get_the_same_numbers() -> None:
    wide = uniform(KEY, (6, 7), np.float64)
    narrow = uniform(KEY, (42,), np.float32)
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(wide.ravel(), narrow)
    assert uniform(KEY, (), np.float32) == narrow[0]
    assert uniform(KEY, (0, 3), np.float32).shape == (0, 3)


def test_numbers_are_uniform_and_independent() -> None:
    """Moments, 64 equal bins (chi-squared), neighbours, rows and other keys."""
    u = uniform(KEY, (1 << 20,), np.float64)
    count = u.size
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * count)
    assert abs(u.var() - 1 / 12) < 5 / np.sqrt(180 * count)
    bins = np.bincount((u * 64).astype(int), minlength=64)
    chi = np.sum((bins - count / 64) ** 2) / (count / 64)
    assert 63 - 5 * np.sqrt(126) < chi < 63 + 5 * np.sqrt(126)
    centred = (u - 0.5) * np.sqrt(12)
    for lag in (1, 2, 3, 16, 32, 64, 784, 1024, 4096):
        assert abs(np.mean(centred[:-lag] * centred[lag:])) < 5 / np.sqrt(count)
    pairs = np.histogram2d(u[::2], u[1::2], 16, [[0, 1], [0, 1]])[0]
    chi = np.sum((pairs - count / 512) ** 2) / (count / 512)
    assert 255 - 5 * np.sqrt(510) < chi < 255 + 5 * np.sqrt(510)
    for key in ([2, 2], [1, 3], [2, 1], [0, 0]):
        other = uniform(np.array(key, np.uint32), u.shape, np.float64) - 0.5
        assert abs(np.mean(centred * other) * np.sqrt(12)) < 5 / np.sqrt(count)


def test_every_bit_is_even() -> None:
    bits = (uniform(KEY, (1 << 18,), np.float64) * 2**24).astype(np.uint32)
    for bit in range(24):
        share = np.mean((bits >> bit) & 1)
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(bits.size)


def test_what_a_key_is() -> None:
    x = np.ones((3, 4))
    with pytest.raises(DtypeError, match="uint32"):
        apply("random_uniform", KEY.astype(np.int64), x)
    with pytest.raises(ShapeError, match="shape"):
        apply("random_uniform", KEY[:1], x)
    with pytest.raises(DtypeError, match="float32 and float64"):
        F.dropout(np.ones(3, int))


# Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7, 0.999])
def test_share_and_scale(p) -> None:
    js.manual_seed(3)
    x = np.ones((512, 1024), np.float32)
    y = F.dropout(x, p)
    kept = y != 0
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y[kept], np.float32(1 / (1 - p)))
    deviation = np.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * deviation / np.sqrt(x.size)
    for axis in (0, 1):
        spread = kept.mean(axis).std() * np.sqrt(x.shape[axis]) / deviation
        assert 0.85 < spread < 1.15


def test_both_dtypes_drop_the_same() -> None:
    for p in (0.1, 0.3, 0.7, 1 / 3):
        masks = []
        for dtype in (np.float32, np.float64):
            js.manual_seed(3)
            masks.append(F.dropout(np.ones(1 << 16, dtype), p) != 0)
        np.testing.assert_array_equal(*masks)


def test_a_number_at_the_threshold_is_kept_in_both_dtypes() -> None:
    """As float32, 0.7 rounds below a number that lies below 0.7 as float64."""
    below = np.floor(0.7 * 2**24) / 2**24
    for dtype in (np.float32, np.float64):
        u = np.array([below, below + 2.0**-24, 0.0], dtype)
        y = apply("dropout", np.ones(3, dtype), u, p=0.7)
        np.testing.assert_array_equal(y != 0, [False, True, False])


def test_special_values_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = np.array([np.inf, -np.inf, np.nan, -1.0, 2.0, 0.0], np.float32)
    expected = torch.nn.functional.dropout(torch.from_numpy(x), 1.0).numpy()
    np.testing.assert_array_equal(F.dropout(x, 1.0), expected)
    dropped = apply("dropout", x, np.zeros_like(x), p=0.5)
    np.testing.assert_array_equal(dropped, expected)
    np.testing.assert_array_equal(np.signbit(dropped[3:]), np.signbit(expected[3:]))
    kept = apply("dropout", x, np.full_like(x, 0.75), p=0.5)
    np.testing.assert_array_equal(kept, 2 * x)


def test_evaluation_and_no_probability_give_the_input() -> None:
    x, layer = np.ones(4, np.float32), nn.Dropout()
    js.manual_seed(0)
    key = draw_key()
    js.manual_seed(0)
    assert layer.eval()(x) is x and F.dropout(x, 0.0) is x
    np.testing.assert_array_equal(draw_key(), key)  # nothing was drawn
    assert layer.train()(x) is not x


# Which keys


def test_the_same_seed_gives_the_same_masks() -> None:
    net, x = model(), np.ones((8, 20), np.float32)
    results = []
    for _ in range(2):
        js.manual_seed(0)
        results.append([net(x) for _ in range(3)])
    np.testing.assert_array_equal(*results)
    assert len({result.tobytes() for result in results[0]}) == 3
    js.manual_seed(1)
    assert not np.array_equal(net(x), results[0][0])


def test_layers_differ() -> None:
    js.manual_seed(0)
    x = np.ones((64, 64), np.float32)
    first, second = nn.Dropout(), nn.Dropout()
    a, b = first(x) != 0, second(x) != 0
    assert 0.4 < np.mean(a == b) < 0.6


def test_a_trace_draws_nothing_and_a_call_once_a_layer() -> None:
    net, x = model(), np.ones((8, 20), np.float32)
    js.manual_seed(0)
    expected = [net(x), net(x)]
    following = draw_key()
    js.manual_seed(0)
    traced = trace(net, [TensorType("float32", x.shape)])
    assert traced.static_reason is None
    assert [value.name for value, _ in traced.feeds] == ["1.key", "4.key"]
    for result in expected:
        out, _ = js.vjp(net, x)
        np.testing.assert_array_equal(out, result)
    np.testing.assert_array_equal(draw_key(), following)


def test_forward_and_backward_share_the_mask() -> None:
    layer, x = nn.Dropout(0.4), np.random.default_rng(0).normal(size=(9, 50))
    out, pullback = js.vjp(layer, x)
    for g in (np.ones_like(x), x):
        (dx,), _ = pullback(g)
        np.testing.assert_allclose(dx, np.where(out == 0, 0, g / 0.6), 1e-15)


def test_threads_draw_different_keys() -> None:
    js.manual_seed(0)
    keys: list[bytes] = []

    def draw() -> None:
        keys.extend([draw_key().tobytes() for _ in range(200)])

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    js.manual_seed(0)
    assert sorted(keys) == sorted(draw_key().tobytes() for _ in range(1600))
    assert len(set(keys)) == 1600


def test_initial_parameters_do_not_depend_on_masks() -> None:
    js.manual_seed(0)
    F.dropout(np.ones(3))
    after = nn.Linear(3, 3).weight.numpy()
    js.manual_seed(0)
    np.testing.assert_array_equal(nn.Linear(3, 3).weight.numpy(), after)

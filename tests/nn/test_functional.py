"""Functionals: shapes, arithmetic and reductions against NumPy; padding vs PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import nn
from jitseq.errors import ShapeError, UnsupportedError
from jitseq.nn import functional as F


@pytest.fixture
def x(rng):
    return rng.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)


def test_arithmetic(x):
    y = x[:, :1] + 1
    cases = {
        "add": x + y, "sub": x - y, "mul": x * y, "div": x / y,
        "maximum": np.maximum(x, y), "minimum": np.minimum(x, y),
    }  # fmt: skip
    for name, expected in cases.items():
        np.testing.assert_allclose(getattr(F, name)(x, y), expected, 1e-6)
    np.testing.assert_allclose(F.sub(1, x), 1 - x, 1e-6)
    np.testing.assert_allclose(F.mul(nn.Parameter(x), 2), x * 2, 1e-6)
    for name in ("exp", "log", "sqrt", "abs"):
        np.testing.assert_allclose(getattr(F, name)(x), getattr(np, name)(x), 1e-6)
    np.testing.assert_array_equal(F.neg(x), -x)
    assert F.erf(np.float32([0.5]))[0] == pytest.approx(0.5204998778)


def test_reductions(x):
    for dim in (None, 1, -1, (0, 2), [1], ()):
        axis = tuple(dim) if isinstance(dim, (tuple, list)) and dim else dim or None
        for name, reference in {"sum": np.sum, "mean": np.mean, "amax": np.max}.items():
            for keep in (False, True):
                result = getattr(F, name)(x, dim, keep)
                expected = reference(x, axis=axis, keepdims=keep)
                np.testing.assert_allclose(result, expected, 1e-5)
                assert np.shape(result) == np.shape(expected)


def test_shapes(x):
    np.testing.assert_array_equal(F.permute(x, (2, 0, -2)), x.transpose(2, 0, 1))
    np.testing.assert_array_equal(F.transpose(x, 0, -1), x.swapaxes(0, 2))
    np.testing.assert_array_equal(F.reshape(x, (-1, 6)), x.reshape(-1, 6))
    np.testing.assert_array_equal(F.reshape(x, -1), x.ravel())
    np.testing.assert_array_equal(F.concat([x, x], 1), np.concatenate([x, x], 1))
    np.testing.assert_array_equal(F.cat([x, x[:1]]), np.concatenate([x, x[:1]]))
    assert F.unflatten(x, -1, (2, -1)).shape == (2, 3, 2, 2)
    assert F.flatten(x).shape == (24,) and F.flatten(x, 0, 1).shape == (6, 4)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("sizes", [(1, 2), (2, 0, 0, 1), (0, 0), (1, 1, 2, 2)])
@pytest.mark.parametrize("rank", [3, 4])
def test_pad(mode, sizes, rank, rng):
    torch = pytest.importorskip("torch")
    if rank == 4 and len(sizes) == 2 and mode != "constant":
        pytest.skip("one dimension is padded in inputs of rank 2 and 3")
    x = rng.standard_normal((2, 3, 4, 5)[-rank:]).astype(np.float32)
    expected = torch.nn.functional.pad(torch.from_numpy(x), sizes, mode).numpy()
    np.testing.assert_array_equal(F.pad(x, sizes, mode), expected)


def test_pad_value(x):
    padded = F.pad(x, (0, 0, 0, 0, 1, 0), value=7)
    assert padded.shape == (3, 3, 4) and np.all(padded[0] == 7)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.flatten(x, 2, 1),
        lambda x: F.flatten(x, 3),
        lambda x: F.softmax(x, 5),
        lambda x: F.permute(x, (0, 1)),
        lambda x: F.permute(x, (0, 0, 1)),
        lambda x: F.reshape(x, (5, -1)),
        lambda x: F.reshape(x, (-1, -1)),
        lambda x: F.reshape(x, (2, 3)),
        lambda x: F.unflatten(x, 1, (2, 2)),
        lambda x: F.conv2d(x[0], np.ones((1, 3, 1, 1), np.float32)),
        lambda x: F.conv2d(x, np.ones((3, 1), np.float32)),
        lambda x: F.linear(x, np.ones((2, 5), np.float32)),
        lambda x: F.max_pool2d(x[0], 2),
        lambda x: F.prelu(x, np.ones(2, np.float32)),
        lambda x: F.batch_norm(x[0, 0], np.ones(4), np.ones(4)),
        lambda x: F.pad(x, (4, 0), "reflect"),
        lambda x: F.pad(x[None], (1, 1), "reflect"),
        lambda x: F.sum(x, 3),
        lambda x: F.add(x, x[:, :2]),
    ],
)
def test_shapes_that_do_not_fit(call, x):
    with pytest.raises(ShapeError):
        call(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.conv2d(x, np.ones((1, 2, 1, 1), np.float32), stride=0),
        lambda x: F.conv2d(x, np.ones((1, 2, 3, 3), np.float32), padding="full"),
        lambda x: F.conv2d(x, np.ones((1, 2, 3, 3), np.float32), None, 2, "same"),
        lambda x: F.conv2d(x, np.ones((1, 2, 1, 1), np.float32), dilation=1.5),
        lambda x: F.conv2d(x, np.ones((1, 2, 1, 1), np.float32), groups=0),
        lambda x: F.max_pool2d(x, 2, padding=2),
        lambda x: F.max_pool2d(x, (1, 2, 3)),
        lambda x: F.avg_pool2d(x, 2, divisor_override=0),
        lambda x: F.adaptive_avg_pool2d(x, (1, 2, 3)),
        lambda x: F.gelu(x, "sigmoid"),
        lambda x: F.dropout(x, 1.5),
        lambda x: F.pad(x, (1,)),
        lambda x: F.pad(x, (1, 1), "mirror"),
        lambda x: F.concat([]),
        lambda x: nn.Conv2d(3, 4, 3, groups=2),
        lambda x: nn.Conv2d(4, 4, 3, padding_mode="zero"),
        lambda x: nn.Conv2d(4, 4, 3, 2, padding="same"),
        lambda x: nn.ConvTranspose2d(4, 4, 3, padding_mode="reflect"),
        lambda x: nn.ConvTranspose2d(2, 4, 3, output_padding=1)(x),
        lambda x: nn.Unflatten(1, 3),
        lambda x: nn.Linear(2.0, 3),
        lambda x: nn.Dropout(-1),
        lambda x: F.batch_norm(x, None, None),
        lambda x: F.batch_norm(x, np.zeros(2), None, training=True),
    ],
)
def test_options_that_do_not_fit(call, x):
    with pytest.raises(nn.OptionError):
        call(x[:, :2, None])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        lambda x: nn.MaxPool2d(2, return_indices=True),
        lambda x: nn.AdaptiveMaxPool2d(2, return_indices=True),
        lambda x: nn.ConvTranspose2d(3, 2, 2)(x, output_size=(9, 9)),
        lambda x: F.pad(x, (-1, 0)),
    ],
)
def test_what_is_not_covered(call, x):
    with pytest.raises(UnsupportedError):
        call(x[:, :, None])


def test_dropout_without_effect(x):
    assert F.dropout(x, 0.5, training=False) is x and nn.Dropout(0)(x) is x

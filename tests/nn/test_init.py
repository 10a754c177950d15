"""Initial parameters: PyTorch's shapes and distributions, repeatable by seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jitseq import nn


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in"),
    [
        (lambda: nn.Linear(100, 80), (80, 100), 100),
        (lambda: nn.Conv2d(16, 64, (3, 5)), (64, 16, 3, 5), 240),
        (lambda: nn.Conv2d(16, 64, 3, groups=4), (64, 4, 3, 3), 36),
        (lambda: nn.ConvTranspose2d(16, 64, 3, groups=4), (16, 16, 3, 3), 144),
    ],
)
def test_uniform_bounds(layer, shape, fan_in):
    nn.manual_seed(0)
    weight, bias = layer().parameters()
    assert weight.shape == shape and weight.dtype == np.float32
    bound = 1 / math.sqrt(fan_in)
    for values in (weight.numpy(), bias.numpy()):
        assert 0.9 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
    assert weight.numpy().std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(weight.numpy().mean()) < 0.05 * bound


def test_constants():
    norm = nn.BatchNorm2d(3)
    np.testing.assert_array_equal(norm.weight, 1)
    np.testing.assert_array_equal(norm.running_var, 1)
    np.testing.assert_array_equal(norm.running_mean, 0)
    np.testing.assert_array_equal(norm.bias, 0)
    assert norm.num_batches_tracked.numpy() == 0
    np.testing.assert_array_equal(nn.PReLU(3, 0.5).weight, 0.5)
    assert nn.BatchNorm2d(3, bias=False).bias is None


def test_seeds():
    def draw(seed: int) -> np.ndarray:
        nn.manual_seed(seed)
        return nn.Linear(4, 4).weight.numpy()

    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
    assert draw(-1).shape == (4, 4)


def test_dtype_and_device():
    assert nn.Linear(2, 2, dtype=np.float64).bias.dtype == np.float64
    assert nn.Conv2d(1, 1, 1, dtype="float64", device="cpu").weight.dtype == np.float64
    with pytest.raises(TypeError):
        nn.Linear(2, 2, dtype=np.float16)
    with pytest.raises(NotImplementedError):
        nn.Linear(2, 2, device="cuda")


def test_empty_layers():
    assert nn.Linear(0, 3).weight.shape == (3, 0)

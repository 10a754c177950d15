"""Models on which random search once found a wrong result or a crash."""

from __future__ import annotations

import numpy as np
import pytest
from error_bound import analyse, assert_within
from strategies import randomise

import jitseq as js
from jitseq import nn

FOUND = {
    # rows joined into one long row; the slope must not move along with it
    "PReLU on an image one column wide": (
        (1, 15, 1),
        [nn.Conv2d(1, 26, (1, 3), padding=(0, 2), dilation=2), nn.PReLU(26)],
    ),
    # both windows start at the first column: they have no stride
    "windows that share their first column": (
        (2, 5, 2),
        [nn.AvgPool2d((1, 2), (1, 1), (0, 1), ceil_mode=True, count_include_pad=False)],
    ),
    "windows cut to one column by padding": (
        (1, 1, 1),
        [nn.AvgPool2d((1, 2), (1, 1), (0, 1))],
    ),
    # 11·2·7 as 2·77: the parts fit only where they are seen as one run of memory
    "a view across the edges of all dimensions": (
        (11, 2, 7),
        [nn.Flatten(), nn.Unflatten(1, (2, 77, 1)), nn.ReLU()],
    ),
    "pooling behind a linear layer": (
        (4, 6, 25),
        [nn.Linear(25, 6), nn.MaxPool2d(2), nn.Linear(3, 5), nn.MaxPool2d((3, 5))],
    ),
    # the only tap reads two rows further down
    "a transposed convolution that crops": (
        (1, 9, 1),
        [nn.ConvTranspose2d(1, 3, (1, 3), padding=2, dilation=(1, 2)), nn.Softsign()],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("disabled", [(), ("fuse",)], ids=["fused", "unfused"])
def test_found(name, disabled) -> None:
    shape, layers = FOUND[name]
    model = nn.Sequential(*layers).eval()
    randomise(model, 0)
    compiled = js.jit(model, disable_passes=disabled)
    for batch in (1, 4):
        x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype("f4")
        expected = analyse(model, [x])
        assert_within(model(x), expected, "float32")
        assert_within(compiled(x), expected, "float32")

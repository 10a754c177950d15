"""Pointwise operands of every shape behind layers whose rows may be joined.

A layer on an image, or on vectors along two axes, treats rows of pixels as one long
row where it can; an operand that is broadcast along one of them does not allow it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import jitseq as js
from jitseq import nn

BATCH = 3
LAYERS = {
    "conv": (lambda out: nn.Conv2d(4, out, 1), (4, 5, 6), (0, 5, 6)),
    "wide conv": (lambda out: nn.Conv2d(4, out, 3, padding=1), (4, 5, 6), (0, 5, 6)),
    "transposed": (lambda out: nn.ConvTranspose2d(4, out, 1), (4, 5, 6), (0, 5, 6)),
    "depthwise": (
        lambda out: nn.Conv2d(out, out, 1, groups=out), (0, 5, 6), (0, 5, 6)
    ),
    "linear": (lambda out: nn.Linear(6, out), (4, 5, 6), (4, 5, 0)),
}  # fmt: skip


def shapes(full: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What can be broadcast to an image of this shape."""
    found = []
    for ndim in (1, 2, 3):
        choices = [(extent, 1) for extent in full[-ndim:]]
        found += [shape for shape in product(*choices) if len(shape) == ndim]
    return found


@pytest.mark.parametrize("outputs", [1, 2, 7, 17])
@pytest.mark.parametrize("name", LAYERS)
def test_operands_of_all_shapes(name, outputs, rng) -> None:
    """As parameters, and as inputs with a batch."""
    make, image, result = LAYERS[name]
    image, result = (tuple(e or outputs for e in shape) for shape in (image, result))
    layer = make(outputs).double()
    x = rng.normal(size=(BATCH, *image))
    params = [nn.Parameter(rng.normal(size=shape)) for shape in shapes(result)]
    inputs = [
        rng.normal(size=(BATCH, *shape)) for shape in shapes(result) if len(shape) == 3
    ]

    def function(x, *operands):
        return tuple(layer(x) * operand for operand in (*params, *operands))

    # the layer stays one kernel for each operand
    compiled = js.jit(function, disable_passes=["simplify"])
    for found, expected in zip(compiled(x, *inputs), function(x, *inputs), strict=True):
        np.testing.assert_allclose(found, expected, 1e-11, 1e-11)

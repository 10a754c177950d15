"""Layers compute what PyTorch's do, in both dtypes, batched or not."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import nn
from jitseq.ir.types import FLOAT_DTYPES

IMAGE = (2, 4, 9, 7)
TOLERANCE = {"float32": (1e-5, 1e-6), "float64": (1e-12, 1e-12)}

CASES = [
    ("Linear(7, 5)", (3, 7)), ("Linear(7, 5, bias=False)", (2, 3, 7)),
    ("Linear(7, 5)", (7,)),
    ("Conv2d(4, 6, 3)", IMAGE), ("Conv2d(4, 6, 3)", IMAGE[1:]),
    ("Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False)", IMAGE),
    ("Conv2d(4, 6, 3, padding='same', dilation=2)", IMAGE),
    ("Conv2d(4, 6, (4, 2), padding='same')", IMAGE),
    ("Conv2d(4, 6, 3, padding='valid', groups=2)", IMAGE),
    ("Conv2d(4, 4, 3, padding=1, groups=4)", IMAGE),
    ("Conv2d(4, 6, 3, stride=2, padding=2, padding_mode='reflect')", IMAGE),
    ("Conv2d(4, 6, (4, 3), padding='same', padding_mode='reflect')", IMAGE),
    ("Conv2d(4, 6, 3, padding=(1, 2), padding_mode='replicate')", IMAGE),
    ("Conv2d(4, 6, 3, padding=(2, 1), padding_mode='circular')", IMAGE),
    ("Conv2d(4, 6, 3, padding=2, padding_mode='reflect')", IMAGE[1:]),
    ("ConvTranspose2d(4, 6, 3)", IMAGE),
    ("ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2)", IMAGE),
    ("ConvTranspose2d(4, 6, (3, 2), dilation=2, bias=False)", IMAGE[1:]),
    ("BatchNorm1d(5)", (6, 5)), ("BatchNorm1d(5, eps=0.1)", (6, 5, 3)),
    ("BatchNorm2d(4)", IMAGE), ("BatchNorm2d(4, affine=False)", IMAGE),
    ("ReLU()", IMAGE), ("ReLU6()", IMAGE), ("LeakyReLU(0.2)", IMAGE),
    ("PReLU()", IMAGE), ("PReLU(4)", IMAGE), ("PReLU(4)", (3, 4)), ("PReLU()", (5,)),
    ("ELU(1.5)", IMAGE), ("SELU()", IMAGE), ("CELU(2)", IMAGE), ("GELU()", IMAGE),
    ("GELU('tanh')", IMAGE), ("SiLU()", IMAGE), ("Mish()", IMAGE),
    ("Hardswish()", IMAGE), ("Hardsigmoid()", IMAGE), ("Hardtanh(-1, 2)", IMAGE),
    ("Sigmoid()", IMAGE), ("LogSigmoid()", IMAGE), ("Tanh()", IMAGE),
    ("Softplus(2, 1)", IMAGE), ("Softsign()", IMAGE),
    ("Softmax()", IMAGE), ("Softmax()", (5,)), ("Softmax()", (2, 3, 4)),
    ("Softmax(-1)", IMAGE), ("LogSoftmax()", (3, 5)), ("LogSoftmax(2)", IMAGE),
    ("Softmin(1)", (3, 5)),
    ("MaxPool2d(2)", IMAGE), ("MaxPool2d(3, 2, 1, ceil_mode=True)", IMAGE),
    ("MaxPool2d((2, 3), 1, dilation=2)", IMAGE), ("MaxPool2d(2)", IMAGE[1:]),
    ("AvgPool2d(2)", IMAGE), ("AvgPool2d(3, 2, 1, True)", IMAGE),
    ("AvgPool2d(3, 2, 1, False, False)", IMAGE),
    ("AvgPool2d((2, 3), divisor_override=5)", IMAGE[1:]),
    ("AdaptiveAvgPool2d(1)", IMAGE), ("AdaptiveAvgPool2d((None, 3))", IMAGE),
    ("AdaptiveAvgPool2d((2, None))", IMAGE[1:]), ("AdaptiveMaxPool2d((4, 2))", IMAGE),
    ("Flatten()", IMAGE), ("Flatten(0, -2)", IMAGE), ("Flatten(0)", (3,)),
    ("Flatten()", (0, 2, 3)), ("Flatten(0)", ()),
    ("Unflatten(1, (2, -1))", IMAGE), ("Unflatten(-1, [7, 1])", IMAGE),
    ("Dropout()", IMAGE), ("Identity()", IMAGE),
    ("Sequential(Conv2d(4, 3, 3), BatchNorm2d(3), ReLU(), MaxPool2d(2), Flatten())",
     IMAGE),
]  # fmt: skip


def pair_of_layers(text: str, dtype: str, rng: np.random.Generator):
    """Ours with random state, and theirs with the same."""
    torch = pytest.importorskip("torch")
    ours = eval(text, dict(vars(nn))).to(dtype).eval()
    theirs = eval(text, dict(vars(torch.nn))).to(getattr(torch, dtype)).eval()
    values = {
        key: rng.uniform(0.5, 1.5, value.shape).astype(value.dtype)
        for key, value in ours.state_dict().items()
    }
    ours.load_state_dict(values)
    theirs.load_state_dict({k: torch.as_tensor(v) for k, v in values.items()})
    return ours, theirs, torch


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize(("text", "shape"), CASES)
def test_layer(text, shape, dtype, rng):
    ours, theirs, torch = pair_of_layers(text, dtype, rng)
    x = rng.normal(0, 2, shape).astype(dtype)
    expected = theirs(torch.from_numpy(np.array(x))).detach().numpy()
    result = ours(x)
    assert result.dtype == dtype and result.shape == expected.shape
    rtol, atol = TOLERANCE[dtype]
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(result, expected, rtol, atol * scale)


def test_tensors_in_tensors_out(rng):
    ours, theirs, torch = pair_of_layers("Sequential(Linear(3, 2))", "float32", rng)
    x = torch.ones(4, 3, requires_grad=True)
    result = ours(x)
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result, theirs(x).detach())
    assert isinstance(nn.Identity()(torch.ones(2)), torch.Tensor)
    with pytest.raises(TypeError):
        ours(torch.ones(4, 3, dtype=torch.bfloat16))


def test_options_may_change_after_construction(rng):
    x = rng.standard_normal((1, 1, 6, 6)).astype(np.float32)
    pool = nn.MaxPool2d(2)
    pool.kernel_size = 3
    assert pool(x).shape == (1, 1, 2, 2)
    drop = nn.Dropout(0.5)
    drop.p = 0
    assert drop(x) is x

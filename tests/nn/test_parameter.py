"""`Parameter` and `Buffer`: values, arithmetic and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import nn
from jitseq.errors import DtypeError, JitseqError


def test_values_are_copied_and_read_only():
    source = np.ones((2, 3), np.float32)
    p = nn.Parameter(source)
    source[:] = 5
    assert p.shape == (2, 3) and p.dtype == np.float32 and p.requires_grad
    np.testing.assert_array_equal(p.numpy(), 1)
    for view in (p.numpy(), np.asarray(p), p.data, p[0]):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 3


def test_assignment_is_seen_and_keeps_dtype():
    p = nn.Parameter(np.zeros(3, np.float32))
    version = p.version
    p[1] = 2
    p.data = np.array([1.0, 2.0, 3.0])
    assert p.version == version + 2 and p.dtype == np.float32
    np.testing.assert_array_equal(p, [1, 2, 3])
    with pytest.raises(JitseqError):
        p.data = np.zeros(4)


def test_python_numbers_are_float32():
    assert nn.Parameter([1.0, 2.0]).dtype == np.float32
    assert nn.Parameter(0.5).shape == ()
    assert nn.Parameter(np.ones(1)).dtype == np.float64
    assert nn.Buffer([1, 2]).dtype.kind == "i"


def test_integers_have_no_gradient():
    with pytest.raises(DtypeError):
        nn.Parameter(np.arange(3))
    assert not nn.Parameter(np.arange(3), requires_grad=False).requires_grad


def test_arithmetic_gives_arrays():
    p, x = nn.Parameter([1.0, 2.0]), np.array([3.0, 5.0], np.float32)
    cases = {
        (4, 7): (p + x, x + p),
        (2, 3): (x - p,),
        (3, 10): (p * x, x * p),
        (3, 2.5): (x / p,),
        (-1, -2): (-p, p * -1, np.negative(p)),
        (2, 4): (p + p, 2 * p, np.multiply(p, 2)),
        (2, 1): (2 / p,),
        (3, 2.0): (4 - p,),
    }
    for expected, results in cases.items():
        for result in results:
            assert type(result) is np.ndarray
            np.testing.assert_allclose(result, expected)
    with pytest.raises(JitseqError):
        np.add(p, 1, out=p)
    np.testing.assert_array_equal(p, [1, 2])


def test_repr_shows_the_value():
    assert repr(nn.Parameter([1.0])).startswith("Parameter containing:\narray([1.]")

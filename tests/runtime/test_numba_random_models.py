"""Random models: the numba backend gives the bits of the cpu backend."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases

import jitseq as js


@settings(
    max_examples=25, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(cases())
def test_random_models(case: Case) -> None:
    compiled = js.jit(case.model, backend="numba")
    reference = js.jit(case.model)
    for x in (case.first, case.second):
        np.testing.assert_array_equal(compiled(x), reference(x))

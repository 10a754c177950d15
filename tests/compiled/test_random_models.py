"""Random models: fused, with passes left out, and at changing batch sizes."""

from __future__ import annotations

from error_bound import analyse, assert_within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Case, cases

import jitseq as js
from jitseq.passes.pipeline import OPTIONAL_PASSES

LEFT_OUT = ((), *((name,) for name in OPTIONAL_PASSES), OPTIONAL_PASSES)
BOUNDED = settings(
    derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def check(case: Case, **options: object) -> None:
    """Both batches through one compiled object, within the bound of float64."""
    compiled = js.jit(case.model, **options)
    for x in (case.first, case.second, case.first):
        assert_within(compiled(x), analyse(case.model, [x]), x.dtype)


@settings(BOUNDED, max_examples=200)
@given(cases())
def test_compiled(case: Case) -> None:
    check(case)


@settings(BOUNDED, max_examples=150)
@given(cases(), st.sampled_from(LEFT_OUT))
def test_without_optional_passes(case: Case, left_out: tuple[str, ...]) -> None:
    check(case, disable_passes=left_out)


@settings(BOUNDED, max_examples=40)
@given(cases(most_layers=4))
def test_eager(case: Case) -> None:
    """The reference itself: eager calls in the model's own dtype."""
    for x in (case.first, case.second):
        assert_within(case.model(x), analyse(case.model, [x]), x.dtype)


@settings(BOUNDED, max_examples=25)
@given(cases())
def test_static_batch(case: Case) -> None:
    check(case, dynamic_batch=False)

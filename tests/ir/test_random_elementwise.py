"""Random Python functions of two numbers, as ops: Python's values, and gradients."""

from __future__ import annotations

import linecache
import math

import numpy as np
from elementwise_functions import in_python, registry_as_before
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jitseq as js

__all__ = ["registry_as_before"]

UNARY = (
    "math.tanh({})", "math.erf({})", "abs({})", "-({})", "math.sqrt(abs({}) + 0.1)",
    "math.exp(-abs({}))", "math.log1p(abs({}))", "math.expm1(math.tanh({}))",
    "math.log(1 + math.exp(math.tanh({})))", "math.tanh({}) ** 3",
)  # fmt: skip
BINARY = (
    "({} + {})", "({} - {})", "math.tanh({}) * math.tanh({})", "min({}, {})",
    "max({}, {})", "({} / (1 + abs({})))", "max({}, 0.25, {})",
)  # fmt: skip
CONDITIONS = (
    "{} < {}", "not {} <= {}", "{} > 0 and {} < 1", "{} >= 0.5 or {} > 0",
    "-1 < {} < {}", "{} != {}", "{} == {} or not flag",
)  # fmt: skip
LEAVES = ("x", "y", "a", "0.7", "k", "2")
"""Everything stays finite, so that no result depends on how an error is reported."""

Draw = st.DrawFn


@st.composite
def expression(draw: Draw, depth: int = 3) -> str:
    kind = draw(st.integers(0, 3)) if depth else 0
    if kind == 0:
        return draw(st.sampled_from(LEAVES))
    parts = [draw(expression(depth - 1)) for _ in range(2)]
    if kind == 1:
        return draw(st.sampled_from(UNARY)).format(parts[0])
    if kind == 2:
        return draw(st.sampled_from(BINARY)).format(*parts)
    return f"({parts[0]} if {draw(condition(depth - 1))} else {parts[1]})"


@st.composite
def condition(draw: Draw, depth: int = 1) -> str:
    text = draw(st.sampled_from(CONDITIONS))
    return text.format(draw(expression(depth)), draw(expression(depth)))


@st.composite
def block(draw: Draw, depth: int = 2, ends: bool = True) -> list[str]:
    """Statements; the last of them, if it ``ends``, returns on every way."""
    lines = []
    for _ in range(draw(st.integers(0, 2))):
        name, value = draw(st.sampled_from("xa")), draw(expression())
        lines.append(f"{name} {draw(st.sampled_from(('=', '+=')))} {value}")
        if depth and draw(st.booleans()):
            lines += draw(branch(depth - 1, False))
    if not ends:
        return [*lines, "a = a * 0.5"]
    if depth and draw(st.booleans()):
        return lines + draw(branch(depth - 1, draw(st.booleans())))
    return [*lines, f"return {draw(expression())}"]


@st.composite
def branch(draw: Draw, depth: int, returns: bool) -> list[str]:
    yes, no = draw(block(depth, returns)), draw(block(depth, False))
    lines = [f"if {draw(condition())}:", *indented(yes), "else:", *indented(no)]
    return [*lines, *draw(block(depth))] if returns else lines


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@st.composite
def source(draw: Draw) -> str:
    body = draw(block())
    if not body[-1].startswith("return"):
        body.append(f"return {draw(expression())}")
    return "\n".join(["def f(x, y, *, k=0.3):", *indented(["a = y - 1", *body]), ""])


def function_of(text: str):
    """The function, with a source that `inspect` finds, as in a notebook."""
    file = f"<random {hash(text)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    names = {"math": math, "flag": True}
    exec(compile(text, file, "exec"), names)
    return js.elementwise(names["f"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck),
    derandomize=True,
)  # fmt: skip
@given(text=source())
def test_random_functions(text) -> None:
    rng = np.random.default_rng(0)
    function = function_of(text)
    x, y = 2 * rng.standard_normal((2, 40))
    expected = in_python(function, x, y)
    np.testing.assert_allclose(function(x, y), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        function(x, y, k=-1.5), in_python(function, x, y, k=-1.5)
    )
    function.check()


@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck),
    derandomize=True,
)  # fmt: skip
@given(text=source())
def test_random_functions_compiled(text) -> None:
    """In float64: conditions of float32 values could go the other way."""
    rng = np.random.default_rng(0)
    function, (x, y) = function_of(text), 2 * rng.standard_normal((2, 40))
    compiled = js.jit(function)
    np.testing.assert_allclose(compiled(x, y), function(x, y), rtol=1e-9, atol=1e-11)
    g = np.ones_like(x)
    for found, wanted in zip(
        compiled.vjp(x, y)[1](g)[0], js.vjp(function, x, y)[1](g)[0]
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)

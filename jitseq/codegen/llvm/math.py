"""Vector exp, expm1, log, log1p, tanh and erf as LLVM IR text.

Enters: which functions are needed, as (name, element, lanes). Leaves: their
definitions, and the declarations of the intrinsics they call. Invariant: each
function is branch-free and correct within `ULP_BOUND` for every argument, including
subnormal arguments and results, signed zeros, infinities and NaN.

Sources: reduction by Cody and Waite, "Software Manual for the Elementary Functions"
(1980); the logarithm's series in ``s = f/(2+f)`` from Sun's fdlibm (1993); the sum
``1 + x`` without error by Knuth's TwoSum. Coefficients: `math_tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, nan

from jitseq.codegen.llvm.math_emit import FORMATS, Bits, Body, Mask, type_suffix
from jitseq.codegen.llvm.math_tables import CONSTANTS, Constants

ULP_BOUND: dict[tuple[str, str], float] = {
    ("exp", "float"): 1.0,
    ("expm1", "float"): 1.5,
    ("log", "float"): 1.0,
    ("log1p", "float"): 1.0,
    ("tanh", "float"): 1.75,
    ("erf", "float"): 1.25,
    ("exp", "double"): 1.0,
    ("expm1", "double"): 1.5,
    ("log", "double"): 1.0,
    ("log1p", "double"): 1.0,
    ("tanh", "double"): 1.75,
    ("erf", "double"): 1.25,
}
"""Largest distance from the exact value, in units of the exact value's last place.

Measured on 58 million float32 arguments (every 11th one from 2^-31 to 192, both
signs) and on 3 million float64 ones (erf: 40 thousand), rounded up to a quarter.
"""


@dataclass(frozen=True)
class MathText:
    """``declares``: one line each, to be merged by the caller; ``definitions``: IR."""

    declares: frozenset[str]
    definitions: str


def symbol(name: str, element: str, lanes: int) -> str:
    """The function's name in the module.

    >>> symbol("exp", "float", 16), symbol("tanh", "double", 1)
    ('@js.exp.v16f32', '@js.tanh.f64')
    """
    return f"@js.{name}.{type_suffix(FORMATS[element], lanes)}"


def math_functions(
    needed: Iterable[tuple[str, str, int]], attributes: str = "nounwind"
) -> MathText:
    """Definitions of the functions ``(name, element, lanes)``, each once, sorted.

    ``element`` is ``"float"`` or ``"double"``; one lane means a scalar function.
    ``attributes`` are added to each; a module's ``#0`` names its target.
    """
    declares: set[str] = set()
    definitions = []
    for name, element, lanes in sorted(set(needed)):
        body = Body(FORMATS[element], lanes)
        result = _FORMULAS[name](body, CONSTANTS[element], "%x")
        signature = f"{symbol(name, element, lanes)}({body.type} %x)"
        head = f"define internal {body.type} {signature} alwaysinline {attributes} {{"
        tail = [f"  ret {body.type} {result}", "}", ""]
        definitions.append("\n".join([head, *body.lines, *tail]))
        declares |= body.declares
    return MathText(frozenset(declares), "\n".join(definitions))


@dataclass(frozen=True)
class _Reduced:
    """``x = n·ln2 + r`` with ``|r| <= ln2/2``; ``exponent`` is n at the exponent's
    place in the encoding, modulo its width."""

    r: str
    exponent: Bits


def _reduce(b: Body, c: Constants, x: str) -> _Reduced:
    b.note("n = round(x / ln 2), r = x - n ln 2")
    shifted = b.fma(x, c.log2_e, c.round_magic)
    n = b.sub(shifted, c.round_magic)
    r = b.fma(n, -c.ln2_low, b.fma(n, -c.ln2_high, x))
    return _Reduced(r, b.shift_left(b.bits(shifted), b.fmt.fraction))


def _power(b: Body, reduced: _Reduced, offset: int) -> str:
    """``2^(n + offset)``, where that is a normal number."""
    bias = (b.fmt.bias + offset) << b.fmt.fraction
    return b.from_bits(b.int_add(reduced.exponent, bias))


def _exp(b: Body, c: Constants, x: str) -> str:
    """e^x = 2^(n-1) · 2e^r, so that n one above the largest exponent overflows last.

    Where 2^(n-1) might be subnormal, it is scaled up and the result back down, which
    rounds a subnormal result once.
    """
    lift = b.fmt.fraction + 10
    x = b.at_least(b.at_most(x, c.exp_infinite), c.exp_zero)
    reduced = _reduce(b, c, x)
    b.note("2 e^r")
    doubled = b.horner([2.0, 2.0, *(2 * p for p in c.expm1)], reduced.r)
    b.note("times 2^(n-1)")
    low = b.less(x, c.exp_subnormal)
    bias, fraction = b.fmt.bias, b.fmt.fraction
    lifted_bias = b.int_select(
        low, (bias - 1 + lift) << fraction, (bias - 1) << fraction
    )
    power = b.from_bits(b.int_add(reduced.exponent, lifted_bias))
    result = b.mul(doubled, power)
    return b.select(low, b.mul(result, 2.0**-lift), result)


def _normal_exp(b: Body, c: Constants, x: str) -> tuple[str, str]:
    """``(e^r, 2^n)`` with e^x their product, for x whose e^x is a normal number."""
    reduced = _reduce(b, c, x)
    b.note("e^r")
    return str(b.horner([1.0, 1.0, *c.expm1], reduced.r)), _power(b, reduced, 0)


def _expm1(b: Body, c: Constants, x: str) -> str:
    """e^x - 1 = 2·(p·w + (p·r + (p - 1/2))), p = 2^(n-1), w = e^r - 1 - r."""
    bounded = b.at_least(b.at_most(x, c.exp_infinite), c.expm1_minus_one)
    reduced = _reduce(b, c, bounded)
    b.note("w = e^r - 1 - r")
    r = reduced.r
    w = b.mul(b.mul(r, r), b.horner(c.expm1, r))
    power = _power(b, reduced, -1)
    half = b.fma(power, w, b.fma(power, r, b.sub(power, 0.5)))
    b.note("tiny x, and the sign of zero")
    linear = b.less(b.abs(x), c.expm1_linear)
    return b.select(linear, x, b.add(half, half))


@dataclass(frozen=True)
class _Split:
    """A positive normal ``u = 2^k · m`` with m from √½ to √2; ``shifted_k`` is
    ``k + bias + 2^fraction`` as a floating-point number."""

    m: str
    shifted_k: str


def _split(b: Body, u: str) -> _Split:
    b.note("u = 2^k m, m from sqrt(1/2) to sqrt(2)")
    fmt = b.fmt
    root, one = fmt.encode(0.5**0.5), fmt.encode(1.0)
    aligned = b.int_add(b.bits(u), one - root)
    fraction = b.int_and(aligned, (1 << fmt.fraction) - 1)
    exponent = b.shift_right(aligned, fmt.fraction)
    shifted_k = b.from_bits(b.int_or(exponent, fmt.encode(2.0**fmt.fraction)))
    return _Split(b.from_bits(b.int_add(fraction, root)), shifted_k)


def _log_series(b: Body, c: Constants, k: str, f: str, tail: str | None) -> str:
    """``k·ln2 + ln(1 + f) + tail`` as k·ln2 + (f - (h - s·(h + R(s²)))), h = f²/2."""
    b.note("k ln 2 + ln(1 + f), with s = f / (2 + f)")
    s = b.div(f, b.add(f, 2.0))
    z = b.mul(s, s)
    series = b.mul(z, b.horner(c.log, z))
    h = b.mul(b.mul(f, 0.5), f)
    low = b.mul(k, c.ln2_low) if tail is None else b.fma(k, c.ln2_low, tail)
    rest = b.fma(s, b.add(h, series), low)
    return b.fma(k, c.ln2_high, b.sub(f, b.sub(h, rest)))


def _poles(b: Body, x: str, pole: float, result: str) -> str:
    """-inf at the pole, NaN below it, +inf and NaN as they came, else ``result``."""
    b.note("the pole and below, infinity, NaN")
    finite = b.select(b.less(x, inf), result, x)
    outside = b.select(b.equal(x, pole), -inf, nan)
    return b.select(b.less_equal(x, pole), outside, finite)


def _log(b: Body, c: Constants, x: str) -> str:
    b.note("subnormal x is scaled up")
    small = b.less(x, c.smallest_normal)
    split = _split(b, b.select(small, b.mul(x, 2.0**c.log_scale), x))
    offset = 2.0**b.fmt.fraction + b.fmt.bias
    k = b.sub(split.shifted_k, b.select(small, offset + c.log_scale, offset))
    result = _log_series(b, c, k, b.sub(split.m, 1.0), None)
    return _poles(b, x, 0.0, result)


def _log1p(b: Body, c: Constants, x: str) -> str:
    """ln(u) + error/u where u + error = 1 + x exactly; f = x where u needs no split."""
    b.note("u + error = 1 + x")
    u = b.add(x, 1.0)
    v = b.sub(u, x)
    error = b.add(b.sub(1.0, v), b.sub(x, b.sub(u, v)))
    split = _split(b, u)
    whole: Mask = b.equal(split.m, u)
    f = b.select(whole, x, b.sub(split.m, 1.0))
    tail = b.select(whole, 0.0, b.div(error, u))
    k = b.sub(split.shifted_k, 2.0**b.fmt.fraction + b.fmt.bias)
    result = b.copysign(_log_series(b, c, k, f, tail), x)
    return _poles(b, x, -1.0, result)


def _tanh(b: Body, c: Constants, x: str) -> str:
    """a + a³P(a²) for a = |x| below the split, else 1 - 2/(e^2a + 1)."""
    a = b.abs(x)
    b.note("small |x|: an odd polynomial")
    z = b.mul(a, a)
    small = b.fma(b.mul(z, a), b.horner(c.tanh, z), a)
    b.note("else 1 - 2 / (exp(2 |x|) + 1)")
    fraction, power = _normal_exp(b, c, b.at_most(b.add(a, a), c.tanh_one))
    large = b.sub(1.0, b.div(2.0, b.fma(fraction, power, 1.0)))
    return b.copysign(b.select(b.less(a, c.tanh_split), small, large), x)


def _erf(b: Body, c: Constants, x: str) -> str:
    """a + aP(a²) for a = |x| below the split, else 1 - exp(Q(a)), Q = ln erfc."""
    a = b.abs(x)
    b.note("small |x|: an odd polynomial")
    small = b.fma(a, b.horner(c.erf, b.mul(a, a)), a)
    b.note("else 1 - exp(ln erfc |x|)")
    log_erfc = str(b.horner(c.log_erfc, b.at_most(a, c.erf_one)))
    fraction, power = _normal_exp(b, c, log_erfc)
    large = b.fma(b.neg(fraction), power, 1.0)
    return b.copysign(b.select(b.less(a, c.erf_split), small, large), x)


_FORMULAS: dict[str, Callable[[Body, Constants, str], str]] = {
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "tanh": _tanh,
    "erf": _erf,
}

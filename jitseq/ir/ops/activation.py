"""Activations and other functions of one number, each an expression.

The derivative stands beside each formula; ``y`` is the output. Derivatives as
expressions are in `jitseq.ir.ops.activation_grad`. NaN maps to NaN and infinities to
PyTorch's limits. An expression is also what compiled kernels evaluate,
so it has few operations and, where possible, one exponential; ``where`` evaluates
both sides, and the side that is not taken may overflow.
"""

from __future__ import annotations

import math
from typing import Any

from jitseq.errors import UnsupportedError
from jitseq.ir.op import Example
from jitseq.ir.ops import activation_grad as grad
from jitseq.ir.ops.constants import MISH_LINEAR, SELU_ALPHA, SELU_SCALE
from jitseq.ir.ops.pointwise import Attrs, unary

SHAPES = (((2, 3, 5, 7),), ((1, 1),), ((33,),))


def _examples(
    *options: dict[str, Any], low: float | None = None, high: float | None = None
) -> tuple[Example, ...]:
    return tuple(
        Example(shapes, attrs, low, high)
        for shapes in SHAPES
        for attrs in (options or ({},))
    )


def _always(attrs: Attrs) -> bool:
    return True


def relu(m: Any, x: Any) -> Any:
    """max(x, 0); derivative 1 where y > 0, else 0."""
    return m.where(m.lt(x, 0), 0, x)


def relu6(m: Any, x: Any) -> Any:
    """min(max(x, 0), 6); derivative 1 where 0 < x < 6, else 0."""
    return hardtanh(m, x, min_val=0, max_val=6)


def leaky_relu(m: Any, x: Any, *, negative_slope: float) -> Any:
    """x, or slope x below 0; derivative 1 where x > 0, else the slope."""
    return m.where(m.gt(x, 0), x, x * negative_slope)


def elu(m: Any, x: Any, *, alpha: float) -> Any:
    """x, or α (eˣ - 1) below 0; derivative 1 where x > 0, else α eˣ = y + α.

    Clevert et al. 2016, Exponential Linear Units.
    """
    return m.where(m.gt(x, 0), x, m.expm1(x) * alpha)


def selu(m: Any, x: Any) -> Any:
    """λ elu(x, α); derivative λ where x > 0, else y + λ α."""
    negative = m.expm1(x) * (SELU_SCALE * SELU_ALPHA)
    return m.where(m.gt(x, 0), x * SELU_SCALE, negative)


def celu(m: Any, x: Any, *, alpha: float) -> Any:
    """x, or α (exp(x/α) - 1) below 0; derivative 1 where x > 0, else y/α + 1.

    Barron 2017, Continuously Differentiable Exponential Linear Units.
    """
    return m.where(m.gt(x, 0), x, m.expm1(x * (1 / alpha)) * alpha)


def gelu(m: Any, x: Any, *, approximate: str) -> Any:
    """x Φ(x), Φ the normal distribution; derivative Φ(x) + x φ(x).

    ``"tanh"`` takes Φ(x) = (1 + tanh u) / 2 = 1 / (1 + exp(-2u)) with
    u = √(2/π) (x + 0.044715 x³). Hendrycks and Gimpel 2016, GELUs.
    """
    if approximate == "none":
        return x * 0.5 * (m.erf(x * math.sqrt(0.5)) + 1)
    scale = -2 * math.sqrt(2 / math.pi)
    return x / (m.exp(x * (x * x * (0.044715 * scale) + scale)) + 1)


def silu(m: Any, x: Any) -> Any:
    """x σ(x); derivative σ(x) (1 + x (1 - σ(x)))."""
    return x / (m.exp(-x) + 1)


def mish(m: Any, x: Any) -> Any:
    """x tanh(log(1 + eˣ)) = x n / (n + 2) with n = eˣ (eˣ + 2). Misra 2019, Mish.

    Derivative t + x σ(x) (1 - t²) with t = n / (n + 2).
    """
    e = m.exp(x)
    n = e * (e + 2)
    return m.where(m.gt(x, MISH_LINEAR), x, x * (n / (n + 2)))


def hardsigmoid(m: Any, x: Any) -> Any:
    """min(max(x + 3, 0), 6) / 6; derivative 1/6 where |x| < 3, else 0."""
    return hardtanh(m, x + 3, min_val=0, max_val=6) * (1 / 6)


def hardswish(m: Any, x: Any) -> Any:
    """x hardsigmoid(x); derivative 0 below -3, 1 above 3, else x/3 + 1/2."""
    return x * hardsigmoid(m, x)


def hardtanh(m: Any, x: Any, *, min_val: float, max_val: float) -> Any:
    """min(max(x, low), high); derivative 1 where low < x < high, else 0."""
    bounded_below = m.where(m.lt(x, min_val), min_val, x)
    return m.where(m.gt(x, max_val), max_val, bounded_below)


def sigmoid(m: Any, x: Any) -> Any:
    """σ(x) = 1 / (1 + exp(-x)); derivative y (1 - y)."""
    return 1 / (m.exp(-x) + 1)


def logsigmoid(m: Any, x: Any) -> Any:
    """log σ(x) = min(x, 0) - log(1 + exp(-|x|)); derivative σ(-x)."""
    return m.where(m.gt(x, 0), 0, x) - m.log1p(m.exp(-m.abs(x)))


def tanh(m: Any, x: Any) -> Any:
    """tanh x; derivative 1 - y²."""
    return m.tanh(x)


def softplus(m: Any, x: Any, *, beta: float, threshold: float) -> Any:
    """log(1 + exp(β x)) / β, or x where β x > threshold; derivative σ(β x), or 1."""
    scaled = x * beta
    curved = m.log1p(m.exp(scaled)) * (1 / beta)
    return m.where(m.gt(scaled, threshold), x, curved)


def softsign(m: Any, x: Any) -> Any:
    """x / (1 + |x|); derivative 1 / (1 + |x|)²."""
    return x / (m.abs(x) + 1)


def _check_celu(attrs: Attrs) -> None:
    if attrs["alpha"] == 0:
        raise UnsupportedError(
            "celu: alpha must not be 0", hint="relu is the limit of celu for alpha → 0"
        )


def _check_softplus(attrs: Attrs) -> None:
    if attrs["beta"] == 0:
        raise UnsupportedError(
            "softplus: beta must not be 0", hint="the default is beta=1"
        )


def _check_gelu(attrs: Attrs) -> None:
    if attrs["approximate"] not in ("none", "tanh"):
        raise UnsupportedError(
            f"gelu: there is no approximation {attrs['approximate']!r}",
            hint="choose approximate='none' or 'tanh'",
        )


unary("relu", relu, grad.RELU, *_examples(), monotone=_always)
unary("relu6", relu6, grad.RELU6, *_examples(), monotone=_always)
# A slope of 0 would turn -inf into NaN, which a later maximum spreads.
unary(
    "leaky_relu",
    leaky_relu,
    grad.LEAKY_RELU,
    *_examples({"negative_slope": 0.01}, {"negative_slope": -0.5}),
    monotone=lambda attrs: bool(attrs["negative_slope"] > 0),
)
unary(
    "elu",
    elu,
    grad.ELU,
    *_examples({"alpha": 1.0}, {"alpha": 0.3}),
    monotone=lambda attrs: bool(attrs["alpha"] >= 0),
)
unary("selu", selu, grad.SELU, *_examples(), monotone=_always)
unary(
    "celu",
    celu,
    grad.CELU,
    *_examples({"alpha": 1.0}, {"alpha": 0.7}),
    monotone=lambda attrs: bool(attrs["alpha"] > 0),
    check=_check_celu,
)
unary(
    "gelu",
    gelu,
    grad.GELU,
    *_examples({"approximate": "none"}, {"approximate": "tanh"}),
    check=_check_gelu,
)
unary("silu", silu, grad.SILU, *_examples())
unary("mish", mish, grad.MISH, *_examples())
unary("hardswish", hardswish, grad.HARDSWISH, *_examples())
unary("hardsigmoid", hardsigmoid, grad.HARDSIGMOID, *_examples(), monotone=_always)
unary(
    "hardtanh",
    hardtanh,
    grad.HARDTANH,
    *_examples({"min_val": -1.0, "max_val": 1.0}, {"min_val": 0.25, "max_val": 0.5}),
    monotone=lambda attrs: bool(attrs["min_val"] <= attrs["max_val"]),
)
unary("sigmoid", sigmoid, grad.SIGMOID, *_examples(), monotone=_always)
unary("logsigmoid", logsigmoid, grad.LOGSIGMOID, *_examples(), monotone=_always)
unary("tanh", tanh, grad.TANH, *_examples(), monotone=_always)
# The step down at the threshold is lost in rounding from the default 20 upwards.
unary(
    "softplus",
    softplus,
    grad.SOFTPLUS,
    *_examples({"beta": 1.0, "threshold": 20.0}, {"beta": 2.5, "threshold": 1.0}),
    monotone=lambda attrs: bool(attrs["beta"] > 0 and attrs["threshold"] >= 20),
    check=_check_softplus,
)
unary("softsign", softsign, grad.SOFTSIGN, *_examples())
unary("neg", lambda m, x: -x, grad.NEG, *_examples())
unary("exp", lambda m, x: m.exp(x), grad.EXP, *_examples(), monotone=_always)
unary("log", lambda m, x: m.log(x), grad.LOG, *_examples(low=0.1, high=9.0))
unary("sqrt", lambda m, x: m.sqrt(x), grad.SQRT, *_examples(low=0.0, high=9.0))
unary("rsqrt", lambda m, x: 1 / m.sqrt(x), grad.RSQRT, *_examples(low=0.1, high=9.0))
unary("abs", lambda m, x: m.abs(x), grad.ABS, *_examples())
unary("erf", lambda m, x: m.erf(x), grad.ERF, *_examples(), monotone=_always)

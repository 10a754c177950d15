"""Activations: elementwise functions, `prelu`, and the softmax family.

An array of any shape enters, one of the same shape and dtype leaves (float32 or
float64; `DtypeError` otherwise). ``inplace`` is accepted and has no effect.
"""

from __future__ import annotations

from jitseq.errors import ShapeError
from jitseq.ir.tracer import apply
from jitseq.nn.functional.arguments import (
    Array,
    dimension,
    need_number,
    one_of,
    operand,
    type_text,
)


def relu(input: Array, inplace: bool = False) -> Array:
    """``max(x, 0)``; NaN stays NaN."""
    return apply("relu", operand(input))


def relu6(input: Array, inplace: bool = False) -> Array:
    """``min(max(x, 0), 6)``."""
    return apply("relu6", operand(input))


def leaky_relu(
    input: Array, negative_slope: float = 0.01, inplace: bool = False
) -> Array:
    """``x`` where it is positive, ``negative_slope · x`` elsewhere."""
    return apply("leaky_relu", operand(input), negative_slope=float(negative_slope))


def prelu(input: Array, weight: Array) -> Array:
    """`leaky_relu` with a learned slope: one, or one for each channel.

    ``input`` is ``(N, C, …)``; ``weight`` holds 1 or ``C`` numbers.
    """
    x, slope = operand(input), operand(weight)
    count = slope.shape[0] if slope.ndim else 1
    channels = x.shape[1] if x.ndim > 1 else 1
    if slope.ndim > 1 or count not in (1, channels):
        raise ShapeError(
            f"prelu: input has {channels} channels, weight holds {slope.size}",
            facts={"input": type_text(x), "weight": type_text(slope)},
            hint=f"PReLU(num_parameters={channels}), or one slope for all channels",
        )
    if count > 1:
        slope = apply("reshape", slope, shape=(1, count) + (1,) * (x.ndim - 2))
    return apply("prelu", x, slope)


def elu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """``x`` where it is positive, ``alpha · (exp(x) - 1)`` elsewhere."""
    return apply("elu", operand(input), alpha=float(alpha))


def selu(input: Array, inplace: bool = False) -> Array:
    """The scaled `elu` of Klambauer et al., Self-normalizing networks, 2017."""
    return apply("selu", operand(input))


def celu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """``max(x, 0) + min(alpha · (exp(x / alpha) - 1), 0)``."""
    return apply("celu", operand(input), alpha=float(alpha))


def gelu(input: Array, approximate: str = "none") -> Array:
    """``x · Φ(x)``; ``approximate="tanh"`` is Hendrycks and Gimpel's form, 2016."""
    one_of(approximate, "gelu: approximate", ("none", "tanh"))
    return apply("gelu", operand(input), approximate=approximate)


def silu(input: Array, inplace: bool = False) -> Array:
    """``x · sigmoid(x)``."""
    return apply("silu", operand(input))


def mish(input: Array, inplace: bool = False) -> Array:
    """``x · tanh(softplus(x))``."""
    return apply("mish", operand(input))


def hardswish(input: Array, inplace: bool = False) -> Array:
    """``x · relu6(x + 3) / 6``."""
    return apply("hardswish", operand(input))


def hardsigmoid(input: Array, inplace: bool = False) -> Array:
    """``relu6(x + 3) / 6``."""
    return apply("hardsigmoid", operand(input))


def hardtanh(
    input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Array:
    """``x`` clipped to ``min_val..max_val``."""
    bounds = {"min_val": float(min_val), "max_val": float(max_val)}
    return apply("hardtanh", operand(input), **bounds)


def sigmoid(input: Array) -> Array:
    """``1 / (1 + exp(-x))``."""
    return apply("sigmoid", operand(input))


def logsigmoid(input: Array) -> Array:
    """``log(sigmoid(x))``, without overflow."""
    return apply("logsigmoid", operand(input))


def tanh(input: Array) -> Array:
    """The hyperbolic tangent."""
    return apply("tanh", operand(input))


def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """``log(1 + exp(beta · x)) / beta``; ``x`` where ``beta · x > threshold``."""
    options = {"beta": float(beta), "threshold": float(threshold)}
    return apply("softplus", operand(input), **options)


def softsign(input: Array) -> Array:
    """``x / (1 + |x|)``."""
    return apply("softsign", operand(input))


def softmax(input: Array, dim: int | None = None) -> Array:
    """``exp(x) / Σ exp(x)`` along ``dim``.

    Without ``dim`` it is 0 for inputs of 0, 1 or 3 dimensions and 1 for others, as in
    PyTorch.
    """
    return _along("softmax", operand(input), dim)


def log_softmax(input: Array, dim: int | None = None) -> Array:
    """``x - log Σ exp(x)`` along ``dim``; see `softmax`."""
    return _along("log_softmax", operand(input), dim)


def softmin(input: Array, dim: int | None = None) -> Array:
    """`softmax` of ``-x``."""
    return _along("softmax", apply("neg", operand(input)), dim)


def _along(op: str, x: Array, dim: int | None) -> Array:
    if dim is None:
        dim = 0 if x.ndim in (0, 1, 3) else 1
    dim = dimension(dim, x, op)
    if dim == 0 and x.ndim:
        need_number(x.shape[0])
    return apply(op, x, dim=dim)

"""Derivatives of the functions of one number, as expressions.

``g`` is the cotangent of the output y = f(x); each expression is ``g f'(x)``, read from
x or from y, whichever needs fewer operations. At kinks it is PyTorch's choice: 0 for
relu and abs at 0, 0 for hardtanh at its bounds. For NaN it is PyTorch's, too: where
the formula only selects, a NaN counts as the side where the comparison fails.
"""

from __future__ import annotations

import math
from typing import Any

from jitseq.ir.graph import Node
from jitseq.ir.op import Cotangents, Emit
from jitseq.ir.ops.constants import MISH_LINEAR, SELU_ALPHA, SELU_SCALE
from jitseq.ir.ops.pointwise import Derivative


def relu(m: Any, g: Any, y: Any) -> Any:
    return m.where(m.le(y, 0), 0, g)


def relu6(m: Any, g: Any, x: Any) -> Any:
    return hardtanh(m, g, x, min_val=0, max_val=6)


def hardtanh(m: Any, g: Any, x: Any, *, min_val: float, max_val: float) -> Any:
    return m.where(m.le(x, min_val), 0, m.where(m.ge(x, max_val), 0, g))


def leaky_relu(m: Any, g: Any, x: Any, *, negative_slope: float) -> Any:
    return m.where(m.gt(x, 0), g, g * negative_slope)


def elu(m: Any, g: Any, x: Any, *, alpha: float) -> Any:
    return m.where(m.le(x, 0), g * alpha * m.exp(x), g)


def selu(m: Any, g: Any, x: Any) -> Any:
    scale = SELU_SCALE * SELU_ALPHA
    return m.where(m.le(x, 0), g * scale * m.exp(x), g * SELU_SCALE)


def celu(m: Any, g: Any, x: Any, *, alpha: float) -> Any:
    return m.where(m.le(x, 0), g * m.exp(x * (1 / alpha)), g)


def gelu(m: Any, g: Any, x: Any, *, approximate: str) -> Any:
    """g (Φ(x) + x φ(x)); for "tanh", Φ = s = σ(2u) and φ = 2u' s (1 - s)."""
    if approximate == "none":
        normal = m.erf(x * math.sqrt(0.5)) * 0.5 + 0.5
        density = m.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return g * (normal + x * density)
    scale = 2 * math.sqrt(2 / math.pi)
    square = x * x
    s = 1 / (m.exp(x * (square * (-0.044715 * scale) - scale)) + 1)
    slope = square * (3 * 0.044715 * scale) + scale
    return g * (s + x * (s * (1 - s) * slope))


def silu(m: Any, g: Any, x: Any) -> Any:
    s = 1 / (m.exp(-x) + 1)
    return g * s * (x * (1 - s) + 1)


def mish(m: Any, g: Any, x: Any) -> Any:
    """g (t + x σ(x) (1 - t²)) with t = n / (n + 2), n = eˣ (eˣ + 2)."""
    e = m.exp(x)
    n = e * (e + 2)
    t = n / (n + 2)
    curved = g * (t + x * (e / (e + 1)) * (1 - t * t))
    return m.where(m.gt(x, MISH_LINEAR), g, curved)


def hardsigmoid(m: Any, g: Any, x: Any) -> Any:
    """g / 6 inside of (-3, 3); a NaN is outside."""
    return m.where(m.gt(x, -3), m.where(m.lt(x, 3), g * (1 / 6), 0), 0)


def hardswish(m: Any, g: Any, x: Any) -> Any:
    """g from 3 upwards, 0 up to -3, between them g (x/3 + 1/2)."""
    inside = m.where(m.lt(x, 3), g * (x * (1 / 3) + 0.5), g)
    return m.where(m.le(x, -3), 0, inside)


def sigmoid(m: Any, g: Any, y: Any) -> Any:
    return g * (1 - y) * y


def logsigmoid(m: Any, g: Any, x: Any) -> Any:
    return g / (m.exp(x) + 1)


def tanh(m: Any, g: Any, y: Any) -> Any:
    return g * (1 - y * y)


def softplus(m: Any, g: Any, x: Any, *, beta: float, threshold: float) -> Any:
    scaled = x * beta
    return m.where(m.gt(scaled, threshold), g, g / (m.exp(-scaled) + 1))


def softsign(m: Any, g: Any, x: Any) -> Any:
    size = m.abs(x) + 1
    return g / (size * size)


def sqrt(m: Any, g: Any, y: Any) -> Any:
    return g / (y * 2)


def rsqrt(m: Any, g: Any, y: Any) -> Any:
    return g * -0.5 * (y * y * y)


def absolute(m: Any, g: Any, x: Any) -> Any:
    return m.where(m.gt(x, 0), g, m.where(m.lt(x, 0), -g, 0))


def erf(m: Any, g: Any, x: Any) -> Any:
    return g * m.exp(-(x * x)) * (2 / math.sqrt(math.pi))


def _neg(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    return (emit("neg", cotangents[0]),)


def _exp(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    return (emit("mul", cotangents[0], node.output),)


def _log(emit: Emit, node: Node, cotangents: Cotangents) -> Cotangents:
    return (emit("div", cotangents[0], node.inputs[0]),)


RELU = Derivative(relu, "output")
RELU6 = Derivative(relu6)
HARDTANH = Derivative(hardtanh)
LEAKY_RELU = Derivative(leaky_relu)
ELU = Derivative(elu)
SELU = Derivative(selu)
CELU = Derivative(celu)
GELU = Derivative(gelu)
SILU = Derivative(silu)
MISH = Derivative(mish)
HARDSIGMOID = Derivative(hardsigmoid)
HARDSWISH = Derivative(hardswish)
SIGMOID = Derivative(sigmoid, "output")
LOGSIGMOID = Derivative(logsigmoid)
TANH = Derivative(tanh, "output")
SOFTPLUS = Derivative(softplus)
SOFTSIGN = Derivative(softsign)
SQRT = Derivative(sqrt, "output")
RSQRT = Derivative(rsqrt, "output")
ABS = Derivative(absolute)
ERF = Derivative(erf)
NEG, EXP, LOG = _neg, _exp, _log

"""Activation layers, one call of the functional of the same name each."""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import Array, integer
from jitseq.nn.init import float_dtype
from jitseq.nn.module import Module
from jitseq.nn.parameter import Parameter


class _Elementwise(Module):
    """An activation without options; ``inplace`` is accepted and has no effect."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""

    def _with(self, text: str) -> str:
        return f"{text}, inplace=True" if self.inplace else text


class ReLU(_Elementwise):
    """``max(x, 0)``; see `functional.relu`."""

    def forward(self, input: Array) -> Array:
        return F.relu(input)


class ReLU6(_Elementwise):
    """``min(max(x, 0), 6)``; see `functional.relu6`."""

    def forward(self, input: Array) -> Array:
        return F.relu6(input)


class SELU(_Elementwise):
    """See `functional.selu`."""

    def forward(self, input: Array) -> Array:
        return F.selu(input)


class SiLU(_Elementwise):
    """``x · sigmoid(x)``; see `functional.silu`."""

    def forward(self, input: Array) -> Array:
        return F.silu(input)


class Mish(_Elementwise):
    """``x · tanh(softplus(x))``; see `functional.mish`."""

    def forward(self, input: Array) -> Array:
        return F.mish(input)


class Hardswish(_Elementwise):
    """``x · relu6(x + 3) / 6``; see `functional.hardswish`."""

    def extra_repr(self) -> str:
        return ""

    def forward(self, input: Array) -> Array:
        return F.hardswish(input)


class Hardsigmoid(_Elementwise):
    """``relu6(x + 3) / 6``; see `functional.hardsigmoid`."""

    def extra_repr(self) -> str:
        return ""

    def forward(self, input: Array) -> Array:
        return F.hardsigmoid(input)


class LeakyReLU(_Elementwise):
    """``x`` or ``negative_slope · x``; see `functional.leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Array) -> Array:
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return self._with(f"negative_slope={self.negative_slope}")


class ELU(_Elementwise):
    """See `functional.elu`."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Array) -> Array:
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        return self._with(f"alpha={self.alpha}")


class CELU(ELU):
    """See `functional.celu`."""

    def forward(self, input: Array) -> Array:
        return F.celu(input, self.alpha)


class Hardtanh(_Elementwise):
    """``x`` clipped to ``min_val..max_val``; see `functional.hardtanh`."""

    def __init__(
        self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
    ) -> None:
        super().__init__(inplace)
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Array) -> Array:
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return self._with(f"min_val={self.min_val}, max_val={self.max_val}")


class PReLU(Module):
    """`LeakyReLU` with learned slopes ``weight``: one, or one for each channel."""

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_parameters = integer(num_parameters, "PReLU: num_parameters", 1)
        slopes = np.full(self.num_parameters, init, float_dtype(dtype, device))
        self.weight = Parameter(slopes)

    def forward(self, input: Array) -> Array:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class GELU(Module):
    """``x · Φ(x)``; see `functional.gelu`."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Array) -> Array:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``."""

    def forward(self, input: Array) -> Array:
        return F.sigmoid(input)


class LogSigmoid(Module):
    """``log(sigmoid(x))``."""

    def forward(self, input: Array) -> Array:
        return F.logsigmoid(input)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, input: Array) -> Array:
        return F.tanh(input)


class Softsign(Module):
    """``x / (1 + |x|)``."""

    def forward(self, input: Array) -> Array:
        return F.softsign(input)


class Softplus(Module):
    """``log(1 + exp(beta · x)) / beta``; see `functional.softplus`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Array) -> Array:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Module):
    """``exp(x) / Σ exp(x)`` along ``dim``; see `functional.softmax`."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Array) -> Array:
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of `Softmax`."""

    def forward(self, input: Array) -> Array:
        return F.log_softmax(input, self.dim)


class Softmin(Softmax):
    """`Softmax` of ``-x``."""

    def forward(self, input: Array) -> Array:
        return F.softmin(input, self.dim)

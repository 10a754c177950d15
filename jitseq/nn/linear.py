"""The linear layer."""

from __future__ import annotations

from typing import Any

from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import Array, integer
from jitseq.nn.init import fan_in_bound, float_dtype, uniform
from jitseq.nn.module import Module
from jitseq.nn.parameter import Parameter


class Linear(Module):
    """``y = x Wᵀ + b``: ``(…, in_features)`` to ``(…, out_features)``.

    ``weight`` is ``(out_features, in_features)``, ``bias`` ``(out_features,)``; both
    are drawn from ``±1/√in_features``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = integer(in_features, "Linear: in_features", 0)
        self.out_features = integer(out_features, "Linear: out_features", 0)
        kind = float_dtype(dtype, device)
        shape = (self.out_features, self.in_features)
        bound = fan_in_bound(shape)
        self.weight = Parameter(uniform(shape, bound, kind))
        values = uniform(shape[:1], bound, kind) if bias else None
        self.register_parameter("bias", None if values is None else Parameter(values))

    def forward(self, input: Array) -> Array:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )

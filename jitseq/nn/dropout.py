"""Dropout (Srivastava et al., Dropout, 2014)."""

from __future__ import annotations

from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import Array
from jitseq.nn.functional.normalization import check_probability
from jitseq.nn.module import Module


class Dropout(Module):
    """In training, drops each element with probability ``p``; else the identity.

    What is kept is divided by ``1 - p``. Each call draws other elements, from the
    stream that `jitseq.manual_seed` starts. ``inplace`` has no effect. Raises
    `OptionError` unless ``0 <= p <= 1``.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        check_probability(p)
        self.p = p
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"

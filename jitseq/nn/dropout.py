"""Dropout (Srivastava et al., Dropout, 2014)."""

from __future__ import annotations

from jitseq.errors import UnsupportedError
from jitseq.nn.functional.arguments import Array
from jitseq.nn.functional.normalization import check_probability
from jitseq.nn.module import Module


class Dropout(Module):
    """The identity in evaluation mode and with ``p=0``.

    Raises `OptionError` unless ``0 <= p <= 1``, and `UnsupportedError` when it is
    called in training mode with ``p > 0``.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        check_probability(p)
        self.p = p
        self.inplace = inplace

    def forward(self, input: Array) -> Array:
        if self.training and self.p > 0:
            raise UnsupportedError(
                "Dropout in training mode is not covered yet",
                hint="call model.eval() first, or set p=0",
            )
        return input

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"

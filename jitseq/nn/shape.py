"""Layers that change the shape or nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import Array, OptionError, integer
from jitseq.nn.module import Module


class Flatten(Module):
    """Joins dimensions, by default all but the batch; see `functional.flatten`."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Array) -> Array:
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits dimension ``dim`` into ``unflattened_size``; see `functional.unflatten`.

    Raises `OptionError` unless ``dim`` and all sizes are ints.
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(unflattened_size, (tuple, list)):
            raise OptionError(
                "Unflatten: unflattened_size must be a tuple of ints",
                facts={"got": repr(unflattened_size)},
            )
        for size in unflattened_size:
            integer(size, "Unflatten: unflattened_size", -1)
        self.dim = integer(dim, "Unflatten: dim")
        self.unflattened_size = unflattened_size

    def forward(self, input: Array) -> Array:
        return F.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Identity(Module):
    """Returns its input. Arguments are accepted and ignored."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, input: Array) -> Array:
        return input

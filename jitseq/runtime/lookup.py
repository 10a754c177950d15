"""What calls and training steps share in finding their programs.

The types of a call enter `Signatures`, which gives the key under which its program is
kept; what became of the calls enters `Counts`, which gives a `CacheInfo`. Invariant: a
program that was traced for one batch size is never found for another.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from jitseq.config import logs

Signature = tuple[Any, ...]


class Typed(Protocol):
    """An array, or a type of one."""

    @property
    def dtype(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Signatures:
    """What tells programs apart; the batch extent is left out where it may vary."""

    def __init__(self, dynamic_batch: bool) -> None:
        self._dynamic_batch = dynamic_batch
        self._static: set[Signature] = set()
        """Signatures whose programs are each for one batch size."""

    def key(self, inputs: Sequence[Typed]) -> Signature:
        """The key of the program for ``inputs``, as far as is known."""
        signature = self._signature(inputs)
        return _whole(inputs) if signature in self._static else signature

    def learn(self, inputs: Sequence[Typed], static: bool) -> Signature:
        """The key of the program that was traced for ``inputs``.

        ``static`` where it is for this batch size only.
        """
        signature = self._signature(inputs)
        if not static:
            self._static.discard(signature)
            return signature
        self._static.add(signature)
        return _whole(inputs)

    def _signature(self, inputs: Sequence[Typed]) -> Signature:
        if not self._dynamic_batch or not inputs or not inputs[0].shape:
            return _whole(inputs)
        batch = inputs[0].shape[0]
        found = []
        for typed in inputs:
            dtype, shape = typed.dtype, typed.shape
            follows = bool(shape) and shape[0] == batch
            rest = shape[1:] if follows else shape
            found.append((dtype, len(shape), follows, rest))
        return tuple(found)


def _whole(inputs: Sequence[Typed]) -> Signature:
    return tuple((typed.dtype, typed.shape) for typed in inputs)


class CacheInfo(NamedTuple):
    """What became of the calls so far.

    ``hits`` calls found a program that was current, perhaps with weights to pack
    again; ``misses`` needed another program, for the ``reasons`` given. Of those
    programs ``disk_hits`` were read from disk and ``compilations`` were compiled; the
    rest shared code that this process had loaded for an equal model.
    """

    hits: int
    misses: int
    disk_hits: int
    compilations: int
    reasons: tuple[str, ...]


class Counts:
    """Counts calls of what is called ``name``."""

    def __init__(self, name: str) -> None:
        self.hits = 0
        self._name = name
        self._origins: list[str] = []
        self._reasons: list[str] = []

    def miss(self, reason: str, origin: str) -> None:
        """Another program was needed; ``origin`` says where its code was found."""
        self._reasons.append(reason)
        self._origins.append(origin)
        if logs("recompiles"):
            print(f"[jitseq recompiles] {self._name}: {reason}", file=sys.stderr)

    def info(self) -> CacheInfo:
        """The counts so far."""
        return CacheInfo(
            self.hits,
            len(self._origins),
            self._origins.count("disk"),
            self._origins.count("compiled"),
            tuple(self._reasons),
        )

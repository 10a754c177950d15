"""Compiled callables whose target has its state elsewhere, such as a torch module.

Enters a target with ``refresh()``, which takes over that state; leaves a `Compiled`
that calls it. Invariant: no program answers, and none is shown, before ``refresh``
has run for this very use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jitseq.nn.foreign import call_with_tensors, is_torch_tensor
from jitseq.runtime.arguments import any_on_device
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.gradient import Pullback
from jitseq.runtime.programs import Program, Programs


class Following(Protocol):
    """A target that can take over its state; raises when it cannot."""

    def __call__(self, *arrays: Any) -> Any: ...

    def refresh(self) -> None:
        """Take over whatever changed since the last time."""

    def after_fork(self) -> None:
        """Forget locks, in a forked child."""


class _FollowingPrograms(Programs):
    """Refreshes before every look-up."""

    _target: Following

    def find(self, inputs: Sequence[np.ndarray]) -> Program:
        self._target.refresh()
        return super().find(inputs)


class CompiledFollowing(Compiled):
    """A `Compiled` that sees the state of its target, wherever that changed."""

    target: Following

    def __init__(self, target: Following, **options: Any) -> None:
        super().__init__(target, **options)
        dynamic = bool(self.options["dynamic_batch"])
        name = self.__name__
        self._programs = _FollowingPrograms(
            target, name, dynamic, self._disabled, self.backend
        )

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """As `Compiled`; raises what ``target.refresh`` raises, too."""
        if self._fast is not None:
            self.target.refresh()
        return super().__call__(*arrays, **named)

    def vjp(self, *arrays: Any) -> tuple[Any, Pullback]:
        """As `Compiled.vjp`; raises what ``target.refresh`` raises, too."""
        self.target.refresh()
        return super().vjp(*arrays)

    def _general(self, arrays: Sequence[Any]) -> Any:
        """Tensors become arrays first, so that the native path can answer."""
        stay = self.backend == "cuda" and any_on_device(arrays)
        if any(map(is_torch_tensor, arrays)) and not stay:
            return call_with_tensors(super().__call__, tuple(arrays), {})
        return super()._general(arrays)

    def _after_fork(self) -> None:
        self.target.after_fork()
        super()._after_fork()

    def __reduce__(self) -> Any:
        return _rebuild, (self.target, self.options)


def _rebuild(target: Following, options: dict[str, Any]) -> CompiledFollowing:
    return CompiledFollowing(target, **options)

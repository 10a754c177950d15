"""What callers ask of a program, whatever backend has compiled it, and which one does.

Enter a graph, variables and the name of a backend; leaves a `Runnable`. Invariant: this
is the only place that tells the backends' programs apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from jitseq.ir.graph import Graph
from jitseq.ir.types import TensorType
from jitseq.ir.variable import Variable
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.step import Count
from jitseq.runtime.fastcall import FastCall
from jitseq.runtime.fed import FedProgram, Numbers
from jitseq.runtime.report import Profile, Report


class Bindings(Protocol):
    """A program bound to variables."""

    fused: FusedGraph
    input_types: list[TensorType]
    output_types: list[TensorType]
    epoch: int

    def refresh(self, epoch: int) -> None:
        """Take over what has changed in static values."""

    def batch(self, inputs: Sequence[Any]) -> int:
        """Images in the arrays of the first inputs."""

    def snapshot(self) -> Any:
        """The static values of now; nothing changes them."""

    def fast_call(self, threads: int) -> FastCall | None:
        """A native path for plain calls, if there is one."""

    def drop_fast(self) -> None:
        """Make another native path when one is asked for again."""


class Runnable(Protocol):
    """Code for a graph, on the variables behind its params; see `FedProgram`."""

    @property
    def fused(self) -> FusedGraph: ...
    @property
    def origin(self) -> str: ...
    @property
    def bound(self) -> Bindings: ...
    @property
    def is_plain(self) -> bool: ...

    def report(self, static_reason: str | None) -> Report:
        """How it was compiled."""

    def run(
        self,
        given: Sequence[Any],
        threads: int,
        numbers: Numbers = ...,
        packed: Any = None,
    ) -> list[Any]:
        """The results; ``packed`` is an earlier `Bindings.snapshot`."""

    def profile(
        self,
        given: Sequence[Any],
        numbers: Numbers,
        disabled: frozenset[str],
        repeats: int | None,
    ) -> Profile:
        """Measured time of each kernel; nothing changes."""


Factory = Callable[
    [Graph, int, Sequence[Count], Mapping[str, Variable], frozenset[str], int],
    Runnable,
]
"""Takes the arguments of `FedProgram` but for its backend."""


def _on_device(*arguments: Any) -> Runnable:
    from jitseq.runtime.cuda.program import DeviceProgram

    return DeviceProgram(*arguments)


PROGRAMS: Mapping[str, Factory] = {
    "cpu": partial(FedProgram, backend="cpu"),
    "numba": partial(FedProgram, backend="numba"),
    "cuda": _on_device,
    "eager": partial(FedProgram, backend="eager"),
}
"""What makes a program, by the name of the backend.

Calls on "eager" run none; its programs are what graphs and reports show.
"""


def runnable(
    graph: Graph,
    given: int,
    counts: Sequence[Count],
    variables: Mapping[str, Variable],
    disabled: frozenset[str],
    epoch: int,
    backend: str,
) -> Runnable:
    """A program of the backend; the other arguments are those of `FedProgram`."""
    return PROGRAMS[backend](graph, given, counts, variables, disabled, epoch)

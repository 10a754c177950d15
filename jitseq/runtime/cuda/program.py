"""Programs on a device, with the face of `jitseq.runtime.fed.FedProgram`.

A graph whose first inputs are arrays of a call, and whose others are numbers that the
host computes, enters; a call leaves outputs, and new values in the variables that the
graph changes, which stay on the device until somebody reads them. Invariant: a call
that fails before its first kernel has changed nothing; one that has started counts as
a change of all its variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jitseq.ir.graph import Graph
from jitseq.ir.variable import Variable
from jitseq.nn.foreign import is_torch_tensor
from jitseq.passes.pipeline import optimise
from jitseq.passes.step import Count
from jitseq.runtime.cuda.arrays import DeviceInput
from jitseq.runtime.cuda.bound import DeviceBound, Packed
from jitseq.runtime.cuda.device import current_device
from jitseq.runtime.cuda.executable import grid_executable
from jitseq.runtime.fed import (
    GraphProgram,
    NumberMemory,
    Numbers,
    bindings,
    number_values,
)
from jitseq.runtime.report import Profile, Report


class DeviceProgram(GraphProgram):
    """Grids for a graph, on the variables behind its params; as `FedProgram`."""

    backend = "cuda"

    def __init__(
        self,
        graph: Graph,
        given: int,
        counts: Sequence[Count],
        variables: Mapping[str, Variable],
        disabled: frozenset[str],
        epoch: int,
    ) -> None:
        self.device = current_device()
        self.fused = optimise(graph, disabled)
        self.code, self.origin = grid_executable(self.fused, self.device, disabled)
        static, returned = bindings(self.fused, variables)
        self.variables = [variables[name] for name in self.code.manifest.variables]
        """What the program changes, in its order."""
        self.bound = DeviceBound(
            self.fused, self.code, static, self.variables, returned, epoch
        )
        self._counts = tuple(counts)
        self._numbers = self.fused.graph.inputs[given:]
        self._memory = NumberMemory(self._numbers)

    def report(self, static_reason: str | None) -> Report:
        """How it was compiled; ``static_reason`` says why for one batch size only."""
        scratch = self.code.manifest.image_bytes
        return self._report(scratch, self.device.key, static_reason)

    def run(
        self,
        given: Sequence[Any],
        threads: int,
        numbers: Numbers = {},  # noqa: B006 - never changed
        packed: Packed | None = None,
    ) -> list[Any]:
        """The results for contiguous arrays of the host or the device, in kind.

        ``threads`` belongs to other backends.
        """
        with self.device.lock:
            n = self.bound.batch(given)
            work = self.bound.prepare(
                self._inputs(given, numbers, n), n, packed, result_kind(given)
            )
            try:
                work.run()
            finally:
                if self.variables:
                    self.bound.mark_written()
            return work.outputs

    def profile(
        self,
        given: Sequence[Any],
        numbers: Numbers,
        disabled: frozenset[str],
        repeats: int | None,
    ) -> Profile:
        """Measured time of each kernel, on copies of all that the program changes."""
        from jitseq.runtime.cuda.inspect import profile

        with self.device.lock:
            n = self.bound.batch(given)
            inputs = self._inputs(given, numbers, n)
            return profile(self.bound, inputs, n, repeats)

    def _inputs(self, given: Sequence[Any], numbers: Numbers, n: int) -> list[Any]:
        self._memory.write(number_values(self._numbers, self._counts, numbers, n))
        return [*given, *self._memory.arrays]


def result_kind(given: Sequence[Any]) -> str:
    """Of what kind results are: those of the first argument on the device."""
    for x in given:
        if isinstance(x, DeviceInput):
            return "torch" if is_torch_tensor(x.owner) else "device"
    return "numpy"

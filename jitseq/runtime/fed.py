"""Programs that read more than the caller's arrays, and programs that change variables.

A graph whose first inputs are arrays of a call, and whose others are numbers that the
host computes, enters; a call leaves outputs, and new values in the variables that the
graph changes. Invariant: concurrent calls share no number, and the versions of all
variables that a call changes move, even where an interrupt ends it. Whoever runs a
program that changes variables keeps other calls away from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.ir.graph import Graph, Value
from jitseq.ir.ops.labels import check_labels
from jitseq.ir.ops.norm import require_values_per_channel
from jitseq.ir.trace import Traced
from jitseq.ir.types import TensorType
from jitseq.ir.variable import Constant, Variable, mark_all_changed
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.pipeline import optimise
from jitseq.passes.step import Count
from jitseq.runtime.bound import Bound, Packed
from jitseq.runtime.executable import executable
from jitseq.runtime.report import Profile, Report
from jitseq.runtime.training_checks import label_inputs

Numbers = Mapping[Value, Any]


class GraphProgram:
    """What programs of all backends say of their graph, code and variables."""

    backend: str
    fused: FusedGraph
    code: Any
    """An executable: what was compiled, and how long it took."""
    variables: list[Variable]
    _numbers: Sequence[Value]

    @property
    def is_plain(self) -> bool:
        """Whether arrays of the call, and static values, are all that it needs."""
        return not self._numbers and not self.variables

    def _report(self, scratch: int, target: str, static_reason: str | None) -> Report:
        """With ``scratch`` bytes; ``static_reason`` says why for one batch size."""
        notes = (f"compiled for this batch size: {static_reason}",)
        return Report(
            self.code.manifest.kernels,
            self.fused.refusals,
            scratch,
            self.code.compile_seconds,
            self.code.origin,
            target,
            notes if static_reason else (),
            self.backend,
            self.fused,
        )


def bindings(
    fused: FusedGraph, variables: Mapping[str, Variable]
) -> tuple[dict[str, Variable], list[TensorType]]:
    """The variables that a program only reads, and the types of what it returns."""
    changed = fused.changed
    static = {
        param.name: variables[param.name]
        for param in fused.graph.params
        if param not in set(changed.values())
    }
    return static, [v.type for v in fused.graph.outputs if v not in changed]


class FedProgram(GraphProgram):
    """Native code for a graph, on the variables behind its params.

    Args:
        graph: outputs that are not new values of params are returned.
        given: how many inputs, from the first, are arrays of each call.
        counts: inputs behind them that hold multiples of the batch size.
        variables: by the names of params; more are allowed.
        disabled: optional passes to leave out.
        epoch: that of the look at ``variables``.
        backend: what compiles the kernels.
    """

    def __init__(
        self,
        graph: Graph,
        given: int,
        counts: Sequence[Count],
        variables: Mapping[str, Variable],
        disabled: frozenset[str],
        epoch: int,
        backend: str = "cpu",
    ) -> None:
        self.fused = optimise(graph, disabled)
        self.backend = backend
        self.code, self.origin = executable(
            self.fused, selected_target(), disabled, backend=backend
        )
        static, returned = bindings(self.fused, variables)
        self.bound = Bound(self.fused, self.code, static, returned, epoch)
        self.variables = [variables[name] for name in self.code.manifest.variables]
        """What the program changes, in its order."""
        self._counts = tuple(counts)
        self._numbers = self.fused.graph.inputs[given:]
        self._memory: list[NumberMemory] = []
        self._places: list[tuple[Variable, np.ndarray, int]] = []

    def report(self, static_reason: str | None) -> Report:
        """How it was compiled; ``static_reason`` says why for one batch size only."""
        scratch = self.code.manifest.arena_bytes
        return self._report(scratch, selected_target().cpu, static_reason)

    def run(
        self,
        given: Sequence[np.ndarray],
        threads: int,
        numbers: Numbers = {},  # noqa: B006 - never changed
        packed: Packed | None = None,
    ) -> list[np.ndarray]:
        """The results for contiguous, aligned arrays; none of them is empty.

        ``numbers`` are values of the inputs that are neither given nor counts;
        ``packed`` are static values of another time than now.
        """
        n = self.bound.batch(given)
        outputs = self.bound.new_outputs(n)
        memory = self._memory.pop() if self._memory else NumberMemory(self._numbers)
        memory.write(number_values(self._numbers, self._counts, numbers, n))
        arrays = [*given, *memory.arrays, *outputs]
        addresses = [array.ctypes.data for array in given]
        addresses += memory.addresses
        addresses += [array.ctypes.data for array in outputs]
        addresses += self._variable_addresses()
        try:
            self.bound.run(addresses, arrays, n, threads, packed)
        finally:
            if self.variables:
                mark_all_changed(self.variables)
        self._memory.append(memory)
        return outputs

    def trial(
        self,
        given: Sequence[np.ndarray],
        numbers: Numbers = {},  # noqa: B006
    ) -> tuple[list[np.ndarray], int]:
        """All that the program reads and writes, variables copied; the batch size."""
        n = self.bound.batch(given)
        memory = NumberMemory(self._numbers)
        memory.write(number_values(self._numbers, self._counts, numbers, n))
        copies = [variable.numpy().copy() for variable in self.variables]
        return [*given, *memory.arrays, *self.bound.new_outputs(n), *copies], n

    def profile(
        self,
        given: Sequence[np.ndarray],
        numbers: Numbers,
        disabled: frozenset[str],
        repeats: int | None,
    ) -> Profile:
        """Measured time of each kernel, on copies of all that the program changes."""
        from jitseq.runtime.inspect import profile

        arrays, n = self.trial(given, numbers)
        options = disabled, self.backend
        return profile(self.bound, arrays, n, selected_target(), *options, repeats)

    def _variable_addresses(self) -> list[int]:
        """Looked up again where a variable has moved."""
        places = self._places
        if any(variable.current() is not array for variable, array, _ in places):
            places = []
        if not places:
            arrays = [(v, v.current()) for v in self.variables]
            places = [(v, array, array.ctypes.data) for v, array in arrays]
            self._places = places
        return [address for _, _, address in places]


def number_values(
    values: Sequence[Value], counts: Sequence[Count], numbers: Numbers, n: int
) -> list[Any]:
    """What the host's inputs are in a call with ``n`` images."""
    by_value = {count.value: count.factor * n for count in counts}
    return [
        by_value[value] if value in by_value else numbers[value] for value in values
    ]


class NumberMemory:
    """Memory of the host's inputs, for one call at a time."""

    def __init__(self, values: Iterable[Value]) -> None:
        self.arrays = [np.zeros(v.type.shape, v.type.dtype) for v in values]
        self.addresses = [array.ctypes.data for array in self.arrays]
        self._last: list[Any] = [None] * len(self.arrays)

    def write(self, values: Sequence[Any]) -> None:
        for k, value in enumerate(values):
            if value != self._last[k]:
                self.arrays[k][...] = value
                self._last[k] = value


class Checks:
    """What kernels cannot refuse, asked before a call of a traced function."""

    def __init__(self, graph: Graph) -> None:
        self._labels = label_inputs(graph)
        self._statistics = [
            node.inputs[0].type
            for node in graph.nodes
            if node.op == "batch_norm_train" and node.inputs[0].type.has_batch
        ]

    def __bool__(self) -> bool:
        return bool(self._labels or self._statistics)

    def __call__(self, inputs: Sequence[np.ndarray], n: int) -> None:
        """Raise `RangeError` for labels, `ShapeError` for one value a channel."""
        for position, limits in self._labels:
            check_labels(np.asarray(inputs[position]), **limits)
        for type in self._statistics:
            require_values_per_channel(type, n)


def identity(variable: Variable) -> Any:
    """Equal for variables that a program need not tell apart."""
    return variable.key if isinstance(variable, Constant) else id(variable)


def drawn(traced: Traced) -> list[np.ndarray]:
    """The feeds of one call, each computed once, in order."""
    return [np.ascontiguousarray(source()) for _, source in traced.feeds]


def count_calls(traced: Traced) -> None:
    """Add one to each variable that counts the calls."""
    for variable, calls in Counter(traced.counted).items() if traced.counted else ():
        variable.assign(variable.numpy() + calls)


def concrete(type: TensorType, n: int) -> TensorType:
    """The type in a call with ``n`` images."""
    return type.with_shape((n, *type.inner_shape)) if type.has_batch else type

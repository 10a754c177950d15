"""`diff`: one call of a model in two backends, layer by layer.

A target and samples enter; a `Difference` leaves. Both backends run the same graph,
traced once, on the same inputs, parameters, random numbers and cotangents, and return
every layer's output and gradient. Invariants: a layer is judged by float64 on the
inputs that it had in that backend, so that rounding before it does not count, nor does
a fault of another layer; nothing of the model changes, nor do random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.compare.difference import (
    Difference,
    NonFinite,
    ProgramDifference,
)
from jitseq.compare.measures import apart, compared, largest
from jitseq.compare.points import OUTPUT, Observed, Point, observe, plain_graph
from jitseq.compare.rounding import LIKELY, Uncertain, evaluate, exact
from jitseq.errors import JitseqError, UnsupportedError
from jitseq.ir import interpret
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.random import draw_key
from jitseq.ir.trace import Traced, trace
from jitseq.ir.types import TensorType, type_of
from jitseq.ir.variable import EPOCH
from jitseq.runtime.arguments import checked_backend, readable_all
from jitseq.runtime.compilable import require_compilable
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.fed import Checks, concrete
from jitseq.runtime.gradient import trained_names
from jitseq.runtime.programs import Programs

SEED = 0
"""Of cotangents and of the keys of random numbers."""

LEAST_GRADIENT = 1e-3
"""Of the largest one: a smaller gradient may be nothing but rounding."""


def diff(
    compiled: Compiled,
    samples: Sequence[Any],
    backends: Sequence[str],
    gradients: bool,
    rtol: float | None,
    atol: float | None,
) -> Difference:
    """See `jitseq.diff`; ``compiled`` has target and options, and is not called."""
    if isinstance(backends, str) or len(backends) != 2:
        raise UnsupportedError(
            f"diff compares two backends, got {backends!r}",
            hint='for example backends=("eager", "cpu")',
        )
    first, second = (checked_backend(name) for name in backends)
    inputs = readable_all(samples)
    if not all(array.size for array in inputs):
        raise JitseqError(
            "diff: a sample is empty", hint="give a batch of one image or more"
        )
    call = _Call.of(compiled, inputs, gradients)
    runs = [call.observed_in(name) for name in (first, second)]
    bound = None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)
    layers = [
        compared(
            point,
            [run.found[point.value] for run in runs],
            [run.judged[point.value] for run in runs],
            bound,
        )
        for point in call.observed.points
    ]
    return Difference(
        compiled.__name__,
        (first, second),
        tuple(layers),
        tuple(check for run in runs for check in run.programs),
        call.first_nonfinite(runs),
    )


@dataclass(frozen=True)
class _Run:
    """What one backend computed: every point, with what float64 makes of the points
    before it, and checks of the fused programs."""

    backend: str
    found: Mapping[Value, np.ndarray]
    judged: Mapping[Value, Uncertain]
    programs: Sequence[ProgramDifference]


@dataclass(frozen=True)
class _Call:
    """One call: its graph with points, and all that it reads.

    ``known`` has an array for each input, param and cotangent of the graph.
    """

    compiled: Compiled
    traced: Traced
    trained: Mapping[str, str]
    observed: Observed
    given: Sequence[np.ndarray]
    cotangents: Sequence[np.ndarray]
    known: Mapping[Value, np.ndarray]
    epoch: int

    @classmethod
    def of(
        cls, compiled: Compiled, inputs: Sequence[np.ndarray], gradients: bool
    ) -> _Call:
        target = compiled.target
        refresh = getattr(target, "refresh", None)
        if refresh is not None:
            refresh()
        epoch = int(EPOCH[0])
        dynamic = bool(compiled.options["dynamic_batch"])
        traced = trace(target, [type_of(array) for array in inputs], dynamic)
        trained = trained_names(target, traced)
        observed = observe(traced, trained, gradients)
        rng = np.random.default_rng(SEED)
        own = traced.graph.inputs
        n = _batch([value.type for value in own], inputs)
        feeds = [_fed(source, rng) for _, source in traced.feeds]
        types = [concrete(value.type, n) for value in observed.cotangents]
        cotangents = [rng.standard_normal(t.shape).astype(t.dtype) for t in types]
        given = [*inputs, *feeds]
        known = dict(zip(own, given, strict=True))
        known |= zip(observed.cotangents, cotangents, strict=True)
        params = {*traced.graph.params, *observed.graph.params}
        known |= {p: np.array(traced.variables[p.name].numpy()) for p in params}
        return cls(compiled, traced, trained, observed, given, cotangents, known, epoch)

    # the two sides

    def observed_in(self, backend: str) -> _Run:
        """Everything that is observed in one backend."""
        graph = self.observed.graph
        if backend == "eager":
            known = dict(self.known)
            interpret.evaluate(graph.nodes, known, graph.outputs)
            found = {value: known[value] for value in graph.outputs}
            return _Run(backend, found, self._judged(found), ())
        require_compilable(self.traced)
        n = _batch([value.type for value in self.traced.graph.inputs], self.given)
        Checks(self.traced.graph)(self.given, n)
        arrays = self._compiled(graph, backend, [*self.given, *self.cotangents])
        found = dict(zip(graph.outputs, arrays, strict=True))
        judged = self._judged(found)
        return _Run(backend, found, judged, self._programs(backend, found, judged))

    def _compiled(
        self, graph: Graph, backend: str, given: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The outputs of a program of its own; no variable changes."""
        options = self.compiled.options
        programs = Programs(
            self.compiled.target,
            self.compiled.__name__,
            bool(options["dynamic_batch"]),
            frozenset(options["disable_passes"]),
            backend,
        )
        code = programs.bind(graph, self.traced, self.epoch, updates=())
        given = [np.array(array) for array in given]
        return [np.asarray(x) for x in code.run(given, self.compiled.threads)]

    def _programs(
        self,
        backend: str,
        found: Mapping[Value, np.ndarray],
        judged: Mapping[Value, Uncertain],
    ) -> tuple[ProgramDifference, ...]:
        """The caller's own programs, in which layers are fused."""
        parts = [(False, [(value, "result") for value in self.observed.results])]
        if self.cotangents:
            named = self.observed.gradients.items()
            parts.append((True, [(value, name) for name, value in named]))
        checks = []
        for gradients, wanted in parts:
            graph = plain_graph(self.traced, self.trained, gradients)
            arrays = [*self.given, *(self.cotangents if gradients else ())]
            outputs = self._compiled(graph, backend, arrays)
            expected = [found[v] if v in found else self.known[v] for v, _ in wanted]
            floor = LEAST_GRADIENT * max(map(largest, expected)) if gradients else 0.0
            for (value, name), output, array in zip(wanted, outputs, expected):
                error = judged[value].error if value in judged else np.zeros(1)
                rounding = LIKELY * largest(error)
                half = float(np.sqrt(np.finfo(array.dtype).eps))
                allowed = half * (largest(array) + floor) + rounding
                difference = apart(output, array)
                checks.append(ProgramDifference(backend, name, difference, allowed))
        return tuple(checks)

    # the judge

    def _judged(self, found: Mapping[Value, np.ndarray]) -> dict[Value, Uncertain]:
        """Each point in float64, on the arrays that one backend had before it."""
        graph = self.observed.graph
        points = {point.value for point in self.observed.points}
        env = {value: exact(array) for value, array in self.known.items()}
        last: dict[Value, Node] = {v: n for n in graph.nodes for v in n.inputs}
        judged: dict[Value, Uncertain] = {}
        for node in graph.nodes:
            result = evaluate(node, [env[value] for value in node.inputs])
            if node.output in points:
                judged[node.output] = result
                result = exact(found[node.output])
            env[node.output] = result
            for value in dict.fromkeys(node.inputs):
                if last[value] is node:
                    del env[value]
        return judged

    def first_nonfinite(self, runs: Sequence[_Run]) -> NonFinite | None:
        """The first point with a NaN or an infinity, whichever backend has it."""
        labels = _labels(self.observed.points)
        for point in self.observed.points:
            arrays = {run.backend: run.found[point.value] for run in runs}
            bad = {k: a for k, a in arrays.items() if not np.isfinite(a).all()}
            if not bad:
                continue
            backend, array = next(iter(bad.items()))
            at = _first(~np.isfinite(array))
            found = next(run.found for run in runs if run.backend == backend)
            sources = [
                labels.get(value, value.name)
                for value in point.sources
                if not _finite(found[value] if value in found else self.known[value])
            ]
            return NonFinite(
                point.path,
                point.ops,
                point.quantity,
                "NaN" if np.isnan(array[at]) else "Inf",
                tuple(bad),
                at,
                tuple(sources),
            )
        return None


def _labels(points: Sequence[Point]) -> dict[Value, str]:
    return {
        p.value: f"{p.quantity} of {p.path or p.ops[-1]}"
        if p.quantity == OUTPUT
        else p.quantity
        for p in points
    }


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _fed(source: Callable[[], np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """What a feed holds; keys come from here, the model's own stream stays put."""
    if source is draw_key:
        return rng.integers(0, 2**32, 2, dtype=np.uint32)
    return np.ascontiguousarray(source())


def _batch(types: Sequence[TensorType], inputs: Sequence[np.ndarray]) -> int:
    sizes = (len(a) for a, type in zip(inputs, types) if type.has_batch)
    return next(sizes, 1)

"""The programs of one compiled callable: one for each signature that it has met.

Enters the arrays of a call; leaves the `Program` that answers it, traced and compiled
when there is none, its weights packed again when they have changed. Invariant: a
program is handed out only when the structure and the flags of the modules and the
versions of the variables are those it was made for. A call that fails leaves programs
and counts as they were. Programs that change variables run one at a time.

The epoch is read before anything else is looked at: what changes meanwhile moves it
again, and the next call looks once more.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from jitseq.config import logs
from jitseq.ir.graph import Graph, Value
from jitseq.ir.text import graph_text
from jitseq.ir.trace import Traced, closed_over, trace
from jitseq.ir.types import TensorType, type_of
from jitseq.ir.variable import EPOCH, STRUCTURE, Variable, ask_again
from jitseq.passes.step import feed_counts, with_updates
from jitseq.runtime.compilable import require_compilable
from jitseq.runtime.fed import Checks, count_calls, drawn, identity
from jitseq.runtime.gradient import trained_names
from jitseq.runtime.lookup import Counts, Signature, Signatures
from jitseq.runtime.runnable import Bindings, Runnable, runnable

KEPT_PROGRAMS = 4
"""Programs of one signature that are kept, each for other training flags."""


class Program(NamedTuple):
    """A traced signature, with its code bound to variables.

    ``names`` are those in ``state_dict()`` of the params that require a gradient;
    ``joints`` are programs of gradients, by these params.
    """

    traced: Traced
    names: Mapping[str, str]
    text: str
    structure: int
    code: Runnable
    checks: Checks
    joints: dict[tuple[str, ...], Runnable]

    @property
    def bound(self) -> Bindings:
        return self.code.bound

    @property
    def is_plain(self) -> bool:
        """Whether a call is nothing but its kernels."""
        traced = self.traced
        more = traced.feeds or traced.updates or traced.counted or self.checks
        return self.code.is_plain and not more


class Programs:
    """Finds, makes and counts programs; safe to use from several threads."""

    def __init__(
        self,
        target: Callable[..., Any],
        name: str,
        dynamic_batch: bool,
        disabled: frozenset[str],
        backend: str = "cpu",
    ) -> None:
        self._target = target
        self._name = name
        self._dynamic_batch = dynamic_batch
        self._signatures = Signatures(dynamic_batch)
        self._disabled = disabled
        self._backend = backend
        self._table: dict[Signature, Program] = {}
        self._kept: dict[Signature, _Kept] = {}
        self._lock = threading.RLock()
        self._changing = threading.RLock()
        self.counts = Counts(name)
        _alive.add(self)

    # look-up

    def find(self, inputs: Sequence[np.ndarray]) -> Program:
        """The current program for ``inputs``.

        Raises:
            JitseqError: the target does not accept these types.
        """
        types = [type_of(array) for array in inputs]
        program = self._table.get(self._signatures.key(types))
        if program is not None and program.bound.epoch == int(EPOCH[0]):
            self.counts.hits += 1
            return program
        with self._lock:
            return self._look_again(types)

    def latest(self) -> Program | None:
        """The program made last, if any."""
        return next(reversed(self._table.values()), None)

    def _look_again(self, types: Sequence[TensorType]) -> Program:
        epoch, structure = int(EPOCH[0]), int(STRUCTURE[0])
        previous = self._table.get(self._signatures.key(types))
        if previous is not None and previous.structure == structure:
            previous.bound.refresh(epoch)
            self.counts.hits += 1
            return previous
        return self._trace_again(types, previous)

    # calls

    def run(
        self, program: Program, inputs: Sequence[np.ndarray], threads: int
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The results of a call and the feeds that it drew; variables change.

        Raises what `Checks` raises, before anything is computed.
        """
        traced = program.traced
        program.checks(inputs, program.bound.batch(inputs))
        alone = traced.updates or traced.counted
        with self._changing if alone else nullcontext():
            feeds = drawn(traced)
            try:
                outputs = program.code.run([*inputs, *feeds], threads)
            finally:
                count_calls(traced)
        return outputs, feeds

    # tracing and compiling

    def _trace_again(
        self, types: Sequence[TensorType], previous: Program | None
    ) -> Program:
        ask_again()  # a compiled callable that the target calls is to be traced, too
        epoch, structure = int(EPOCH[0]), int(STRUCTURE[0])
        traced = trace(self._target, types, self._dynamic_batch)
        self._require(traced)
        names = trained_names(self._target, traced)
        text = self._text(traced, names)
        key = self._signatures.learn(types, traced.static_reason is not None)
        kept = self._kept.get(key) or _Kept()
        modules, flags = _modules(self._target)
        known = kept.find(text)
        if known is not None and _same_variables(known.traced, traced):
            known.bound.refresh(epoch)
            program = known._replace(traced=traced, names=names, structure=structure)
            self.counts.hits += 1
        else:
            if logs("trace"):
                print(f"[jitseq trace] {self._name}\n{traced.graph}", file=sys.stderr)
            code = self.bind(self._graph(traced, names), traced, epoch)
            checks = Checks(traced.graph)
            program = Program(traced, names, text, structure, code, checks, {})
            reason = _reason(types, previous, known is not None)
            self.counts.miss(reason, code.origin)
        kept.keep(program, modules, flags)
        self._kept[key] = kept
        self._table.pop(key, None)
        self._table[key] = program
        return program

    def joint(
        self, program: Program, graph_of: Callable[[Traced, Mapping[str, str]], Graph]
    ) -> Runnable:
        """A program of gradients, current; made by ``graph_of`` when there is none."""
        key = tuple(program.names)
        with self._lock:
            epoch = int(EPOCH[0])
            joint = program.joints.get(key)
            if joint is None:
                graph = graph_of(program.traced, program.names)
                joint = self.bind(graph, program.traced, epoch, updates=())
                program.joints[key] = joint
            joint.bound.refresh(epoch)
            return joint

    def _require(self, traced: Traced) -> None:
        """Raise `JitseqError` for what layers let through but kernels do not."""
        require_compilable(traced)

    def _text(self, traced: Traced, names: Mapping[str, str]) -> str:
        """Equal for traces that have the same program."""
        return graph_text(traced.graph)

    def _graph(self, traced: Traced, names: Mapping[str, str]) -> Graph:
        """Results, then the new values of updated variables."""
        return traced.graph

    def bind(
        self,
        graph: Graph,
        traced: Traced,
        epoch: int,
        updates: Sequence[tuple[Variable, Value]] | None = None,
    ) -> Runnable:
        """Code for ``graph`` on the variables of ``traced``.

        The last outputs are new values for the variables in ``updates``, those of
        the trace when None.
        """
        given = len(graph.inputs)
        variables = dict(traced.variables)
        params = {id(variables[p.name]): p for p in traced.graph.params}
        assigned = []
        for variable, _ in traced.updates if updates is None else updates:
            if id(variable) not in params:
                name = f"updated#{len(variables)}"
                type = TensorType(variable.dtype.name, variable.shape)
                params[id(variable)] = Value(type, name)
                variables[name] = variable
            assigned.append(params[id(variable)])
        graph, counts = feed_counts(with_updates(graph, assigned))
        options = self._disabled, epoch, self._backend
        return runnable(graph, given, counts, variables, *options)

    def after_fork(self) -> None:
        """In a forked child: other threads are gone, whatever they were doing."""
        self._lock, self._changing = threading.RLock(), threading.RLock()
        for kept in self._kept.values():
            for program in kept.programs.values():
                program.bound.drop_fast()


class _Kept:
    """Programs of one signature, by the training flags of the same modules."""

    def __init__(self) -> None:
        self._modules: Any = None
        self.programs: dict[tuple[bool, ...], Program] = {}

    def find(self, text: str) -> Program | None:
        return next((p for p in self.programs.values() if p.text == text), None)

    def keep(self, program: Program, modules: Any, flags: tuple[bool, ...]) -> None:
        """Remember it instead of those that other modules or parameters had."""
        if modules != self._modules:
            self.programs.clear()
        others = [f for f, p in self.programs.items() if p.text == program.text]
        for known in (*others, flags):
            self.programs.pop(known, None)
        self.programs[flags] = program
        self._modules = modules
        while len(self.programs) > KEPT_PROGRAMS:
            del self.programs[next(iter(self.programs))]


def _modules(target: Any) -> tuple[Any, tuple[bool, ...]]:
    """Paths and classes of the modules of a target, and their training flags."""
    roots = {"": target}
    if not hasattr(target, "named_modules"):
        roots = closed_over(target)
    found = [
        (f"{root} {path}", module)
        for root, value in roots.items()
        if hasattr(value, "named_modules")
        for path, module in value.named_modules()
    ]
    classes = tuple((path, type(module)) for path, module in found)
    return classes, tuple(bool(module.training) for _, module in found)


def _same_variables(a: Traced, b: Traced) -> bool:
    """Whether equal graphs read and update the same variables."""
    if a.variables.keys() != b.variables.keys():
        return False
    pairs = zip(a.updates, b.updates, strict=True)
    return all(x is y for (x, _), (y, _) in pairs) and all(
        identity(variable) == identity(b.variables[name])
        for name, variable in a.variables.items()
    )


def _reason(types: Sequence[TensorType], previous: Program | None, same: bool) -> str:
    inputs = ", ".join(map(str, types))
    if previous is None:
        return f"first call with {inputs}"
    if same:
        return f"parameters were replaced ({inputs})"
    return f"the model or its training flags changed ({inputs})"


_alive: weakref.WeakSet[Programs] = weakref.WeakSet()


def _renew_after_fork() -> None:
    for programs in list(_alive):
        programs.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)

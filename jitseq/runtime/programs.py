"""The programs of one compiled callable: one for each signature that it has met.

Enters the arrays of a call; leaves the `Program` that answers it, traced and compiled
when there is none, its weights packed again when they have changed. Invariant: a
program is handed out only when the structure and the flags of the modules and the
versions of the variables are those it was made for. A call that fails leaves programs
and counts as they were.

The epoch is read before anything else is looked at: what changes meanwhile moves it
again, and the next call looks once more.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.config import logs
from jitseq.errors import DtypeError, UnsupportedError
from jitseq.ir.graph import Graph
from jitseq.ir.op import get_op
from jitseq.ir.text import graph_text
from jitseq.ir.trace import Traced, trace
from jitseq.ir.types import FLOAT_DTYPES, TensorType, type_of
from jitseq.ir.variable import EPOCH, STRUCTURE, ask_again
from jitseq.passes.pipeline import optimise
from jitseq.runtime.bound import Bound
from jitseq.runtime.executable import executable

Signature = tuple[Any, ...]


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


class Program(NamedTuple):
    """A traced signature, with its code bound to variables."""

    traced: Traced
    text: str
    structure: int
    bound: Bound


class Programs:
    """Finds, makes and counts programs; safe to use from several threads."""

    def __init__(
        self,
        target: Callable[..., Any],
        name: str,
        dynamic_batch: bool,
        disabled: frozenset[str],
    ) -> None:
        self._target = target
        self._name = name
        self._dynamic_batch = dynamic_batch
        self._disabled = disabled
        self._table: dict[Signature, Program] = {}
        self._static: set[Signature] = set()
        """Signatures whose programs are each for one batch size."""
        self._lock = threading.RLock()
        self.hits = 0
        self._origins: list[str] = []
        self._reasons: list[str] = []

    # look-up

    def find(self, inputs: Sequence[np.ndarray]) -> Program:
        """The current program for ``inputs``.

        Raises:
            JitseqError: the target does not accept these types.
        """
        types = [type_of(array) for array in inputs]
        program = self._table.get(self._key(types))
        if program is not None and program.bound.epoch == int(EPOCH[0]):
            self.hits += 1
            return program
        with self._lock:
            return self._look_again(types)

    def latest(self) -> Program | None:
        """The program made last, if any."""
        return next(reversed(self._table.values()), None)

    def _key(self, types: Sequence[TensorType]) -> Signature:
        signature = self._signature(types)
        return tuple(types) if signature in self._static else signature

    def _signature(self, types: Sequence[TensorType]) -> Signature:
        """What tells programs apart; the batch extent is left out where it may vary."""
        if not self._dynamic_batch or not types or not types[0].shape:
            return tuple(types)
        batch = types[0].shape[0]
        return tuple(_without_batch(type, batch) for type in types)

    def _look_again(self, types: Sequence[TensorType]) -> Program:
        epoch, structure = int(EPOCH[0]), int(STRUCTURE[0])
        previous = self._table.get(self._key(types))
        if previous is not None and previous.structure == structure:
            previous.bound.refresh(epoch)
            self.hits += 1
            return previous
        return self._trace_again(types, previous)

    # tracing and compiling

    def _trace_again(
        self, types: Sequence[TensorType], previous: Program | None
    ) -> Program:
        ask_again()  # a compiled callable that the target calls is to be traced, too
        epoch, structure = int(EPOCH[0]), int(STRUCTURE[0])
        traced = trace(self._target, types, self._dynamic_batch)
        _require_compilable(traced.graph)
        if traced.feeds or traced.updates:
            raise UnsupportedError(
                "a call in training mode runs eagerly only",
                hint='call model.eval() first, or use backend="eager"',
            )
        text = graph_text(traced.graph)
        same = previous is not None and previous.text == text
        if previous is not None and same and _same_variables(previous.traced, traced):
            previous.bound.refresh(epoch)
            program = previous._replace(structure=structure)
            self.hits += 1
        else:
            if logs("trace"):
                print(f"[jitseq trace] {self._name}\n{traced.graph}", file=sys.stderr)
            bound, origin = self.bind(traced.graph, traced, epoch)
            program = Program(traced, text, structure, bound)
            self._count(_reason(types, previous, same), origin)
        self._remember(types, program)
        return program

    def bind(self, graph: Graph, traced: Traced, epoch: int) -> tuple[Bound, str]:
        """Code for ``graph`` on the variables of ``traced``, and where it was found."""
        fused = optimise(graph, self._disabled)
        code, origin = executable(fused, selected_target(), self._disabled)
        variables = {p.name: traced.variables[p.name] for p in fused.graph.params}
        outputs = [value.type for value in graph.outputs]
        return Bound(fused, code, variables, outputs, epoch), origin

    def _remember(self, types: Sequence[TensorType], program: Program) -> None:
        signature = self._signature(types)
        if program.traced.static_reason is None:
            self._static.discard(signature)
            self._table[signature] = program
        else:
            self._static.add(signature)
            self._table[tuple(types)] = program

    # counts

    def _count(self, reason: str, origin: str) -> None:
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

    def after_fork(self) -> None:
        """In a forked child: other threads are gone, whatever they were doing."""
        self._lock = threading.RLock()
        for program in self._table.values():
            program.bound.drop_fast()


def _without_batch(type: TensorType, batch: int) -> Signature:
    follows = bool(type.shape) and type.shape[0] == batch
    return type.dtype, type.ndim, follows, type.shape[1:] if follows else type.shape


def _require_compilable(graph: Graph) -> None:
    """Raise `JitseqError` for what layers let through but kernels do not compute."""
    for node in graph.nodes:
        if not get_op(node.op).lowered:
            raise UnsupportedError(
                f"{node.op} runs eagerly only",
                facts={"layer": node.path} if node.path else {},
                hint="compiled training comes in a later release: until then call the "
                'function itself, or compile it with backend="eager"',
            )
    for value in graph.values():
        if 0 in value.type.inner_shape:
            raise UnsupportedError(
                "a compiled program with a value of no elements",
                facts={"value": value.type},
                hint='only the batch may have size 0; use backend="eager"',
            )
    for what, values in (("input", graph.inputs), ("result", graph.outputs)):
        for value in values:
            if value.type.dtype not in FLOAT_DTYPES:
                raise DtypeError(
                    f"compiled programs take and give float32 and float64, "
                    f"got {value.type.dtype}",
                    facts={what: value.type},
                    hint="convert it, for example x.astype(np.float32), or leave this "
                    "part eager",
                )


def _same_variables(a: Traced, b: Traced) -> bool:
    if a.variables.keys() != b.variables.keys():
        return False
    return all(variable is b.variables[name] for name, variable in a.variables.items())


def _reason(types: Sequence[TensorType], previous: Program | None, same: bool) -> str:
    inputs = ", ".join(map(str, types))
    if previous is None:
        return f"first call with {inputs}"
    if same:
        return f"parameters were replaced ({inputs})"
    return f"the model or its training flags changed ({inputs})"

"""`Compiled`: a callable that compiles itself for each signature it meets.

Enters a module or function; a call leaves what the eager call would give. Invariant:
a program is used only while the structure, the flags and the versions of the
variables are those it was made for; anything else is looked at again first.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.config import logs, setting
from jitseq.errors import JitseqError, UnsupportedError
from jitseq.ir.graph import Graph, Value
from jitseq.ir.text import graph_text
from jitseq.ir.trace import Traced, trace
from jitseq.ir.tracer import as_array
from jitseq.ir.types import TensorType, type_of
from jitseq.ir.variable import STRUCTURE
from jitseq.passes.pipeline import OPTIONAL_PASSES, optimise
from jitseq.runtime.bound import Bound
from jitseq.runtime.executable import executable
from jitseq.runtime.report import Profile, Report
from jitseq.runtime.threads import get_num_threads

BACKENDS = ("cpu", "eager")


class CacheInfo(NamedTuple):
    """Calls that found a program, calls that did not, programs read from disk,
    programs compiled, and why each was needed."""

    hits: int
    misses: int
    disk_hits: int
    compilations: int
    reasons: tuple[str, ...]


class _Program(NamedTuple):
    """A traced signature with the program bound to it."""

    traced: Traced
    text: str
    structure: int
    bound: Bound


class Compiled:
    """A compiled module or function; made by `jitseq.jit` and `jitseq.trace`."""

    def __init__(
        self,
        target: Callable[..., Any],
        *,
        backend: str | None = None,
        threads: int | None = None,
        dynamic_batch: bool = True,
        disable_passes: Sequence[str] = (),
    ) -> None:
        self.target = target
        self.backend = _checked_backend(backend or setting("JITSEQ_BACKEND", "cpu"))
        self._threads = threads
        self._dynamic_batch = dynamic_batch
        self._disabled = _checked_passes(disable_passes)
        self._programs: dict[tuple[Any, ...], _Program] = {}
        self._lock = threading.RLock()
        self._hits = self._misses = self._disk_hits = self._compilations = 0
        self._reasons: list[str] = []
        self._fast: Callable[..., Any] | None = None
        self.__wrapped__ = target
        self.__name__ = getattr(target, "__name__", type(target).__name__)
        self.__doc__ = getattr(target, "__doc__", None)

    def __repr__(self) -> str:
        return f"Compiled({self.__name__}, backend={self.backend!r})"

    @property
    def threads(self) -> int:
        """Threads that a call may use."""
        return self._threads or get_num_threads()

    # calls

    def __call__(self, *arrays: Any) -> Any:
        """The result that the eager call would give.

        Args:
            arrays: float32 or float64 arrays, or whatever has ``__array__`` or
                ``__dlpack__``; torch tensors give torch tensors.

        Raises:
            ShapeError, DtypeError, UnsupportedError, TraceError: the target does not
                accept the arrays; raised before anything is computed.
        """
        fast = self._fast
        if fast is not None:
            result = fast(*arrays)
            if result is not None:
                self._hits += 1
                return result
        return self._general(arrays)

    def _general(self, arrays: Sequence[Any]) -> Any:
        from jitseq.nn.foreign import call_with_tensors, is_torch_tensor

        if any(map(is_torch_tensor, arrays)):
            return call_with_tensors(self._on_arrays, tuple(arrays), {})
        return self._on_arrays(*arrays)

    def _on_arrays(self, *arrays: Any) -> Any:
        inputs = [_readable(array) for array in arrays]
        if self._runs_eagerly():
            return self.target(*inputs)
        program = self._program(inputs)
        threads = self.threads
        outputs = program.bound.call(inputs, threads)
        self._remember_fast(program, threads)
        return program.traced.structure.rebuild(list(outputs))

    def _runs_eagerly(self) -> bool:
        return self.backend == "eager" or setting("JITSEQ_DISABLE") == "1"

    def _remember_fast(self, program: _Program, threads: int) -> None:
        """Let the native path answer calls of this signature."""
        self._fast = None
        if program.traced.structure.is_plain:
            fast = program.bound.fast_call(threads)
            if fast is not None:
                self._fast = fast.function

    # programs

    def _program(self, inputs: Sequence[np.ndarray]) -> _Program:
        types = [type_of(array) for array in inputs]
        key = self._signature(types)
        with self._lock:
            program = self._programs.get(key)
            if program is not None and self._is_current(program, types):
                program.bound.refresh()
                self._hits += 1
                return program
            self._misses += 1
            program = self._compile(types, program)
            self._programs[key] = program
            return program

    def _signature(self, types: Sequence[TensorType]) -> tuple[Any, ...]:
        """What tells programs apart; the leading extent is left out where it may vary."""
        if not self._dynamic_batch or not types or not types[0].shape:
            return tuple(types)
        key = []
        batch = types[0].shape[0]
        for type in types:
            follows = bool(type.shape) and type.shape[0] == batch
            shape = type.shape[1:] if follows else type.shape
            key.append((type.dtype, type.ndim, follows, shape))
        dynamic = tuple(key)
        known = self._programs.get(dynamic)
        if known is not None and known.traced.static_reason is not None:
            return tuple(types)
        return dynamic

    def _is_current(self, program: _Program, types: Sequence[TensorType]) -> bool:
        if program.structure != int(STRUCTURE[0]):
            return False
        if program.traced.static_reason is None:
            return True
        return [v.type for v in program.traced.graph.inputs] == list(types)

    def _compile(
        self, types: Sequence[TensorType], previous: _Program | None
    ) -> _Program:
        structure = int(STRUCTURE[0])
        traced = trace(self.target, types, self._dynamic_batch)
        text = graph_text(traced.graph)
        same = previous is not None and previous.text == text
        if previous is not None and same and _same_variables(previous.traced, traced):
            previous.bound.refresh()
            return previous._replace(structure=structure)
        self._note(_reason(types, previous, same))
        if logs("trace"):
            print(traced.graph, file=sys.stderr)
        fused = optimise(traced.graph, self._disabled)
        code = executable(fused, selected_target(), self._disabled)
        if code.origin == "disk":
            self._disk_hits += 1
        else:
            self._compilations += 1
        outputs = [value.type for value in traced.graph.outputs]
        bound = Bound(fused, code, traced.variables, outputs)
        return _Program(traced, text, structure, bound)

    def _note(self, reason: str) -> None:
        self._reasons.append(reason)
        if logs("recompiles"):
            print(f"{self.__name__}: {reason}", file=sys.stderr)

    def prepare(self, *samples: Any) -> Compiled:
        """Compile for the types of ``samples`` without running; returns itself."""
        if not self._runs_eagerly():
            program = self._program([_readable(sample) for sample in samples])
            self._remember_fast(program, self.threads)
        return self

    def _for_samples(self, samples: Sequence[Any]) -> _Program:
        if not samples and self._programs:
            return next(reversed(self._programs.values()))
        return self._program([_readable(sample) for sample in samples])

    # looking inside

    def graph(self, *samples: Any) -> Graph:
        """The IR after the graph passes; ``print`` shows every type."""
        return self._for_samples(samples).bound.fused.graph

    def traced_graph(self, *samples: Any) -> Graph:
        """The IR as it was traced, before any pass."""
        return self._for_samples(samples).traced.graph

    def source(self, *samples: Any, form: str = "llvm") -> str:
        """Generated code: ``form`` is "program", "llvm" or "assembly"."""
        from jitseq.runtime.inspect import source

        program = self._for_samples(samples)
        return source(program.bound.fused, selected_target(), self._disabled, form)

    def explain(self, *samples: Any) -> Report:
        """Kernels, what was not fused and why, memory, compile time."""
        program = self._for_samples(samples)
        code = program.bound.code
        notes = []
        if program.traced.static_reason:
            notes.append(f"compiled for this batch size: {program.traced.static_reason}")
        return Report(
            code.manifest.kernels,
            program.bound.fused.refusals,
            code.manifest.arena_bytes,
            code.compile_seconds,
            code.origin,
            selected_target().cpu,
            tuple(notes),
        )

    def profile(self, *arrays: Any, repeats: int | None = None) -> Profile:
        """Measured time of each kernel on one thread, beside its FLOP/s and bytes/s."""
        from jitseq.runtime.inspect import profile

        inputs = [_readable(array) for array in arrays]
        program = self._program(inputs)
        return profile(program.bound, inputs, selected_target(), self._disabled, repeats)

    def intermediates(self, *arrays: Any) -> dict[str, np.ndarray]:
        """Every layer's output by path, computed by a program that returns them all."""
        inputs = [_readable(array) for array in arrays]
        if self._runs_eagerly():
            raise UnsupportedError(
                "intermediates of an eager callable",
                hint='compile it with backend="cpu"',
            )
        traced = self._program(inputs).traced
        named = {
            path: value for path, value in traced.graph.layer_outputs.items() if path
        }
        if not named:
            return {}
        outputs: tuple[Value, ...] = tuple(named.values())
        graph = traced.graph.replace(traced.graph.nodes, outputs=outputs)
        fused = optimise(graph, self._disabled)
        code = executable(fused, selected_target(), self._disabled)
        variables = {p.name: traced.variables[p.name] for p in fused.graph.params}
        bound = Bound(fused, code, variables, [value.type for value in outputs])
        return dict(zip(named, bound.call(inputs, self.threads), strict=True))

    def cache_info(self) -> CacheInfo:
        """How often a program was found, read from disk, compiled, and why."""
        return CacheInfo(
            self._hits,
            self._misses,
            self._disk_hits,
            self._compilations,
            tuple(self._reasons),
        )


def _same_variables(a: Traced, b: Traced) -> bool:
    if a.variables.keys() != b.variables.keys():
        return False
    return all(variable is b.variables[name] for name, variable in a.variables.items())


def _reason(types: Sequence[TensorType], previous: _Program | None, same: bool) -> str:
    inputs = ", ".join(map(str, types))
    if previous is None:
        return f"first call with {inputs}"
    if same:
        return f"parameters were replaced ({inputs})"
    return f"the model or its training flags changed ({inputs})"


def _checked_backend(backend: str) -> str:
    if backend not in BACKENDS:
        raise UnsupportedError(
            f"backend {backend!r}",
            hint=f"one of {', '.join(map(repr, BACKENDS))}",
        )
    return backend


def _checked_passes(names: Sequence[str]) -> frozenset[str]:
    unknown = set(names) - set(OPTIONAL_PASSES)
    if unknown:
        raise JitseqError(
            f"no optional pass is called {', '.join(sorted(unknown))}",
            hint=f"one of {', '.join(OPTIONAL_PASSES)}",
        )
    return frozenset(names)


def _readable(x: Any) -> np.ndarray:
    """A C-contiguous, aligned array of native byte order; copied only if it is not."""
    from jitseq.nn.foreign import to_array

    array = to_array(x) if not isinstance(x, np.ndarray) else as_array(x)
    return np.require(array, requirements=("C", "A"))



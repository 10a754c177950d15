"""`Compiled`: a callable that compiles itself for each signature it meets.

Enters a module or function; a call leaves what the eager call would give. Invariant:
the native path answers only while nothing that a program depends on has moved;
anything else is looked at again first, by `programs`. Bad input is refused before
anything is computed.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.config import setting
from jitseq.errors import UnsupportedError
from jitseq.ir.builder import active_builder
from jitseq.ir.graph import Graph, Value
from jitseq.nn.foreign import call_with_tensors, is_torch_tensor
from jitseq.runtime import compiled_gradient, gradient
from jitseq.runtime.arguments import (
    any_on_device,
    checked_backend,
    checked_passes,
    positional,
    readable_all,
    readable_inputs,
)
from jitseq.runtime.fed import drawn
from jitseq.runtime.gradient import Pullback
from jitseq.runtime.lookup import CacheInfo
from jitseq.runtime.programs import Program, Programs
from jitseq.runtime.report import Profile, Report
from jitseq.runtime.threads import checked_threads, get_num_threads

if TYPE_CHECKING:
    from jitseq.display.memory_plan import MemoryPlan
    from jitseq.display.summary import Summary


class Compiled:
    """A compiled module or function; made by `jitseq.jit` and `jitseq.trace`.

    Copies and pickles hold the target and the options, never programs. A function
    under ``@jit`` is pickled by its name, as functions are.

    The native path reads no environment variable: ``JITSEQ_DISABLE`` and
    ``JITSEQ_NUM_THREADS``, changed after a first call, count from the next call that
    it declines. `set_num_threads` counts at once. Arrays and numbers that a function
    closes over are those of its trace; parameters and buffers are followed.
    """

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
        self.backend = checked_backend(backend or setting("JITSEQ_BACKEND", "cpu"))
        if threads is not None:
            threads = checked_threads(threads, "jit(threads=…)")
        self.options: dict[str, Any] = {
            "backend": self.backend,
            "threads": threads,
            "dynamic_batch": dynamic_batch,
            "disable_passes": tuple(disable_passes),
        }
        self._threads = threads
        self._disabled = checked_passes(disable_passes)
        self.__wrapped__ = target
        self.__name__ = getattr(target, "__name__", type(target).__name__)
        self.__qualname__ = getattr(target, "__qualname__", self.__name__)
        self.__module__ = getattr(target, "__module__", type(target).__module__)
        self.__doc__ = getattr(target, "__doc__", None)
        self._programs = Programs(
            target, self.__name__, dynamic_batch, self._disabled, self.backend
        )
        self._fast: Callable[..., Any] | None = None
        _alive.add(self)

    def __repr__(self) -> str:
        return f"Compiled({self.__name__}, backend={self.backend!r})"

    def __reduce__(self) -> Any:
        if _found_by_name(self):
            return self.__qualname__
        return _rebuild, (self.target, self.options)

    @property
    def threads(self) -> int:
        """Threads that a call may use."""
        return self._threads or get_num_threads()

    # calls

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The result that the eager call would give.

        Args:
            arrays: float32 or float64 arrays, or whatever has ``__array__`` or
                ``__dlpack__``, or nested lists (float64, as ``np.asarray`` makes of
                them); torch tensors give torch tensors.
            named: arguments by the target's own names.

        Raises:
            ShapeError, DtypeError, UnsupportedError, TraceError: the target does not
                accept the arrays; raised before anything is computed.
            TypeError: the number or the names of the arguments are wrong.
        """
        if named:
            arrays = positional(self.target, arrays, named)
        fast = self._fast
        if fast is not None:
            result = fast(*arrays)
            if result is not None:
                self._programs.counts.hits += 1
                return result
        return self._general(arrays)

    def _general(self, arrays: Sequence[Any]) -> Any:
        if active_builder() is not None:
            return self.target(*arrays)  # part of the function that is being traced
        if self.backend == "cuda" and any_on_device(arrays):
            return self._on_arrays(*arrays)
        if any(map(is_torch_tensor, arrays)):
            return call_with_tensors(self._on_arrays, tuple(arrays), {})
        return self._on_arrays(*arrays)

    def _on_arrays(self, *arrays: Any) -> Any:
        inputs = readable_inputs(arrays, self.backend)
        if self.runs_eagerly() or not all(array.size for array in inputs):
            # nothing to compute leaves nothing to compile
            return self.target(*map(np.asarray, inputs))
        program, threads = self._programs.find(inputs), self.threads
        fast = self._remember_fast(program, threads)
        if fast is not None:
            result = fast(*inputs)
            if result is not None:
                return result
        outputs, _ = self._programs.run(program, inputs, threads)
        return program.traced.structure.rebuild(outputs)

    def runs_eagerly(self) -> bool:
        """Whether calls, now, are those of the target itself."""
        return self.backend == "eager" or setting("JITSEQ_DISABLE") == "1"

    def vjp(self, *arrays: Any) -> tuple[Any, Pullback]:
        """The result, and a pullback that is one compiled program.

        Arguments, results and errors are those of `jitseq.vjp`. The pullback computes
        the forward values again, with the parameters and the random numbers of this
        call; it may be called any number of times, from several threads too.
        """
        if any(map(is_torch_tensor, arrays)):
            found: tuple[Any, Pullback] = call_with_tensors(self.vjp, arrays, {})
            return found
        if active_builder() is not None or self.runs_eagerly():
            return gradient.vjp(self.target, *arrays)
        inputs = readable_all(arrays)
        if not all(array.size for array in inputs):
            return gradient.vjp(self.target, *inputs)
        return compiled_gradient.vjp(self._programs, inputs, self.threads)

    def _remember_fast(
        self, program: Program, threads: int
    ) -> Callable[..., Any] | None:
        """Let the native path, if there is one, answer calls of this signature."""
        fast = None
        if program.is_plain and program.traced.structure.is_plain:
            fast = program.bound.fast_call(threads)
        self._fast = None if fast is None else fast.function
        return self._fast

    def prepare(self, *samples: Any) -> Compiled:
        """Compile for the types of ``samples`` without running; returns itself."""
        if not self.runs_eagerly():
            self._remember_fast(self._for(samples), self.threads)
        return self

    def _for(self, samples: Sequence[Any]) -> Program:
        return self._programs.find(readable_all(samples))

    def _for_samples(self, samples: Sequence[Any]) -> Program:
        latest = None if samples else self._programs.latest()
        return self._for(samples) if latest is None else latest

    # looking inside

    def graph(self, *samples: Any) -> Graph:
        """The IR after the graph passes; ``print`` shows every type."""
        return self._for_samples(samples).bound.fused.graph

    def traced_graph(self, *samples: Any) -> Graph:
        """The IR as it was traced, before any pass."""
        return self._for_samples(samples).traced.graph

    def source(self, *samples: Any, form: str | None = None) -> str:
        """Generated code: ``form`` is "program", "numba", "llvm" or "assembly".

        By default what the backend writes: "numba" or "llvm".
        """
        from jitseq.runtime.inspect import source

        fused, target = self._for_samples(samples).bound.fused, selected_target()
        return source(fused, target, self._disabled, form, self.backend)

    def explain(self, *samples: Any) -> Report:
        """Kernels, what was not fused and why, memory, compile time."""
        program = self._for_samples(samples)
        reason = program.traced.static_reason
        return program.code.report(reason)

    def profile(self, *arrays: Any, repeats: int | None = None) -> Profile:
        """Measured time of each kernel on one thread, beside its FLOP/s and bytes/s."""
        inputs = readable_all(arrays)
        program = self._programs.find(inputs)
        feeds = [np.zeros(v.type.shape, v.type.dtype) for v, _ in program.traced.feeds]
        return program.code.profile([*inputs, *feeds], {}, self._disabled, repeats)

    def intermediates(self, *arrays: Any) -> dict[str, np.ndarray]:
        """Every layer's output by path, computed by a program that returns them all."""
        inputs = readable_all(arrays)
        if self.runs_eagerly():
            raise UnsupportedError(
                "intermediates of an eager callable",
                hint='compile it with backend="cpu"',
            )
        program = self._programs.find(inputs)
        layers = program.traced.graph.layer_outputs
        named = {path: value for path, value in layers.items() if path}
        if not named:
            return {}
        outputs: tuple[Value, ...] = tuple(named.values())
        graph = program.traced.graph
        graph = graph.replace(graph.nodes, outputs=outputs)
        epoch, traced = program.bound.epoch, program.traced
        code = self._programs.bind(graph, traced, epoch, updates=())
        program.checks(inputs, program.bound.batch(inputs))
        found = code.run([*inputs, *drawn(traced)], self.threads)
        return dict(zip(named, found, strict=True))

    def cache_info(self) -> CacheInfo:
        """How often a program was found, read from disk, compiled, and why."""
        return self._programs.counts.info()

    # displays

    def summary(self, *samples: Any) -> Summary:
        """Layers, shapes, parameters, work, and which kernel computes each layer."""
        from jitseq.display.summary import summarise

        program = self._for_samples(samples)
        graph, fused = program.traced.graph, program.bound.fused
        report = program.code.report(program.traced.static_reason)
        return summarise(self.__name__, self.target, graph, fused, report)

    def memory_plan(self, *samples: Any) -> MemoryPlan:
        """Where buffers lie, and from which kernel to which.

        Raises `UnsupportedError` for backend "cuda", whose memory is the device's.
        """
        from jitseq.runtime.inspect import memory_plan

        fused = self._for_samples(samples).bound.fused
        return memory_plan(fused, selected_target(), self._disabled, self.backend)

    def _repr_html_(self) -> str:
        from jitseq.display.page import compiled_html

        latest = self._programs.latest()
        return compiled_html(repr(self), None if latest is None else self.explain())

    def _after_fork(self) -> None:
        self._fast = None


_alive: weakref.WeakSet[Compiled] = weakref.WeakSet()


def _renew_after_fork() -> None:
    for compiled in list(_alive):
        compiled._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


def _rebuild(target: Callable[..., Any], options: Mapping[str, Any]) -> Compiled:
    return Compiled(target, **options)


def _found_by_name(compiled: Compiled) -> bool:
    """Whether the name of the target leads to the compiled callable, as under @jit."""
    import sys

    found: Any = sys.modules.get(compiled.__module__)
    for name in compiled.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is compiled

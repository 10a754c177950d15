"""`TrainStep`: forward, loss, backward and update as one call.

A model, a loss and an optimizer enter; each call with ``(*inputs, y)`` changes the
parameters, the buffers and the optimizer's state, and gives the loss. Invariant: a
call that fails leaves all three as they were; ``parameter.grad`` is never touched.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jitseq.codegen.llvm.host import selected_target
from jitseq.config import setting
from jitseq.errors import JitseqError
from jitseq.ir.graph import Graph
from jitseq.ir.interpret import Environment, evaluate
from jitseq.ir.trace import Traced
from jitseq.ir.variable import Variable
from jitseq.nn.functional.arguments import integer
from jitseq.optim.checks import OptimizerError, require_number
from jitseq.optim.optimizer import Optimizer
from jitseq.passes.autodiff import differentiate
from jitseq.passes.step import NORM_EPSILON
from jitseq.runtime.arguments import (
    checked_backend,
    checked_passes,
    readable_all,
    readable_inputs,
)
from jitseq.runtime.fed import drawn
from jitseq.runtime.lookup import CacheInfo
from jitseq.runtime.native_step import NativeStep
from jitseq.runtime.report import Profile, Report
from jitseq.runtime.step_program import StepProgram
from jitseq.runtime.threads import checked_threads, get_num_threads
from jitseq.runtime.training_checks import (
    Trained,
    check_arrays,
    check_label_inputs,
    composed,
    require_trained,
    trace_loss,
    trained,
)

if TYPE_CHECKING:
    from jitseq.display.memory_plan import MemoryPlan


class TrainStep:
    """A training step; made by `jitseq.train_step`.

    A step does what these lines do in PyTorch, in the mode that the model is in::

        loss = criterion(model(x), y)
        (loss / accumulate).backward()
        # and in every accumulate-th call:
        clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    except that gradients are the step's own: ``parameter.grad`` is neither read nor
    written. ``parameters`` are those of the optimizer that have ``requires_grad``
    and take part in the loss. Options of the optimizer's groups, such as the learning
    rate that a schedule sets, count from the next call. A loss that is NaN or
    infinite is no error: the update happens, and the returned loss says so.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        *,
        backend: str | None = None,
        threads: int | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        dynamic_batch: bool = True,
        disable_passes: Sequence[str] = (),
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise OptimizerError(
                f"train_step: {type(optimizer).__name__} is not an Optimizer",
                hint="make one of jitseq.optim, such as optim.SGD(model.parameters())",
            )
        for what, function in (("model", model), ("loss", loss)):
            if not callable(function):
                raise JitseqError(
                    f"train_step: a {type(function).__name__} cannot be called",
                    hint=f"the {what} is a module or a function of arrays",
                )
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.backend = checked_backend(backend or setting("JITSEQ_BACKEND", "cpu"))
        if threads is not None:
            threads = checked_threads(threads, "train_step(threads=…)")
        self._threads = threads
        self.accumulate = integer(accumulate, "train_step: accumulate", minimum=1)
        self.clip_norm = None
        if clip_norm is not None:
            self.clip_norm = require_number(clip_norm, "clip_norm")
        self.dynamic_batch = dynamic_batch
        self._disabled = checked_passes(disable_passes)
        self._target = composed(model, loss)
        self._lock = threading.RLock()
        self._calls = 0
        self._sums: dict[Variable, np.ndarray] = {}
        self._native = NativeStep(self)
        trained(model, loss, optimizer)

    def __repr__(self) -> str:
        names = (getattr(part, "__name__", type(part).__name__) for part in self._parts)
        return f"TrainStep({', '.join(names)}, backend={self.backend!r})"

    @property
    def _parts(self) -> tuple[Any, Any, Optimizer]:
        return self.model, self.loss, self.optimizer

    @property
    def threads(self) -> int:
        """Threads that a call may use."""
        return self._threads or get_num_threads()

    @property
    def accumulated(self) -> int:
        """Calls whose gradients wait for the next update; below ``accumulate``."""
        return self._calls

    def __call__(self, *arrays: Any) -> float:
        """Make one step; returns the loss before the update, not divided.

        Args:
            arrays: the model's inputs, then y, which the loss gets: arrays, torch
                tensors or nested lists.

        Raises:
            ShapeError, DtypeError: model or loss do not accept the arrays, an array
                is empty, or the loss is not one number.
            RangeError: a class label is out of range.
            OptimizerError: an option of the optimizer is out of range, or it holds a
                parameter of another model.
            UnsupportedError: an operation has no gradient.
            TypeError: less than two arrays.
        """
        inputs = readable_inputs(arrays, self.backend)
        check_arrays(inputs)
        with self._lock:
            return self._call(inputs)

    def _call(self, inputs: Sequence[np.ndarray]) -> float:
        """One checked step on arrays."""
        if self.backend == "eager" or setting("JITSEQ_DISABLE") == "1":
            return self._eager([np.asarray(array) for array in inputs])
        updates = self._calls + 1 == self.accumulate
        loss = self._native(inputs, updates)
        self._calls = 0 if updates else self._calls + 1
        return loss

    # looking inside

    def _program(self, arrays: Sequence[Any]) -> StepProgram:
        """The program for samples, or the one made last; compiles, does not run."""
        if not arrays and self._native.latest is not None:
            return self._native.latest
        inputs = readable_all(arrays)
        check_arrays(inputs)
        with self._lock:
            return self._native.find(inputs)

    def graph(self, *samples: Any) -> Graph:
        """The IR of the whole step after the graph passes."""
        return self._program(samples).fused.graph

    def source(self, *samples: Any, form: str | None = None) -> str:
        """Generated code, as by `Compiled.source`."""
        from jitseq.runtime.inspect import source

        fused = self._program(samples).fused
        return source(fused, selected_target(), self._disabled, form, self.backend)

    def explain(self, *samples: Any) -> Report:
        """Kernels, what was not fused and why, memory, compile time."""
        return self._program(samples).report()

    def profile(self, *arrays: Any, repeats: int | None = None) -> Profile:
        """Measured time of each kernel on one thread; nothing of the model changes."""
        inputs = readable_all(arrays)
        return self._program(inputs).profile(inputs, self._disabled, repeats)

    def cache_info(self) -> CacheInfo:
        """How often a program was found, read from disk, compiled, and why."""
        return self._native.counts.info()

    def memory_plan(self, *samples: Any) -> MemoryPlan:
        """Where buffers lie and how long, as by `Compiled.memory_plan`."""
        from jitseq.runtime.inspect import memory_plan

        fused = self._program(samples).fused
        return memory_plan(fused, selected_target(), self._disabled, self.backend)

    def _repr_html_(self) -> str:
        from jitseq.display.page import compiled_html

        made = self._native.latest is not None
        return compiled_html(repr(self), self.explain() if made else None)

    def _eager(self, inputs: Sequence[np.ndarray]) -> float:
        """The step by the ops' references: compute everything, then commit."""
        work = trained(*self._parts)
        traced = trace_loss(self._target, inputs, dynamic_batch=False)
        check_label_inputs(traced.graph, inputs)
        loss, gradients, buffers = self._differentiated(traced, work, inputs)
        sums = {
            parameter: self._sums[parameter] + gradient
            if parameter in self._sums
            else gradient
            for parameter, gradient in gradients.items()
        }
        sums = self._sums | sums
        calls = self._calls + 1
        updates = []
        if calls == self.accumulate:
            updates = self._updates(work, sums)
            calls, sums = 0, {}
        for update in updates:
            self.optimizer._commit(update)
        for variable, value in buffers:
            variable.assign(value)
        self._calls, self._sums = calls, sums
        return loss

    def _differentiated(
        self, traced: Traced, work: Sequence[Trained], inputs: Sequence[np.ndarray]
    ) -> tuple[float, dict[Variable, np.ndarray], list[tuple[Variable, np.ndarray]]]:
        """Loss, gradient of each parameter, and new values of buffers."""
        wanted = {one.parameter for one in work}
        wrt = [v for v in traced.graph.params if traced.variables[v.name] in wanted]
        require_trained(wrt)
        joint = differentiate(
            traced.graph, wrt, of=traced.graph.outputs[:1], seed=1.0 / self.accumulate
        )
        given = (*inputs, *drawn(traced))
        known: Environment = dict(zip(joint.graph.inputs, given, strict=True))
        known |= {p: traced.variables[p.name].numpy() for p in joint.graph.params}
        evaluate(joint.graph.nodes, known, joint.graph.outputs)
        gradients = {
            traced.variables[value.name]: known[gradient]
            for value, gradient in zip(wrt, joint.gradients, strict=True)
        }
        buffers = [
            (variable, np.array(known[value])) for variable, value in traced.updates
        ]
        calls = Counter(traced.counted)
        buffers += [(counter, counter.numpy() + by) for counter, by in calls.items()]
        return float(known[joint.outputs[0]].item()), gradients, buffers

    def _updates(
        self, work: Sequence[Trained], gradients: dict[Variable, np.ndarray]
    ) -> list[Any]:
        """What the optimizer will do, from clipped gradients."""
        if self.clip_norm is not None:
            gradients = clipped(gradients, self.clip_norm)
        return [
            self.optimizer._update(one.group, one.parameter, gradients[one.parameter])
            for one in work
            if one.parameter in gradients
        ]


def clipped(
    gradients: dict[Variable, np.ndarray], max_norm: float
) -> dict[Variable, np.ndarray]:
    """Gradients whose L2 norm, over all of them, is ``max_norm`` at most.

    ``g · min(1, max_norm / (norm + 1e-6))``, as `torch.nn.utils.clip_grad_norm_`: a
    norm that is NaN makes all gradients NaN.
    """
    norms = [np.linalg.norm(gradient.ravel()) for gradient in gradients.values()]
    with np.errstate(all="ignore"):
        share = np.minimum(max_norm / (np.linalg.norm(norms) + NORM_EPSILON), 1.0)
        return {
            parameter: gradient * gradient.dtype.type(share)
            for parameter, gradient in gradients.items()
        }

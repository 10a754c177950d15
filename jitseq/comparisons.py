"""The functions that users call to compare: `diff` and `benchmark`.

Models and samples enter; what `jitseq.compare` finds leaves. Targets are recognised by
`jitseq.api.jit`, whose options those of a compiled model are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jitseq.api import Target, jit
from jitseq.compare.benchmark import benchmark as measure
from jitseq.compare.diff import diff as compare
from jitseq.compare.difference import Difference
from jitseq.compare.timings import Benchmark
from jitseq.optim.optimizer import Optimizer
from jitseq.runtime.compiled import Compiled


def diff(
    model: Target,
    *samples: Any,
    backends: Sequence[str] = ("eager", "cpu"),
    gradients: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
) -> Difference:
    """Run two backends side by side and find the layer at which they part.

    Args:
        model: what `jit` takes, or its result, whose options count.
        samples: the arrays of one call.
        backends: two of those of `jit`.
        gradients: whether the backward pass is compared too, for a random cotangent
            that is the same in every run.
        rtol, atol: the backends may be ``atol + rtol * size`` apart, where size is the
            larger of both numbers; one that is None is 0. When both are None, each
            layer may be as far from float64, on the inputs that it had, as rounding
            explains.

    Returns a `Difference`, which is true when the backends agree; ``first``, ``layers``
    and ``nonfinite`` say where they do not. Buffers, parameters, programs and random
    numbers stay as they are; in training mode both sides get the same random numbers.

    Raises:
        UnsupportedError: there are not two backends, one does not exist, or an
            operation has no gradient.
        JitseqError: what a call with ``samples`` raises; a sample is empty.
    """
    compiled = model if isinstance(model, Compiled) else jit(model, backend="eager")
    return compare(compiled, samples, backends, gradients, rtol, atol)


def benchmark(
    model: Target,
    *samples: Any,
    backend: str | Sequence[str] = "cpu",
    against: Sequence[str] = ("eager",),
    train: tuple[Callable[[Any, Any], Any], Callable[[Any], Optimizer]] | None = None,
    rounds: int = 20,
    seconds: float | None = None,
    threads: int | None = None,
) -> Benchmark:
    """Time one call of a model in several hands, in turns, after comparing results.

    Args:
        model: what `jit` takes, or its result, whose options count.
        samples: the arrays of a call; with ``train``, inputs and, last, the target.
        backend: those of `jit` that are timed; the first is what others are beside.
        against: more backends, and ``"torch"``, ``"torch.compile"``,
            ``"onnxruntime"``, ``"openvino"`` or ``"jax"`` for an `nn.Sequential` of
            one input; the first two also for a torch module, which they run itself.
        train: a loss and a function of parameters that gives an optimizer: training
            steps are timed, each on a copy of the model in training mode, against
            backends, ``"torch"`` and ``"torch.compile"``.
        rounds: samples of each contestant, 4 or more.
        seconds: no further round begins after so many; warm-up does not count.
        threads: of every contestant; those of `jit` when None.

    Returns a `Benchmark`: medians in ``seconds``, ``ratio(a, b)``, ``told_apart(a, b)``
    and ``plot()``; it prints as a table.

    Raises:
        UnsupportedError: an unknown contestant, a model that one does not cover, or one
            of which each call changes buffers or is random.
        JitseqError: a package is missing, or a contestant computes something else.
    """
    compiled = model if isinstance(model, Compiled) else jit(model, backend="eager")
    own = (backend,) if isinstance(backend, str) else tuple(backend)
    names = (*own, *against)
    return measure(compiled, samples, names, train, rounds, seconds, threads)

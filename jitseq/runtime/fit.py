"""`fit`: the usual training loop around a `TrainStep`.

A model and arrays enter; trained parameters and a `History` leave. Invariant: the
order of the samples depends on ``seed`` alone, and every module has its training flag
of before when `fit` returns, however it ends.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.types import type_of
from jitseq.nn.foreign import to_array
from jitseq.nn.functional.arguments import integer
from jitseq.nn.module import Module
from jitseq.optim.checks import OptimizerError
from jitseq.optim.lr_scheduler import ReduceLROnPlateau
from jitseq.optim.optimizer import Optimizer
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.history import History, Record
from jitseq.runtime.progress import make_progress
from jitseq.runtime.training import TrainStep

Loss = Callable[[Any, Any], Any]


def fit(
    model: Callable[..., Any],
    x: Any,
    y: Any,
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int,
    validation: tuple[Any, Any] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    progress: bool = True,
    scheduler: Any = None,
    backend: str | None = None,
    threads: int | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
) -> History:
    """Train ``model`` on ``x`` and ``y``; documented at `jitseq.fit`."""
    epochs = integer(epochs, "fit: epochs", minimum=1)
    batch_size = integer(batch_size, "fit: batch_size", minimum=1)
    train = _Samples.of(x, y, "x", "y")
    held_out = None
    if validation is not None:
        held_out = _Samples.of(*validation, "validation x", "validation y")
    _check_scheduler(scheduler, optimizer)
    step = TrainStep(
        model,
        loss,
        optimizer,
        backend=backend,
        threads=threads,
        accumulate=accumulate,
        clip_norm=clip_norm,
    )
    compiled = Compiled(model, backend=backend, threads=threads)
    rng = np.random.default_rng(seed)
    history = History()
    shown = make_progress(progress, epochs)
    with _modes_kept(model), _Interrupts() as interrupts:
        try:
            for epoch in range(1, epochs + 1):
                start = time.perf_counter()
                rate = float(optimizer.param_groups[0]["lr"])
                order = rng.permutation(train.count) if shuffle else None
                shown.start(epoch, -(-train.count // batch_size))
                _set_training(model, True)
                record: Record = {"epoch": epoch, "loss": 0.0}
                for record["loss"] in _means(step, train.batches(batch_size, order)):
                    shown.batch(record["loss"])
                    interrupts.raise_if_asked()
                if held_out is not None:
                    _set_training(model, False)
                    record |= evaluate(compiled, loss, held_out, batch_size)
                if scheduler is not None:
                    _advance(scheduler, record)
                record |= {"lr": rate, "seconds": time.perf_counter() - start}
                history.epochs.append(record)
                shown.end(record)
        except KeyboardInterrupt:
            if interrupts.impatient:
                raise
            history.interrupted = True
        finally:
            shown.close()
    return history


@dataclass(frozen=True)
class _Samples:
    """Inputs and y with one leading extent, ``count``."""

    inputs: tuple[np.ndarray, ...]
    y: np.ndarray

    @classmethod
    def of(cls, x: Any, y: Any, x_name: str, y_name: str) -> _Samples:
        """Arrays from an array, or a tuple of arrays for several inputs.

        Raises `ShapeError` unless all hold the same number of samples, one at least.
        """
        parts = x if isinstance(x, tuple) else (x,)
        inputs, target = tuple(map(to_array, parts)), to_array(y)
        names = [x_name]
        if len(inputs) > 1:
            names = [f"{x_name}[{i}]" for i in range(len(inputs))]
        arrays = dict(zip((*names, y_name), (*inputs, target), strict=True))
        extents = {array.shape[:1] for array in arrays.values()}
        if len(extents) > 1 or extents & {(), (0,)}:
            raise ShapeError(
                f"fit: {x_name} and {y_name} need one and the same number of samples",
                facts={name: type_of(array) for name, array in arrays.items()},
                hint="samples lie along the first axis; several inputs are a tuple",
            )
        return cls(inputs, target)

    @property
    def count(self) -> int:
        return len(self.y)

    def batches(
        self, size: int, order: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """``(*inputs, y)`` of ``size`` samples each; the last may be smaller."""
        for start in range(0, self.count, size):
            rows: Any = slice(start, start + size)
            rows = rows if order is None else order[rows]
            yield tuple(array[rows] for array in (*self.inputs, self.y))


def _means(
    step: TrainStep, batches: Iterator[tuple[np.ndarray, ...]]
) -> Iterator[float]:
    """Makes the steps; after each, the mean loss of the samples so far."""
    total, count = 0.0, 0
    for batch in batches:
        total += step(*batch) * len(batch[-1])
        count += len(batch[-1])
        yield total / count


def evaluate(
    compiled: Compiled, loss: Loss, samples: _Samples, batch_size: int
) -> Record:
    """``val_loss``, and ``val_accuracy`` where y holds class labels."""
    total, right, labelled = 0.0, 0, 0
    ignored = getattr(loss, "ignore_index", None)
    classes = False
    for *inputs, y in samples.batches(batch_size):
        scores = compiled(*inputs)
        total += float(np.asarray(loss(scores, y)).item()) * len(y)
        classes = _are_labels(y, scores)
        if classes:
            counted = np.full(y.shape, True) if ignored is None else y != ignored
            right += int(((scores.argmax(axis=1) == y) & counted).sum())
            labelled += int(counted.sum())
    record = {"val_loss": total / samples.count}
    if classes:
        record["val_accuracy"] = right / labelled if labelled else float("nan")
    return record


def _are_labels(y: np.ndarray, scores: Any) -> bool:
    """Whether ``y`` ``(N, …)`` holds classes of ``scores`` ``(N, C, …)``."""
    if y.dtype.kind not in "iu" or not isinstance(scores, np.ndarray):
        return False
    return scores.ndim == y.ndim + 1 and scores.shape[:1] + scores.shape[2:] == y.shape


def _check_scheduler(scheduler: Any, optimizer: Optimizer) -> None:
    if scheduler is None:
        return
    if not hasattr(scheduler, "step") or not hasattr(scheduler, "optimizer"):
        raise OptimizerError(
            f"fit: {type(scheduler).__name__} is not a schedule",
            hint="make one of jitseq.optim.lr_scheduler",
        )
    if scheduler.optimizer is not optimizer:
        raise OptimizerError("fit: the schedule belongs to another optimizer")


def _advance(scheduler: Any, record: Record) -> None:
    """One epoch on; a plateau is one of the validation loss, if there is any."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(record.get("val_loss", record["loss"]))
    else:
        scheduler.step()


def _set_training(model: Any, mode: bool) -> None:
    """Put a module in a mode; a plain function has none."""
    if isinstance(model, Module):
        model.train(mode)


@contextmanager
def _modes_kept(model: Any) -> Iterator[None]:
    """Give every module its training flag of before at the end of the block."""
    modules = list(model.modules()) if isinstance(model, Module) else []
    flags = [module.training for module in modules]
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            if module.training != flag:
                module.training = flag


class _Interrupts:
    """Turns Ctrl-C into a request that the loop looks at between steps.

    Only on the main thread, and only where Python's own handler is installed; a
    second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self._asked = False
        self.impatient = False
        self._previous: Any = None

    def __enter__(self) -> _Interrupts:
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            self.impatient = True
            signal.default_int_handler(number, frame)
        self._asked = True

    def raise_if_asked(self) -> None:
        """Raise `KeyboardInterrupt` if there was a request."""
        if self._asked:
            raise KeyboardInterrupt

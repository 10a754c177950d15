"""The functions that users call.

`jit` and `trace` compile, `vjp` and `value_and_grad` differentiate, `train_step` and
`fit` train. Targets enter; torch modules are recognised here and nowhere below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from jitseq.errors import JitseqError, UnsupportedError
from jitseq.optim.optimizer import Optimizer
from jitseq.runtime import compiled_gradient, gradient
from jitseq.runtime import fit as fitting
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.following import CompiledFollowing
from jitseq.runtime.history import History
from jitseq.runtime.training import TrainStep

if TYPE_CHECKING:
    from jitseq.display.summary import Summary

Target = Callable[..., Any]


@overload
def jit(
    target: Target,
    *,
    backend: str | None = None,
    threads: int | None = None,
    dynamic_batch: bool = True,
    disable_passes: Sequence[str] = (),
) -> Compiled: ...
@overload
def jit(
    target: None = None,
    *,
    backend: str | None = None,
    threads: int | None = None,
    dynamic_batch: bool = True,
    disable_passes: Sequence[str] = (),
) -> Callable[[Target], Compiled]: ...
def jit(
    target: Target | None = None,
    *,
    backend: str | None = None,
    threads: int | None = None,
    dynamic_batch: bool = True,
    disable_passes: Sequence[str] = (),
) -> Compiled | Callable[[Target], Compiled]:
    """Compile a module or a function of arrays; works as a call and as a decorator.

    Args:
        target: a `jitseq.nn.Module`, a `torch.nn.Module`, or a Python function that
            calls modules, `jitseq.nn.functional` and ``+ - * /`` on its arguments.
        backend: ``"cpu"`` (LLVM), ``"numba"``, ``"cuda"`` or ``"eager"``;
            ``JITSEQ_BACKEND`` sets the default.
        threads: threads a call may use; `jitseq.get_num_threads` when None.
        dynamic_batch: one program for all batch sizes, wherever the ops allow.
        disable_passes: names of optional passes to leave out.

    Compiles at the first call of each signature (dtypes, ranks, extents behind the
    batch). Raises JitseqError for a target that cannot be called.
    """

    def compile_target(target: Target) -> Compiled:
        kind: Callable[..., Compiled] = Compiled
        if isinstance(target, Compiled):
            kind, target = type(target), target.target
        elif _is_torch_module(target):
            from jitseq.interop.torch import Followed

            module: Any = target
            kind, target = CompiledFollowing, Followed(module)
        if not callable(target):
            raise JitseqError(
                f"jit: a {type(target).__name__} cannot be called",
                hint="pass a module or a function of arrays",
            )
        return kind(
            target,
            backend=backend,
            threads=threads,
            dynamic_batch=dynamic_batch,
            disable_passes=disable_passes,
        )

    return compile_target if target is None else compile_target(target)


def trace(target: Target, *samples: Any, **options: Any) -> Compiled:
    """`jit`, already compiled for the shapes and dtypes of ``samples``."""
    return jit(target, **options).prepare(*samples)


def summary(target: Target, *samples: Any) -> Summary:
    """One line for each layer: output, parameters, work, and the kernel it is part of.

    Args:
        target: what `jit` takes, or its result.
        samples: inputs, of which dtypes and shapes count; none where ``target`` is
            compiled and has been called.

    Returns a `Summary`: a table as text and in notebooks, its records in ``rows``.
    Raises what a call with ``samples`` raises for its arguments.
    """
    compiled = target if isinstance(target, Compiled) else jit(target)
    return compiled.summary(*samples)


def vjp(target: Target, *arrays: Any) -> tuple[Any, gradient.Pullback]:
    """The result for ``arrays`` and a pullback; see `jitseq.runtime.gradient.vjp`.

    Of a compiled target it is `Compiled.vjp`.
    """
    if isinstance(target, Compiled):
        return target.vjp(*arrays)
    return gradient.vjp(_differentiable(target), *arrays)


def value_and_grad(
    target: Target, loss: Callable[[Any, Any], Any], *, backend: str | None = None
) -> Callable[..., tuple[float, dict[str, np.ndarray]]]:
    """Loss and gradients; see `jitseq.runtime.gradient.value_and_grad`.

    ``backend`` is ``"eager"``, or that of one compiled program, as in `jit`; when None,
    that of a compiled target, and otherwise ``"eager"``.
    """
    if backend is not None:
        known = target.options if isinstance(target, Compiled) else {}
        target = jit(target, **{**known, "backend": backend})
    if isinstance(target, Compiled):
        return compiled_gradient.value_and_grad(target, loss)
    return gradient.value_and_grad(_differentiable(target), loss)


def train_step(
    model: Target,
    loss: Callable[[Any, Any], Any],
    optimizer: Optimizer,
    *,
    backend: str | None = None,
    threads: int | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    dynamic_batch: bool = True,
    disable_passes: Sequence[str] = (),
) -> TrainStep:
    """A function of ``(*inputs, y)`` that trains by one step and returns the loss.

    Args:
        model: a `jitseq.nn.Module` or a function of arrays, in the mode that is wanted.
        loss: ``loss(model(*inputs), y)`` is one number; y is the last argument.
        optimizer: one of `jitseq.optim`, made from the model's parameters.
        backend, threads, dynamic_batch, disable_passes: as in `jit`.
        accumulate: the update follows every so many calls, with the mean gradient.
        clip_norm: largest L2 norm of the gradients of all updated parameters together.

    Raises:
        UnsupportedError: the model or the loss belongs to PyTorch.
        OptimizerError: nothing is left to train, an option is out of range, or the
            optimizer holds a parameter of another model.
    """
    return TrainStep(
        _trainable(model, "train_step"),
        _own_loss(loss, "train_step"),
        optimizer,
        backend=backend,
        threads=threads,
        accumulate=accumulate,
        clip_norm=clip_norm,
        dynamic_batch=dynamic_batch,
        disable_passes=disable_passes,
    )


def fit(
    model: Target,
    x: Any,
    y: Any,
    *,
    loss: Callable[[Any, Any], Any],
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
    """Train on arrays for some epochs, in batches; returns what was measured.

    Args:
        model, loss, optimizer, backend, threads, clip_norm: as in `train_step`.
        x: an array with the samples along its first axis; a tuple for several inputs.
        y: labels or targets, as many.
        epochs, batch_size: 1 or more; the last batch of an epoch may be smaller.
        validation: ``(x, y)`` that are evaluated after each epoch, in eval mode.
        shuffle: new order in every epoch, from ``np.random.default_rng(seed)``. The
            same seed, initial values and number of threads give the same losses.
        progress: a bar for each epoch where tqdm is installed, else a line.
        scheduler: a schedule of the optimizer, stepped after every epoch;
            `ReduceLROnPlateau` sees the validation loss, or the training loss where
            there is no validation.
        accumulate: as in `train_step`; batches left at an epoch's end count for the
            first update of the next one.

    Returns:
        A `History` with ``loss`` (of each batch before its update, weighted by the
        number of samples), ``val_loss``, ``val_accuracy`` where y holds integer
        class labels, the ``lr`` of the first group, and ``seconds``. The accuracy on
        the training data is not measured: it would take a second pass over them.

    The model trains in training mode; afterwards every module has the mode that it had
    before. Ctrl-C ends training after the present batch: the model keeps what it has
    learnt, and the history of the complete epochs is returned with ``interrupted``
    set. A second Ctrl-C raises `KeyboardInterrupt`. Dropout draws from the generator
    of `manual_seed`, not from ``seed``.

    Raises:
        ShapeError, DtypeError, RangeError: model or loss do not accept the arrays, or
            x and y differ in the number of samples.
        UnsupportedError, OptimizerError: as `train_step`, and for a schedule that
            belongs to another optimizer.
        OptionError: epochs or batch_size is no positive integer.
    """
    return fitting.fit(
        _trainable(model, "fit"),
        x,
        y,
        loss=_own_loss(loss, "fit"),
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        validation=validation,
        shuffle=shuffle,
        seed=seed,
        progress=progress,
        scheduler=scheduler,
        backend=backend,
        threads=threads,
        accumulate=accumulate,
        clip_norm=clip_norm,
    )


def _trainable(model: Target, caller: str) -> Target:
    """The model behind a compiled one; raises `UnsupportedError` for torch's."""
    following = isinstance(model, CompiledFollowing)
    if following or _is_torch_module(model):
        raise UnsupportedError(
            f"{caller}: a torch module is not trained in place",
            hint="train the copy jitseq.interop.torch.from_torch(model)",
        )
    return model.target if isinstance(model, Compiled) else model


def _own_loss(loss: Callable[[Any, Any], Any], caller: str) -> Callable[..., Any]:
    if _is_torch_module(loss):
        raise UnsupportedError(
            f"{caller}: the loss is a torch module",
            hint=f"use jitseq.nn.{type(loss).__name__}",
        )
    return loss


def _differentiable(target: Target) -> Target:
    """The target itself; of a torch module, the copy of it with its present values."""
    if isinstance(target, Compiled):
        target = target.target
    if not _is_torch_module(target):
        return target
    from jitseq.interop.torch import Followed

    module: Any = target
    followed = Followed(module)
    followed.refresh()
    return followed


def _is_torch_module(target: Any) -> bool:
    """Whether ``target`` is a `torch.nn.Module`, without importing torch."""
    torch_nn = sys.modules.get("torch.nn")
    return torch_nn is not None and isinstance(target, torch_nn.Module)

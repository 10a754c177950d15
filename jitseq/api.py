"""The functions that users call: `jit`, `trace`, `vjp` and `value_and_grad`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from jitseq.errors import JitseqError
from jitseq.runtime import gradient
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.following import CompiledFollowing

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
        backend: ``"cpu"`` (LLVM) or ``"eager"``; ``JITSEQ_BACKEND`` sets the default.
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


def vjp(target: Target, *arrays: Any) -> tuple[Any, gradient.Pullback]:
    """The result for ``arrays`` and a pullback; see `jitseq.runtime.gradient.vjp`."""
    return gradient.vjp(_differentiable(target), *arrays)


def value_and_grad(
    target: Target, loss: Callable[[Any, Any], Any]
) -> Callable[..., tuple[float, dict[str, np.ndarray]]]:
    """Loss and gradients; see `jitseq.runtime.gradient.value_and_grad`."""
    return gradient.value_and_grad(_differentiable(target), loss)


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

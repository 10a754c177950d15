"""The functions that users call: `jit` and `trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from jitseq.errors import JitseqError
from jitseq.runtime.compiled import Compiled

Target = Callable[..., Any]


@overload
def jit(target: Target, **options: Any) -> Compiled: ...
@overload
def jit(target: None = None, **options: Any) -> Callable[[Target], Compiled]: ...
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
        if isinstance(target, Compiled):
            target = target.target
        if not callable(target):
            raise JitseqError(
                f"jit: a {type(target).__name__} cannot be called",
                hint="pass a module or a function of arrays",
            )
        return Compiled(
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

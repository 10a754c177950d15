"""One lock around everything that compiles, and a way to fork that LLVM survives.

Invariant: no thread of this process compiles or is inside LLVM when it forks, so a
child never inherits a lock that nobody will release. A fork waits for a compilation
that is going on; LLVM runs one at a time anyway.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

COMPILING = threading.RLock()

_held: list[Any] = []
"""llvmlite's own lock, while a fork is going on: code that is dropped takes it too."""


def _before_fork() -> None:
    COMPILING.acquire()
    library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    lock: Any = getattr(library, "_lock", None)  # it has no public name
    if lock is not None:
        lock.__enter__()
        _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)
    COMPILING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )

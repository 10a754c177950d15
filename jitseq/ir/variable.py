"""Mutable state that compiled programs read: parameters and buffers.

Invariant: the array changes only through methods of this class; each change bumps
the variable's ``version`` and the process-wide `EPOCH`. A compiled program compares
the epoch once a call, and looks at versions only after it moved. Where the newest value
lies elsewhere, every method that reads the array fetches it first.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np

from jitseq.errors import ShapeError

EPOCH = np.zeros(1, dtype=np.int64)
"""Counts every change of any variable, module flag or module structure."""

STRUCTURE = np.zeros(1, dtype=np.int64)
"""Counts changes of flags, attributes and structure only: those ask for a new trace."""


_values = itertools.count(1)
"""No value is given out twice, even to threads that change things at once."""

_assigning = threading.Lock()
"""Keeps a value that comes from elsewhere from replacing one that is newer."""


def advance_epoch() -> None:
    """A module changed: compiled programs check it at their next call.

    The epoch moves last, so that whoever sees it sees the structure too.
    """
    STRUCTURE[0] = next(_values)
    EPOCH[0] = next(_values)


def ask_again() -> None:
    """Nothing changed in a model, but programs must not take their fast path once."""
    EPOCH[0] = next(_values)


class Variable:
    """An owned, C-contiguous array with a version number.

    ``pull`` is set by whoever has changed the value elsewhere, on a device, and has
    bumped the version; it is to give the value to `take`.
    """

    pull: Callable[[], None] | None = None

    def __init__(self, value: Any, requires_grad: bool = False) -> None:
        self._array: np.ndarray = np.array(value, order="C", copy=True)
        self.version = 0
        self.requires_grad = requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def size(self) -> int:
        return self._array.size

    def current(self) -> np.ndarray:
        """The array itself, with the newest value."""
        pull = self.pull  # another thread may fetch the value meanwhile
        if pull is not None:
            pull()
        return self._array

    def take(self, value: np.ndarray) -> None:
        """The newest value, from where it was: nothing changes for programs.

        Ignored where another one has been assigned in the meantime.
        """
        with _assigning:
            if self.pull is not None:
                self._array[...] = value
                self.pull = None

    def __copy__(self) -> Self:
        copied = type(self).__new__(type(self))
        vars(copied).update(self.__getstate__())
        copied._array = self._array.copy()
        return copied

    def __getstate__(self) -> dict[str, Any]:
        self.current()
        return {name: value for name, value in vars(self).items() if name != "pull"}

    def numpy(self) -> np.ndarray:
        """A read-only view of the current value."""
        view = self.current().view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != self.dtype:
            return self.current().astype(dtype)
        return self.current().copy() if copy else self.numpy()

    @property
    def data(self) -> np.ndarray:
        """The value as a read-only view; assign to replace it (same shape)."""
        return self.numpy()

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    def assign(self, value: Any) -> None:
        """Copy ``value`` (same shape) into this variable, cast to its dtype."""
        value = np.asarray(value)
        if value.shape != self.shape:
            raise ShapeError(
                "a variable keeps its shape",
                facts={"got": value.shape, "expected": self.shape},
                hint="replace the parameter: module.weight = nn.Parameter(value)",
            )
        with _assigning:
            self._array[...] = value
            self.pull = None
        self.mark_changed()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.current()[key] = np.asarray(value)
        self.mark_changed()

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __len__(self) -> int:
        return len(self._array)

    def cast(self, dtype: Any) -> None:
        """Convert in place to another dtype."""
        self._array = np.array(self.current(), dtype, order="C")
        self.version += 1
        advance_epoch()

    def mark_changed(self) -> None:
        mark_all_changed((self,))

    def changed(self) -> None:
        """Called where the value is new, before programs are told."""


class Constant(Variable):
    """An array that a traced function closes over: nothing changes it."""

    @property
    def key(self) -> tuple[str, tuple[int, ...], bytes]:
        """Equal for equal constants."""
        return self.dtype.str, self.shape, self._array.tobytes()


def mark_all_changed(variables: Iterable[Variable]) -> None:
    """All of them hold new values."""
    for variable in variables:
        variable.version += 1
        variable.changed()
    EPOCH[0] = next(_values)


def _after_fork() -> None:
    global _assigning
    _assigning = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

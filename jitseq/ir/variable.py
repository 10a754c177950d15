"""Mutable state that compiled programs read: parameters and buffers.

Invariant: the array changes only through methods of this class; each change bumps
the variable's ``version`` and the process-wide `EPOCH`. A compiled program compares
the epoch once a call, and looks at versions only after it moved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from jitseq.errors import ShapeError

EPOCH = np.zeros(1, dtype=np.int64)
"""Counts every change of any variable, module flag or module structure."""

STRUCTURE = np.zeros(1, dtype=np.int64)
"""Counts changes of flags, attributes and structure only: those ask for a new trace."""


_values = itertools.count(1)
"""No value is given out twice, even to threads that change things at once."""


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
    """An owned, C-contiguous array with a version number."""

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

    def numpy(self) -> np.ndarray:
        """A read-only view of the current value."""
        view = self._array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != self.dtype:
            return self._array.astype(dtype)
        return self._array.copy() if copy else self.numpy()

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
        self._array[...] = value
        self.mark_changed()

    def __setitem__(self, key: Any, value: Any) -> None:
        self._array[key] = np.asarray(value)
        self.mark_changed()

    def __getitem__(self, key: Any) -> Any:
        return self.numpy()[key]

    def __len__(self) -> int:
        return len(self._array)

    def cast(self, dtype: Any) -> None:
        """Convert in place to another dtype."""
        self._array = np.array(self._array, dtype, order="C")
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

"""What native code may assume of CPython's and NumPy's objects, and the proof.

Enters nothing; leaves `ArrayFields`, the offsets inside an ndarray, and
`layout_holds`, which compares them with arrays whose properties are known. Invariant:
no native code reads an object through these offsets in a process where
`layout_holds` is False.

Source: ``PyArrayObject_fields`` in NumPy's ``ndarraytypes.h`` and the order of the
function table in its C API, both part of NumPy's stable binary interface.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from functools import cache

import numpy as np

C_CONTIGUOUS = 0x0001
ALIGNED = 0x0100

_ARRAY_TYPE_INDEX = 2
_ARRAY_NEW_INDEX = 93


class ArrayFields(ctypes.Structure):
    """The fields of an ndarray; the first two are every object's."""

    _fields_ = (
        ("references", ctypes.c_int64),
        ("type", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("ndim", ctypes.c_int),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("base", ctypes.c_void_p),
        ("descr", ctypes.c_void_p),
        ("flags", ctypes.c_int),
    )


@cache
def layout_holds() -> bool:
    """Whether this process is a CPython whose ndarrays look as `ArrayFields` says."""
    if not _known_build():
        return False
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    offset = np.zeros(17, np.uint8)[1:].view(np.float64)
    samples: tuple[np.ndarray, ...]
    samples = (grid, grid.T, offset, np.zeros((), np.int64), np.zeros((0, 4), bool))
    return all(_matches(sample) for sample in samples) and _table_holds()


def array_new_address() -> int:
    """The address of NumPy's ``PyArray_New``."""
    return _table()[_ARRAY_NEW_INDEX]


def _known_build() -> bool:
    return (
        sys.implementation.name == "cpython"
        and ctypes.sizeof(ctypes.c_void_p) == 8
        and object.__basicsize__ == 16  # 32 without the GIL, or with traced objects
    )


def _matches(array: np.ndarray) -> bool:
    """Whether every field that native code reads is where it is expected."""
    fields = ArrayFields.from_address(id(array))
    if (fields.type, fields.descr) != (id(np.ndarray), id(array.dtype)):
        return False
    flags = (bool(fields.flags & C_CONTIGUOUS), bool(fields.flags & ALIGNED))
    return (
        fields.data == array.__array_interface__["data"][0]
        and fields.ndim == array.ndim
        and tuple(fields.dims[: array.ndim]) == array.shape
        and tuple(fields.strides[: array.ndim]) == array.strides
        and flags == (array.flags.c_contiguous, array.flags.aligned)
    )


def _table_holds() -> bool:
    """Whether the table's entries are the array type and a constructor of arrays."""
    if _table()[_ARRAY_TYPE_INDEX] != id(np.ndarray):
        return False
    new = ctypes.PYFUNCTYPE(
        ctypes.py_object,
        *(ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_int),
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        ctypes.c_void_p,
    )(array_new_address())
    shape = (ctypes.c_int64 * 2)(3, 5)
    number = np.dtype(np.float32).num
    made = new(id(np.ndarray), 2, shape, number, None, None, 0, 0, None)
    return type(made) is np.ndarray and made.shape == (3, 5) and _matches(made)


@cache
def _table() -> list[int]:
    """The first addresses of NumPy's C API."""
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    api = importlib.import_module("numpy._core._multiarray_umath")._ARRAY_API
    address = get_pointer(api, None)
    return list((ctypes.c_int64 * (_ARRAY_NEW_INDEX + 1)).from_address(address))

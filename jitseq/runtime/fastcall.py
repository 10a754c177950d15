"""The microsecond call path: one native function that checks, allocates and calls.

Enters a `SignatureSpec`: the arrays that a compiled program takes and gives, and the
address of its entry ``void entry(void **ctx, char *arena, int64 n)``. Leaves a
`FastCall` whose ``function`` is a builtin. ``function(*arrays)`` returns the outputs
(one array, or a tuple), or None for "not mine: take the general path", when anything
differs from the signature, the epoch has moved, or the program is already running.
Invariant: on None nothing was computed; real errors (memory) are exceptions.

The machine code is the same for all programs: `fastcall_ir` is compiled once per
machine, kept in the disk cache, and reads what to do from the state behind ``self``.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from jitseq import config
from jitseq.ir.variable import EPOCH
from jitseq.runtime.cache import Entry, load, store
from jitseq.runtime.compile_lock import COMPILING
from jitseq.runtime.fastcall_ir import SYMBOL, WORDS, function_text
from jitseq.runtime.fastcall_layout import array_new_address, layout_holds

_METH_FASTCALL = 0x0080
_INDEX = {word: index for index, word in enumerate(WORDS)}
_NEVER = -1
"""As ``n_inputs``: the function declines every call from now on."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a signature; ``shape`` leaves out the batch extent, if any."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    has_batch: bool

    @property
    def ndim(self) -> int:
        return len(self.shape) + self.has_batch

    @property
    def extents(self) -> tuple[int, ...]:
        """All dimensions, with 0 for the batch."""
        return (0, *self.shape) if self.has_batch else self.shape


@dataclass(frozen=True)
class SignatureSpec:
    """A program as its caller sees it.

    All batched inputs have the same batch extent ``n``, 1 to ``max_batch``; without
    any, ``n`` is 1. The first slots of ctx are written at each call: the data
    pointers of the inputs, then of the outputs; ``ctx_slots`` is at least 1. With
    ``release_gil`` the entry runs without the GIL, which costs 40 ns, and threads
    that call meanwhile are declined.
    """

    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    max_batch: int
    entry_address: int
    ctx_slots: int
    release_gil: bool


class FastCall:
    """A builtin ``function`` for one signature, and the memory that it reads.

    ``ctx`` (int64, ``ctx_slots`` addresses) and the arena belong to ``function``
    alone: another path that runs the same program needs its own. Neither may be
    changed while `busy`. Keep the FastCall: when it is dropped, a ``function`` that
    somebody kept declines every call. Whatever the program reads and writes must be
    handed to `keep`: another thread may be inside the function at that moment.
    """

    def __init__(self, spec: SignatureSpec, native: _Native) -> None:
        used = len(spec.inputs) + len(spec.outputs)
        batched = any(array.has_batch for array in spec.inputs)
        assert spec.ctx_slots >= max(used, 1), "ctx has no room for inputs and outputs"
        assert batched or not any(array.has_batch for array in spec.outputs)
        self._descrs = [np.dtype(array.dtype) for array in spec.inputs]
        self._state = _state_of(spec)
        self.ctx: np.ndarray = np.asarray(self._state)[-spec.ctx_slots :]
        self.function: Callable[..., Any] = native.builtin(self._state)
        weakref.finalize(self, _retire, self._state).atexit = False

    @staticmethod
    def create(spec: SignatureSpec) -> FastCall | None:
        """A fast path for ``spec``; None where this Python or machine has none.

        The epoch is the current one and the arena NULL until they are set.
        """
        native = _native()
        return None if native is None else FastCall(spec, native)

    def set_epoch(self, value: int) -> None:
        """Decline when `jitseq.ir.variable.EPOCH` is not ``value``."""
        self._state[_INDEX["expected_epoch"]] = value

    def set_arena(self, address: int) -> None:
        """The scratch memory handed to the entry."""
        self._state[_INDEX["arena"]] = address

    def keep(self, *owners: object) -> None:
        """Keep these (code, arena, weights) alive as long as ``function``."""
        self._state.kept = owners

    @property
    def busy(self) -> bool:
        """Whether a call is running at this moment."""
        return bool(self._state[_INDEX["busy"]])


def _retire(state: np.ndarray) -> None:
    """Disable a function that outlives its FastCall."""
    state[_INDEX["n_inputs"]] = _NEVER


class _State(np.ndarray):
    """The words of one function, whose ``self`` it is, and what they point to."""

    kept: tuple[object, ...] = ()


def _state_of(spec: SignatureSpec) -> _State:
    """The int64 words that `fastcall_ir` describes, and ctx behind them."""
    words = _host_words() | {
        "epoch_address": EPOCH.ctypes.data,
        "expected_epoch": int(EPOCH[0]),
        "max_batch": spec.max_batch,
        "busy": 0,
        "arena": 0,
        "ctx": 0,
        "entry": spec.entry_address,
        "release_gil": int(spec.release_gil),
        "n_inputs": len(spec.inputs),
        "n_outputs": len(spec.outputs),
    }
    state = [words[word] for word in WORDS]
    for array in spec.inputs:
        state += (id(np.dtype(array.dtype)), array.ndim, array.has_batch)
        state += array.extents
    for array in spec.outputs:
        state += (np.dtype(array.dtype).num, array.ndim, array.has_batch, 0)
        state += array.extents
    block = np.zeros(len(state) + spec.ctx_slots, np.int64)
    block[: len(state)] = state
    block[_INDEX["ctx"]] = block.ctypes.data + len(state) * block.itemsize
    return block.view(_State)


@cache
def _host_words() -> dict[str, int]:
    """Addresses in this process, by the word of the state that holds them."""
    functions = {
        "incref": "Py_IncRef", "decref": "Py_DecRef", "tuple_new": "PyTuple_New",
        "tuple_set": "PyTuple_SetItem", "save_thread": "PyEval_SaveThread",
        "restore_thread": "PyEval_RestoreThread",
    }  # fmt: skip
    words = {word: _address(name) for word, name in functions.items()}
    words |= {"array_type": id(np.ndarray), "none": id(None)}
    words["array_new"] = array_new_address()
    return words


def _address(name: str) -> int:
    function = getattr(ctypes.pythonapi, name)
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Native:
    """The loaded machine code, from which builtins are made; never freed."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._method = _MethodDef(
            b"compiled", library.address(SYMBOL), _METH_FASTCALL, None
        )
        self._new = ctypes.PYFUNCTYPE(
            ctypes.py_object,
            ctypes.POINTER(_MethodDef),
            ctypes.py_object,
            ctypes.c_void_p,
        )(("PyCFunction_NewEx", ctypes.pythonapi))

    def builtin(self, state: np.ndarray) -> Callable[..., Any]:
        """A builtin whose ``self`` is ``state``, which it keeps alive."""
        function: Callable[..., Any] = self._new(self._method, state, None)
        return function


_loaded: list[_Native | None] = []
"""Every result of `_load`, kept for ever; the first one counts."""


def _native() -> _Native | None:
    """The machine code; loaded (and compiled, if the cache lacks it) once."""
    if not _loaded:
        with COMPILING:
            _loaded.append(_load())
    return _loaded[0]


def _load() -> _Native | None:
    if not layout_holds():
        _log("objects of this Python or NumPy are laid out differently")
        return None
    try:
        return _Native(_library())
    except (ImportError, OSError, RuntimeError) as error:
        _log(str(error))
        return None


def _log(reason: str) -> None:
    if config.logs("codegen"):
        print(f"[jitseq codegen] no fast call path: {reason}", file=sys.stderr)


def _library() -> Any:
    """The function's object code in memory, compiled or from the disk cache."""
    from jitseq.codegen.llvm.compiler import Library, compile_object
    from jitseq.codegen.llvm.host import host_target

    text = function_text()
    target = host_target()
    build = (target.cpu, target.features, *_build())
    key = hashlib.sha256("\0".join((text, *build)).encode()).hexdigest()
    entry = load(key)
    if entry is None:
        entry = Entry(
            {"kind": "fastcall", "build": build}, compile_object(text, target)
        )
        store(key, entry)
    return Library(entry.code, (SYMBOL,))


def _build() -> Iterable[str]:
    """What the layout of objects and the code generator depend on."""
    from llvmlite import __version__ as llvmlite_version

    yield sys.version
    yield str(sys.implementation.cache_tag)
    yield getattr(sys, "abiflags", "")
    yield np.__version__
    yield llvmlite_version

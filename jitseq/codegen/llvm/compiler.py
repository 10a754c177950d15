"""LLVM IR text → object code → callable addresses.

Enters the text of `render`; leaves object code that depends on nothing outside of
itself but libc, and a `Library` that holds it in memory. Dropping the library's last
reference frees its code.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from jitseq.ir.target import Target

_scheduler_lock = threading.Lock()


@cache
def _initialised() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return llvm


@cache
def _machine(target: Target) -> Any:
    llvm = _initialised()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
    )


@cache
def _jit() -> Any:
    """The process' linker: JITLink, which keeps a program's sections together.

    The older RuntimeDyld may place code and constants more than 2 GB apart in a
    process with much memory in use, and aborts it then.
    """
    llvm = _initialised()
    return llvm.create_lljit_compiler(use_jit_link=True)


@contextmanager
def _program_order() -> Iterator[Any]:
    """Instructions stay in the order in which the kernels list them.

    LLVM's machine scheduler gathers the loads of a large tile at its start, which
    spills: a 5×5 convolution falls from 98 % to 60 % of FMA peak. Its switches are
    global to the process, so they are set back, under a lock.
    """
    llvm = _initialised()
    with _scheduler_lock:
        for option in ("-enable-misched=false", "-pre-RA-sched=source"):
            llvm.set_option("", option)
        try:
            yield
        finally:
            for option in ("-enable-misched=true", "-pre-RA-sched=default"):
                llvm.set_option("", option)


PASSES = ("always_inliner", "instruction_combine")
"""Kernels arrive tiled, vectorised and unrolled: vector functions are inlined and
instructions combined. LLVM's whole -O2 pipeline takes ten times as long for code that
runs no faster (0.07 s and 0.006 s for a small CNN)."""


def optimise(text: str, target: Target, names: tuple[str, ...] = PASSES) -> Any:
    """The parsed module after LLVM's passes, by their names."""
    llvm = _initialised()
    machine = _machine(target)
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    passes = llvm.create_new_module_pass_manager()
    for name in names:
        getattr(passes, f"add_{name}_pass")()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    passes.run(module, llvm.create_pass_builder(machine, options))
    return module


def compile_object(text: str, target: Target) -> bytes:
    """Object code of a module's text."""
    module = optimise(text, target)
    with _program_order():
        code: bytes = _machine(target).emit_object(module)
    return code


def assembly(text: str, target: Target) -> str:
    """Readable assembly of a module's text."""
    module = optimise(text, target)
    with _program_order():
        code: str = _machine(target).emit_assembly(module)
    return code


class Library:
    """Object code loaded into this process; ``address`` finds its functions."""

    _count = itertools.count()

    def __init__(self, code: bytes, symbols: tuple[str, ...]) -> None:
        llvm = _initialised()
        library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        self._tracker = library.link(_jit(), f"jitseq-{next(self._count)}")

    def address(self, symbol: str) -> int:
        found: int = self._tracker[symbol]
        return found

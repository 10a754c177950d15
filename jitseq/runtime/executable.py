"""Compiled code and everything needed to run it: from memory, disk, or the compiler.

Enters a fused graph, a target and options; leaves an `Executable`. The key hashes the
graph's text, the target, the options and the versions, and every later pass is a pure
function of those, so a hit on disk skips scheduling and code generation altogether.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jitseq.codegen.llvm.compiler import Library, compile_object
from jitseq.config import logs
from jitseq.ir.compute import Pointwise, Update
from jitseq.ir.elementwise.formula import Formula
from jitseq.ir.graph import Value
from jitseq.ir.op import get_op
from jitseq.ir.program import Program
from jitseq.ir.target import GridTarget, Target
from jitseq.ir.text import graph_text, value_names
from jitseq.passes.fusion_group import FusedGraph
from jitseq.runtime.cache import Entry, restored, store
from jitseq.runtime.compile_lock import COMPILING

RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
WORK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
)
LINGER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
POST = ctypes.CFUNCTYPE(ctypes.c_int64, *(ctypes.c_void_p,) * 5, ctypes.c_int64)
ENTRIES = ("jitseq_run", "jitseq_work", "jitseq_post", "jitseq_linger")


@dataclass(frozen=True)
class KernelInfo:
    """What a report says of one kernel call.

    ``flops`` and ``bytes`` (activations read and written) are for one image;
    ``param_bytes`` are read once a block. A kernel that is not ``per_image`` runs
    once a call.
    """

    name: str
    ops: tuple[str, ...]
    path: str
    flops: int
    bytes: int
    param_bytes: int
    segment: int
    block: int
    per_image: bool


@dataclass(frozen=True)
class Manifest:
    """What is stored beside the object code."""

    context_slots: int
    arena_bytes: int
    batch_bytes: tuple[int, ...]
    fixed_bytes: int
    sums_bytes: int
    blocks: tuple[int, ...]
    least_blocks: tuple[int, ...]
    batched: tuple[bool, ...]
    variables: tuple[str, ...]
    packs: tuple[tuple[str, Mapping[str, Any]], ...]
    kernels: tuple[KernelInfo, ...]

    @cached_property
    def flops(self) -> int:
        """Of all kernels that run for each image."""
        return sum(kernel.flops for kernel in self.kernels if kernel.per_image)

    @staticmethod
    def parse(stored: Mapping[str, Any]) -> Manifest:
        """From JSON, whose tuples are lists."""
        kernels = tuple(
            KernelInfo(**{**item, "ops": tuple(item["ops"])})
            for item in stored["kernels"]
        )
        packs = tuple((name, spec) for name, spec in stored["packs"])
        return Manifest(
            stored["context_slots"],
            stored["arena_bytes"],
            tuple(stored["batch_bytes"]),
            stored["fixed_bytes"],
            stored["sums_bytes"],
            tuple(stored["blocks"]),
            tuple(stored["least_blocks"]),
            tuple(stored["batched"]),
            tuple(stored["variables"]),
            packs,
            kernels,
        )


class Executable:
    """Loaded code. Dropping the last reference frees it."""

    def __init__(
        self, key: str, manifest: Manifest, code: bytes, origin: str, seconds: float
    ) -> None:
        self.key = key
        self.manifest = manifest
        self.origin = origin
        """"disk" or "compiled"."""
        started = time.perf_counter()
        self._library = Library(code, ENTRIES)
        self.run_address = self._library.address("jitseq_run")
        self.work_address = self._library.address("jitseq_work")
        self.run = RUN(self.run_address)
        self.work = WORK(self.work_address)
        self.post = POST(self._library.address("jitseq_post"))
        self.linger = LINGER(self._library.address("jitseq_linger"))
        self.compile_seconds = seconds + time.perf_counter() - started


class Found(NamedTuple):
    """Code, and where this look-up found it: "memory", "disk" or "compiled"."""

    code: Executable
    place: str


_loaded: weakref.WeakValueDictionary[str, Executable] = weakref.WeakValueDictionary()


def executable(
    fused: FusedGraph,
    target: Target,
    disabled: frozenset[str] = frozenset(),
    profile: bool = False,
    backend: str = "cpu",
) -> Found:
    """The code for a graph; compiled unless memory or disk has it."""
    started = time.perf_counter()
    key = program_key(fused, target, disabled, profile, backend)
    with COMPILING:
        known = _loaded.get(key)
        if known is not None:
            return Found(known, "memory")
        made = restored(key, lambda entry: _loaded_entry(key, entry, "disk", started))
        if made is None:
            entry = _compile(fused, target, disabled, profile, backend)
            store(key, entry)
            made = _loaded_entry(key, entry, "compiled", started)
        _loaded[key] = made
    if logs("codegen"):
        print(
            f"[jitseq codegen] {made.origin} {key}: {len(made.manifest.kernels)} "
            f"kernels in {made.compile_seconds:.3f} s",
            file=sys.stderr,
        )
    return Found(made, made.origin)


def _loaded_entry(key: str, entry: Entry, origin: str, started: float) -> Executable:
    manifest = Manifest.parse(entry.manifest)
    seconds = time.perf_counter() - started
    return Executable(key, manifest, entry.code, origin, seconds)


def program_key(
    fused: FusedGraph,
    target: Target | GridTarget,
    disabled: frozenset[str],
    profile: bool,
    backend: str = "cpu",
) -> str:
    """A hash of all that the object code depends on."""
    parts = [
        graph_text(fused.graph),
        *(" ".join(group.ops) for group in fused.groups),
        target.key,
        " ".join(sorted(disabled)),
        str(profile),
        *_compilers(backend),
        fingerprint(),
        *_other_ops(fused),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _compilers(backend: str) -> tuple[str, ...]:
    """The backend, with the version of what only it compiles with."""
    if backend == "cpu":
        return (backend,)
    from importlib.metadata import version  # numba itself takes half a second to import

    return backend, version("numba")


def _other_ops(fused: FusedGraph) -> list[str]:
    """The meaning of ops that were registered from outside of this package."""
    found = []
    for name in sorted({node.op for node in fused.graph.nodes}):
        compute = get_op(name).compute
        written = isinstance(compute, Pointwise | Update)
        function = compute.expr if written else compute
        if isinstance(function, Formula):
            found.append(f"{name} {function.meaning}")
            continue
        if function is None or (function.__module__ or "").startswith("jitseq."):
            continue
        code = function.__code__
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        body = (code.co_code.hex(), code.co_consts, code.co_names, cells)
        found.append(f"{name} {body!r}")
    return found


@cache
def fingerprint() -> str:
    """Versions of jitseq (its files' sizes and times), NumPy and llvmlite."""
    import llvmlite

    package = sys.modules["jitseq"]
    root = Path(__file__).parent.parent
    parts = [package.__version__, np.__version__, llvmlite.__version__]
    for folder in ("ir", "optim", "passes", "codegen", "runtime"):
        for file in sorted((root / folder).rglob("*.py")):
            status = file.stat()
            parts.append(f"{file.name}:{status.st_size}:{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def module_text(
    program: Program, target: Target, backend: str, profile: bool = False
) -> str:
    """The LLVM module of a program, as the backend writes it."""
    if backend == "numba":
        from jitseq.codegen.numba_cpu.compile import llvm_text

        return llvm_text(program, target, profile)
    from jitseq.codegen.llvm.render import render

    return render(program, target, profile)


def _compile(
    fused: FusedGraph,
    target: Target,
    disabled: frozenset[str],
    profile: bool,
    backend: str,
) -> Entry:
    from jitseq.passes.pipeline import schedule

    scheduled = schedule(fused, target, disabled)
    planned = scheduled.planned
    names = value_names(fused.graph)
    kernels = []
    for segment, stretch in enumerate(scheduled.stretches):
        for index in range(stretch.start, stretch.stop):
            lowered = scheduled.kernels[index]
            function = planned.program.kernels[planned.function_of_kernel[index]]
            kernels.append(
                KernelInfo(
                    name=function.name,
                    ops=lowered.ops,
                    path=lowered.path,
                    flops=lowered.flops,
                    bytes=lowered.moved_bytes,
                    param_bytes=lowered.param_bytes,
                    segment=segment,
                    block=stretch.block,
                    per_image=stretch.batched,
                )
            )
    packs = tuple(
        (names[source.value], asdict(source.pack))  # type: ignore[arg-type]
        for source in planned.packs
    )
    program = planned.program
    manifest = Manifest(
        program.context_slots,
        program.arena_bytes,
        program.batch_bytes,
        program.fixed_bytes,
        program.sums_bytes,
        tuple(segment.block for segment in program.segments),
        tuple(stretch.least for stretch in scheduled.stretches),
        tuple(segment.batched for segment in program.segments),
        tuple(value.name for value in planned.variables),
        packs,
        tuple(kernels),
    )
    code = compile_object(module_text(program, target, backend, profile), target)
    return Entry(asdict(manifest), code)


def pack_values(fused: FusedGraph, manifest: Manifest) -> list[Value]:
    """The static values behind the manifest's packs, in order."""
    by_name = {name: value for value, name in value_names(fused.graph).items()}
    return [by_name[name] for name, _ in manifest.packs]

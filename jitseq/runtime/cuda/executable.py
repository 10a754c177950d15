"""Compiled grids and all that launching them needs: from memory, disk, or the compiler.

Enter a fused graph and a device; leaves a `GridExecutable`. Invariant: the key hashes
the graph's text, the schedule's target, the device's capability and the versions of
all that compiles, so a hit on disk skips scheduling and numba's front end altogether.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from jitseq.codegen.numba_cuda.compile import ObjectKernel, compile_grids
from jitseq.codegen.numba_cuda.shim import package, selected_grid_target
from jitseq.config import logs
from jitseq.ir.packing import Pack
from jitseq.ir.program import Argument, Call, Launch
from jitseq.ir.text import value_names
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.grid.schedule import schedule
from jitseq.runtime.cache import Entry, restored, store
from jitseq.runtime.compile_lock import COMPILING
from jitseq.runtime.cuda.device import Device
from jitseq.runtime.executable import KernelInfo, program_key


@dataclass(frozen=True)
class GridManifest:
    """What is stored beside the code.

    ``image_bytes`` and ``fixed_bytes`` are the memory that calls share, for each image
    and in all. ``variables`` and ``packs`` are values of the graph by name, ``calls``
    in order, ``elements`` of each kernel's buffers, ``objects`` (name, entry, bytes)
    of each kernel's code, ``kernels`` what a report says of each call.
    """

    context_slots: int
    image_bytes: int
    fixed_bytes: int
    variables: tuple[str, ...]
    packs: tuple[str, ...]
    calls: tuple[Call, ...]
    elements: tuple[tuple[str, ...], ...]
    objects: tuple[tuple[str, str, int], ...]
    kernels: tuple[KernelInfo, ...]

    @staticmethod
    def parse(stored: Mapping[str, Any]) -> GridManifest:
        """From JSON, whose tuples are lists."""
        return GridManifest(
            stored["context_slots"],
            stored["image_bytes"],
            stored["fixed_bytes"],
            tuple(stored["variables"]),
            tuple(stored["packs"]),
            tuple(map(_call, stored["calls"])),
            tuple(map(tuple, stored["elements"])),
            tuple((name, entry, size) for name, entry, size in stored["objects"]),
            tuple(
                KernelInfo(**{**item, "ops": tuple(item["ops"])})
                for item in stored["kernels"]
            ),
        )


def _call(stored: Mapping[str, Any]) -> Call:
    arguments = tuple(Argument(**item) for item in stored["arguments"])
    launch = Launch(**stored["launch"])
    return Call(**{**stored, "arguments": arguments, "launch": launch})


class GridExecutable:
    """Loaded kernels."""

    def __init__(
        self, device: Device, manifest: GridManifest, code: bytes, origin: str
    ) -> None:
        self.device = device
        self.manifest = manifest
        self.origin = origin
        """"disk" or "compiled"."""
        self.compile_seconds = 0.0
        objects, start = [], 0
        for name, entry, size in manifest.objects:
            objects.append(ObjectKernel(name, entry, code[start : start + size]))
            start += size
        self.kernels = device.load(objects)


class Found(NamedTuple):
    """Code, and where this look-up found it: "memory", "disk" or "compiled"."""

    code: GridExecutable
    place: str


_loaded: weakref.WeakValueDictionary[tuple[int, str], GridExecutable] = (
    weakref.WeakValueDictionary()
)


def grid_executable(
    fused: FusedGraph, device: Device, disabled: frozenset[str] = frozenset()
) -> Found:
    """The code for a graph; compiled unless memory or disk has it."""
    started = time.perf_counter()
    compiler = f"cuda {device.key} {package()}"
    key = program_key(fused, selected_grid_target(), disabled, False, compiler)
    with COMPILING:
        known = _loaded.get((id(device), key))
        if known is not None:
            return Found(known, "memory")
        made = restored(key, lambda entry: _loaded_entry(device, entry, "disk"))
        if made is None:
            entry = _compile(fused, device, disabled)
            store(key, entry)
            made = _loaded_entry(device, entry, "compiled")
        made.compile_seconds = time.perf_counter() - started
        _loaded[(id(device), key)] = made
    if logs("codegen"):
        print(
            f"[jitseq codegen] {made.origin} {key}: {len(made.manifest.calls)} grids "
            f"in {made.compile_seconds:.3f} s",
            file=sys.stderr,
        )
    return Found(made, made.origin)


def _loaded_entry(device: Device, entry: Entry, origin: str) -> GridExecutable:
    manifest = GridManifest.parse(entry.manifest)
    return GridExecutable(device, manifest, entry.code, origin)


def _compile(fused: FusedGraph, device: Device, disabled: frozenset[str]) -> Entry:
    found = schedule(fused, selected_grid_target(), disabled)
    program, names = found.planned.program, value_names(fused.graph)
    objects = compile_grids(program, device.capability)
    calls = tuple(call for segment in program.segments for call in segment.calls)
    assert all(source.pack == Pack("raw") for source in found.planned.packs)
    kernels = tuple(
        KernelInfo(
            name=program.kernels[call.kernel].name,
            ops=lowered.ops,
            path=lowered.path,
            flops=lowered.flops,
            bytes=lowered.moved_bytes,
            param_bytes=lowered.param_bytes,
            segment=0,
            block=lowered.launch.threads,
            per_image=lowered.per_image,
        )
        for call, lowered in zip(calls, found.kernels, strict=True)
    )
    manifest = GridManifest(
        program.context_slots,
        program.batch_bytes[0],
        program.fixed_bytes,
        tuple(value.name for value in found.planned.variables),
        tuple(names[source.value] for source in found.planned.packs),
        calls,
        tuple(tuple(b.element for b in k.buffers) for k in program.kernels),
        tuple((item.name, item.entry, len(item.code)) for item in objects),
        kernels,
    )
    return Entry(asdict(manifest), b"".join(item.code for item in objects))

"""A program bound to variables: packed weights, scratch memory, and the native call.

Invariant: packed weights are replaced as a whole, never changed while a call may read
them; every concurrent call has scratch memory and a pointer table of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np

from jitseq.ir.types import TensorType
from jitseq.ir.variable import EPOCH, Variable
from jitseq.passes.fusion_group import FusedGraph
from jitseq.runtime.executable import Executable, pack_values
from jitseq.runtime.fastcall import ArraySpec, FastCall, SignatureSpec
from jitseq.runtime.packing import aligned_empty, evaluate_static, pack_all
from jitseq.runtime.threads import run_on_threads

THREADING_FLOPS = 20_000_000
"""Work below which a second thread costs more than it brings (about 0.1 ms)."""

RELEASE_GIL_FLOPS = 1_000_000
"""Work from which other Python threads should run meanwhile (a few µs)."""

BLOCKS_A_THREAD = 4
"""Shares of the batch that each thread draws: a late thread takes fewer of them."""


class Bound:
    """One program on one set of variables."""

    def __init__(
        self,
        fused: FusedGraph,
        code: Executable,
        variables: Mapping[str, Variable],
        output_types: Sequence[TensorType],
    ) -> None:
        self.fused = fused
        self.code = code
        self.variables = dict(variables)
        self.input_types = [value.type for value in fused.graph.inputs]
        self.output_types = list(output_types)
        self._arenas: list[np.ndarray] = []
        self._versions: tuple[int, ...] = ()
        self._packed: list[np.ndarray] = []
        self._fast: FastCall | None = None
        self._fast_arena: np.ndarray | None = None
        self.refresh()

    # variables

    def refresh(self) -> bool:
        """Pack again what changed; whether anything did."""
        epoch = int(EPOCH[0])
        versions = tuple(v.version for v in self.variables.values())
        changed = versions != self._versions or not self._versions
        if changed:
            packed = self._pack_all()
            self._packed, self._versions = packed, versions
            self._fast = None
        if self._fast is not None:
            self._fast.set_epoch(epoch)
        return changed

    def _pack_all(self) -> list[np.ndarray]:
        arrays = {name: v.numpy() for name, v in self.variables.items()}
        with np.errstate(all="ignore"):
            known = evaluate_static(self.fused.graph, arrays, self.fused.static)
        manifest = self.code.manifest
        values = pack_values(self.fused, manifest)
        specs = [spec for _, spec in manifest.packs]
        return pack_all([(known[v], spec) for v, spec in zip(values, specs, strict=True)])

    # scratch memory

    def _take_arena(self) -> np.ndarray:
        try:
            return self._arenas.pop()
        except IndexError:
            return aligned_empty(max(self.code.manifest.arena_bytes, 1), np.uint8)

    # calls

    def fast_call(self, threads: int) -> FastCall | None:
        """The native path for this signature; None where it would not be right."""
        if self._fast is None and not self.code.manifest.batch_bytes:
            self._fast = self._make_fast(threads)
        return self._fast

    def _make_fast(self, threads: int) -> FastCall | None:
        manifest = self.code.manifest
        batched = any(type.has_batch for type in self.input_types)
        if not self.input_types or not all(map(_fits_fast_path, self.output_types)):
            return None
        largest = 1 << 40
        if threads > 1:
            largest = max(1, THREADING_FLOPS // max(manifest.flops, 1))
        if not batched and any(type.has_batch for type in self.output_types):
            return None
        fast = FastCall.create(
            SignatureSpec(
                tuple(map(_array_spec, self.input_types)),
                tuple(map(_array_spec, self.output_types)),
                largest,
                self.code.run_address,
                manifest.context_slots,
                manifest.flops > RELEASE_GIL_FLOPS,
            )
        )
        if fast is None:
            return None
        first = len(self.input_types) + len(self.output_types)
        for i, packed in enumerate(self._packed):
            fast.ctx[first + i] = packed.ctypes.data
        self._fast_arena = self._take_arena()
        fast.set_arena(self._fast_arena.ctypes.data)
        return fast

    def call(self, inputs: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """Run on contiguous, aligned arrays of this program's types."""
        n = self.batch(inputs)
        outputs = [np.empty(_shape(type, n), type.dtype) for type in self.output_types]
        if n == 0:
            return outputs
        packed = self._packed
        manifest = self.code.manifest
        scratch = [aligned_empty(max(size * n, 1) + 64, np.uint8) for size in manifest.batch_bytes]
        context = np.zeros(max(manifest.context_slots, 1) + 1, np.int64)
        places = [*inputs, *outputs, *packed, *scratch]
        context[: len(places)] = [array.ctypes.data for array in places]
        shares = min(threads, n)
        if shares > 1 and manifest.flops * n >= THREADING_FLOPS:
            self._call_on_threads(context, n, shares)
        else:
            arena = self._take_arena()
            self.code.run(context.ctypes.data, arena.ctypes.data, n)
            self._arenas.append(arena)
        return outputs

    def batch(self, inputs: Sequence[np.ndarray]) -> int:
        for array, type in zip(inputs, self.input_types, strict=True):
            if type.has_batch:
                return len(array)
        return 1

    def _call_on_threads(self, context: np.ndarray, n: int, threads: int) -> None:
        """One segment after the other; threads draw shares of the batch."""
        for drain, block in zip(self.code.drain, self.code.manifest.blocks, strict=True):
            counter = ctypes.c_int64(0)
            share = -(-n // (threads * BLOCKS_A_THREAD))
            grain = share if share < block else -(-share // block) * block
            self._drain_segment(drain, context, counter, n, grain, threads)

    def _drain_segment(
        self,
        drain: object,
        context: np.ndarray,
        counter: ctypes.c_int64,
        n: int,
        grain: int,
        threads: int,
    ) -> None:
        def task() -> None:
            arena = self._take_arena()
            drain(  # type: ignore[operator]
                context.ctypes.data, arena.ctypes.data, ctypes.addressof(counter), n, grain
            )
            self._arenas.append(arena)

        run_on_threads(task, threads)

    def run_profiled(
        self, inputs: Sequence[np.ndarray], code: Executable, repeats: int
    ) -> np.ndarray:
        """Cycles spent in each kernel call by a build of this program with timers."""
        n = self.batch(inputs)
        outputs = [np.empty(_shape(type, n), type.dtype) for type in self.output_types]
        manifest = code.manifest
        scratch = [aligned_empty(max(size * n, 1) + 64, np.uint8) for size in manifest.batch_bytes]
        cycles = np.zeros(len(manifest.kernels), np.int64)
        places = [*inputs, *outputs, *self._packed, *scratch, cycles]
        context = np.array([array.ctypes.data for array in places], np.int64)
        arena = self._take_arena()
        code.run(context.ctypes.data, arena.ctypes.data, n)
        cycles[:] = 0
        for _ in range(repeats):
            code.run(context.ctypes.data, arena.ctypes.data, n)
        self._arenas.append(arena)
        return cycles


def _shape(type: TensorType, n: int) -> tuple[int, ...]:
    return (n, *type.inner_shape) if type.has_batch else type.inner_shape


def _array_spec(type: TensorType) -> ArraySpec:
    return ArraySpec(np.dtype(type.dtype), type.inner_shape, type.has_batch)


def _fits_fast_path(type: TensorType) -> bool:
    return type.dtype in ("float32", "float64")

"""A program bound to variables: packed weights, scratch memory, and the native call.

Invariant: packed weights are replaced as a whole, never changed while a call may read
them; every concurrent call has scratch memory and a pointer table of its own, and
whatever native code may be reading is kept alive by the call or the fast path.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jitseq.ir.types import TensorType
from jitseq.ir.variable import Variable
from jitseq.passes.fusion_group import FusedGraph
from jitseq.runtime.executable import Executable, pack_values
from jitseq.runtime.fastcall import ArraySpec, FastCall, SignatureSpec
from jitseq.runtime.packing import aligned_empty, evaluate_static, pack_all
from jitseq.runtime.threads import run_on_threads

THREADING_FLOPS = 20_000_000
"""Work below which a second thread costs more than it brings (about 0.1 ms)."""

RELEASE_GIL_FLOPS = 1_000_000
"""Work from which other Python threads should run meanwhile (a few µs)."""

KEPT_ARENAS = os.cpu_count() or 1
"""Scratch memories a program keeps between calls, if a call uses no more threads."""

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
        epoch: int,
    ) -> None:
        self.fused = fused
        self.code = code
        self.variables = dict(variables)
        self.input_types = [value.type for value in fused.graph.inputs]
        self.output_types = list(output_types)
        self._arenas: list[np.ndarray] = []
        self._versions: tuple[int, ...] | None = None
        self._packed: _Packed = _Packed([])
        self._fast: FastCall | None = None
        self._fast_threads = 0
        self.epoch = epoch
        """The process-wide epoch at which this was last known to be current."""
        self.refresh(epoch)

    # variables

    def refresh(self, epoch: int) -> None:
        """Pack again what has changed, if anything.

        ``epoch`` was read before the caller looked at the structure of the target.
        """
        versions = tuple(v.version for v in self.variables.values())
        if versions != self._versions:
            self._packed, self._versions = _Packed(self._pack_all()), versions
            self._fast = None
        if self._fast is not None:
            self._fast.set_epoch(epoch)
        self.epoch = epoch

    def _pack_all(self) -> list[np.ndarray]:
        arrays = {name: v.numpy() for name, v in self.variables.items()}
        with np.errstate(all="ignore"):
            known = evaluate_static(self.fused.graph, arrays, self.fused.static)
        manifest = self.code.manifest
        values = pack_values(self.fused, manifest)
        specs = [spec for _, spec in manifest.packs]
        return pack_all(
            [(known[v], spec) for v, spec in zip(values, specs, strict=True)]
        )

    # scratch memory

    def _take_arena(self) -> np.ndarray:
        try:
            return self._arenas.pop()
        except IndexError:
            return aligned_empty(max(self.code.manifest.arena_bytes, 1), np.uint8)

    def _give_arena(self, arena: np.ndarray, threads: int) -> None:
        if len(self._arenas) < max(threads, KEPT_ARENAS):
            self._arenas.append(arena)

    # calls

    def fast_call(self, threads: int) -> FastCall | None:
        """The native path for this signature; None where it would not be right."""
        if self.code.manifest.batch_bytes:
            return None
        fast = self._fast
        if fast is None or self._fast_threads != threads:
            fast = self._make_fast(threads)
            self._fast, self._fast_threads = fast, threads
        return fast

    def drop_fast(self) -> None:
        """Make another native path when one is asked for again."""
        self._fast = None

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
        epoch, packed = self.epoch, self._packed
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
        fast.ctx[first : first + len(packed.addresses)] = packed.addresses
        arena = self._take_arena()
        fast.set_arena(arena.ctypes.data)
        fast.set_epoch(epoch)
        fast.keep(self.code, packed, arena)
        return fast

    def call(self, inputs: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """Run on contiguous, aligned arrays of this program's types."""
        n = self.batch(inputs)
        outputs = [np.empty(_shape(type, n), type.dtype) for type in self.output_types]
        if n == 0:
            return outputs
        packed, scratch = self._packed, self._scratch(n)
        context = _context(inputs, outputs, packed, scratch)
        shares = min(threads, n)
        if shares > 1 and self.code.manifest.flops * n >= THREADING_FLOPS:
            self._call_on_threads(context, n, shares)
        else:
            arena = self._take_arena()
            self.code.run(context.ctypes.data, arena.ctypes.data, n)
            self._give_arena(arena, threads)
        return outputs

    def _scratch(self, n: int) -> list[np.ndarray]:
        """Memory for what crosses segments, for the whole batch."""
        sizes = self.code.manifest.batch_bytes
        return [aligned_empty(max(size * n, 1) + 64, np.uint8) for size in sizes]

    def batch(self, inputs: Sequence[np.ndarray]) -> int:
        for array, type in zip(inputs, self.input_types, strict=True):
            if type.has_batch:
                return len(array)
        return 1

    def _call_on_threads(self, context: np.ndarray, n: int, threads: int) -> None:
        """One segment after the other; threads draw shares of the batch."""
        for drain, block in zip(
            self.code.drain, self.code.manifest.blocks, strict=True
        ):
            counter = ctypes.c_int64(0)
            share = -(-n // (threads * BLOCKS_A_THREAD))
            grain = share if share < block else -(-share // block) * block
            self._drain_segment(drain, context, counter, n, grain, threads)

    def _drain_segment(
        self,
        drain: Callable[..., None],
        context: np.ndarray,
        counter: ctypes.c_int64,
        n: int,
        grain: int,
        threads: int,
    ) -> None:
        def task() -> None:
            arena = self._take_arena()
            places = context.ctypes.data, arena.ctypes.data, ctypes.addressof(counter)
            drain(*places, n, grain)
            self._give_arena(arena, threads)

        run_on_threads(task, threads)

    def run_profiled(
        self, inputs: Sequence[np.ndarray], code: Executable, repeats: int
    ) -> np.ndarray:
        """Cycles spent in each kernel call by a build of this program with timers."""
        n = self.batch(inputs)
        outputs = [np.empty(_shape(type, n), type.dtype) for type in self.output_types]
        cycles = np.zeros(len(code.manifest.kernels), np.int64)
        packed, scratch = self._packed, [*self._scratch(n), cycles]
        context = _context(inputs, outputs, packed, scratch)
        arena = self._take_arena()
        code.run(context.ctypes.data, arena.ctypes.data, n)
        cycles[:] = 0
        for _ in range(repeats):
            code.run(context.ctypes.data, arena.ctypes.data, n)
        self._give_arena(arena, 1)
        return cycles


class _Packed:
    """Packed weights, with their addresses."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.addresses = [array.ctypes.data for array in arrays]


def _context(
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    packed: _Packed,
    scratch: Sequence[np.ndarray],
) -> np.ndarray:
    """The pointer table of one call."""
    first = [array.ctypes.data for array in (*inputs, *outputs)]
    last = [array.ctypes.data for array in scratch]
    return np.array([*first, *packed.addresses, *last, 0], np.int64)


def _shape(type: TensorType, n: int) -> tuple[int, ...]:
    return (n, *type.inner_shape) if type.has_batch else type.inner_shape


def _array_spec(type: TensorType) -> ArraySpec:
    return ArraySpec(np.dtype(type.dtype), type.inner_shape, type.has_batch)


def _fits_fast_path(type: TensorType) -> bool:
    return type.dtype in ("float32", "float64")

"""A program bound to variables: packed weights, scratch memory, and the native call.

Invariant: packed weights are replaced as a whole, never changed while a call may read
them; every concurrent call has scratch memory and a pointer table of its own, and
whatever native code may be reading is kept alive by the call or the fast path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jitseq.ir.types import TensorType
from jitseq.ir.variable import Variable
from jitseq.passes.fusion_group import FusedGraph
from jitseq.runtime.executable import Executable, pack_values
from jitseq.runtime.fastcall import ArraySpec, FastCall, SignatureSpec
from jitseq.runtime.packing import aligned_empty, evaluate_static, pack_all
from jitseq.runtime.threads import Handover, run_on_threads

THREADING_FLOPS = 20_000_000
"""Work below which a second thread costs more than it brings (about 0.1 ms)."""

RELEASE_GIL_FLOPS = 1_000_000
"""Work from which other Python threads should run meanwhile (a few µs)."""

KEPT_ARENAS = os.cpu_count() or 1
"""Scratch memories a program keeps between calls, if a call uses no more threads."""

FAST_BATCH = 16
"""Images up to which the native path keeps memory for what crosses segments."""

LINGER_ROUNDS = 1_000_000
"""How often (about 0.3 ms) a thread looks for its next task before it sleeps: a
processor that had halted runs the first 0.4 ms at half speed on virtual machines."""

SHARES_A_THREAD = 8
"""Shares of the batch for each thread: a late thread takes fewer of them."""


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
        self._spare_scratch: _Scratch | None = None
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

    def _new_scratch(self, n: int) -> _Scratch:
        """Memory for what crosses segments, for ``n`` images."""
        sizes = self.code.manifest.batch_bytes
        arrays = [aligned_empty(max(size * n, 1) + 64, np.uint8) for size in sizes]
        return _Scratch(n, arrays)

    def _take_scratch(self, n: int) -> _Scratch:
        """What the last call left, when it is large enough, or new memory."""
        spare, self._spare_scratch = self._spare_scratch, None
        return spare if spare and spare.images >= n else self._new_scratch(n)

    # calls

    def fast_call(self, threads: int) -> FastCall | None:
        """The native path for this signature; None where it would not be right."""
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
        largest = FAST_BATCH if manifest.batch_bytes else 1 << 40
        if threads > 1:
            one_thread = max(1, THREADING_FLOPS // max(manifest.flops, 1))
            largest = min(largest, one_thread)
        if not batched and any(type.has_batch for type in self.output_types):
            return None
        epoch, packed = self.epoch, self._packed
        scratch = self._new_scratch(largest)
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
        places = [*packed.addresses, *(array.ctypes.data for array in scratch.arrays)]
        fast.ctx[first : first + len(places)] = places
        arena = self._take_arena()
        fast.set_arena(arena.ctypes.data)
        fast.set_epoch(epoch)
        fast.keep(self.code, packed, arena, scratch)
        return fast

    def call(self, inputs: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """Run on contiguous, aligned arrays of this program's types."""
        n = self.batch(inputs)
        outputs = [np.empty(_shape(type, n), type.dtype) for type in self.output_types]
        if n == 0:
            return outputs
        packed, scratch = self._packed, self._take_scratch(n)
        context = _context(inputs, outputs, packed, scratch.arrays)
        shares = min(threads, n)
        if shares > 1 and self.code.manifest.flops * n >= THREADING_FLOPS:
            memory = (inputs, outputs, packed, scratch)
            self._call_on_threads(context, memory, n, shares)
        else:
            arena = self._take_arena()
            self.code.run(context.ctypes.data, arena.ctypes.data, n)
            self._give_arena(arena, threads)
        self._spare_scratch = scratch
        return outputs

    def batch(self, inputs: Sequence[np.ndarray]) -> int:
        for array, type in zip(inputs, self.input_types, strict=True):
            if type.has_batch:
                return len(array)
        return 1

    def _call_on_threads(
        self, context: np.ndarray, memory: object, n: int, threads: int
    ) -> None:
        """Threads draw shares of the batch, segment by segment, until all is done.

        ``memory`` is whatever ``context`` points to.
        """
        manifest = self.code.manifest
        counters = np.zeros((len(manifest.blocks), 3), np.int64)
        counters[:, 2] = [
            share_of_batch(n, threads, block, least)
            for block, least in zip(manifest.blocks, manifest.least_blocks, strict=True)
        ]
        work = _SharedWork(self.code, context, memory, counters, n)

        def task() -> None:
            arena = self._take_arena()
            work.run(arena)
            self._give_arena(arena, threads)

        spare = [self._take_arena() for _ in range(threads - 1)]
        run_on_threads(task, threads, Handover(work, spare))
        for arena in spare:
            self._give_arena(arena, threads)

    def run_profiled(
        self, inputs: Sequence[np.ndarray], code: Executable, repeats: int
    ) -> np.ndarray:
        """Cycles spent in each kernel call by a build of this program with timers."""
        n = self.batch(inputs)
        outputs = [np.empty(_shape(type, n), type.dtype) for type in self.output_types]
        cycles = np.zeros(len(code.manifest.kernels), np.int64)
        packed, scratch = self._packed, self._new_scratch(n)
        context = _context(inputs, outputs, packed, [*scratch.arrays, cycles])
        arena = self._take_arena()
        code.run(context.ctypes.data, arena.ctypes.data, n)
        cycles[:] = 0
        for _ in range(repeats):
            code.run(context.ctypes.data, arena.ctypes.data, n)
        self._give_arena(arena, 1)
        return cycles


def share_of_batch(n: int, threads: int, block: int, least: int) -> int:
    """Images that a thread draws at a time.

    The same number of shares for each thread; more of them even out delays, but each
    has the images that hide the reading of weights, and whole blocks where it
    exceeds one.
    """
    rounds = max(1, min(SHARES_A_THREAD, n // (threads * least)))
    share = -(-n // (threads * rounds))
    return share if share < block else -(-share // block) * block


class _SharedWork:
    """One call's work for several threads; owns what they read and write.

    An interrupt can end the call while another thread still computes: that thread's
    reference to this object keeps all of it alive. Scratch memory is free again as
    soon as any participant returns: then all images are done, and others look at the
    counters only.
    """

    def __init__(
        self,
        code: Executable,
        context: np.ndarray,
        memory: object,
        counters: np.ndarray,
        n: int,
    ) -> None:
        self.code = code
        self._owned = context, memory, counters
        self._places = context.ctypes.data, counters.ctypes.data
        self._n = n

    def run(self, arena: np.ndarray) -> None:
        context, counters = self._places
        self.code.work(context, arena.ctypes.data, counters, self._n)

    def post(self, slot: int, arena: np.ndarray) -> bool:
        """Hand the work to a thread that lingers at ``slot``; whether it took it."""
        context, counters = self._places
        work = self.code.work_address
        places = (work, context, arena.ctypes.data, counters)
        return bool(self.code.post(slot, *places, self._n))

    def linger(self, slot: int) -> None:
        self.code.linger(slot, LINGER_ROUNDS)


class _Scratch(NamedTuple):
    """Buffers that cross segments, large enough for ``images``."""

    images: int
    arrays: list[np.ndarray]


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

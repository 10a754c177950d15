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
from jitseq.runtime.shares import SharedWork, shares_of_call, work_of_one_thread
from jitseq.runtime.threads import Handover, run_on_threads

RELEASE_GIL_FLOPS = 1_000_000
"""Work from which other Python threads should run meanwhile (a few µs)."""

KEPT_ARENAS = os.cpu_count() or 1
"""Scratch memories a program keeps between calls, if a call uses no more threads."""

FAST_BATCH = 16
"""Images up to which the native path keeps memory for what crosses segments."""


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
        self.packed: Packed = Packed([])
        """Replaced as a whole: who holds it keeps the weights of that time."""
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
            self.packed, self._versions = Packed(self._pack_all()), versions
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

    def snapshot(self) -> Packed:
        """The static values of now, packed; nothing changes them."""
        return self.packed

    # scratch memory

    def _take_arena(self) -> np.ndarray:
        try:
            return self._arenas.pop()
        except IndexError:
            return aligned_empty(max(self.code.manifest.arena_bytes, 1), np.uint8)

    def _give_arena(self, arena: np.ndarray, threads: int) -> None:
        if len(self._arenas) < max(threads, KEPT_ARENAS):
            self._arenas.append(arena)

    def _new_scratch(self, n: int, shares: int = 1) -> _Scratch:
        """Memory for what crosses segments, for ``n`` images in ``shares`` shares."""
        manifest = self.code.manifest
        sizes = [max(size * n, 1) + 64 for size in manifest.batch_bytes]
        sizes += [manifest.fixed_bytes + 64, manifest.sums_bytes * shares + 64]
        arrays = [aligned_empty(size, np.uint8) for size in sizes]
        arrays[-2][:] = 0  # the padding of packed weights
        return _Scratch(n, shares, arrays, [array.ctypes.data for array in arrays])

    def _take_scratch(self, n: int, shares: int) -> _Scratch:
        """What the last call left, when it is large enough, or new memory."""
        spare, self._spare_scratch = self._spare_scratch, None
        if spare and spare.images >= n and spare.shares >= shares:
            return spare
        return self._new_scratch(n, shares)

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
            one_thread = work_of_one_thread(manifest)
            largest = min(largest, one_thread)
        if not batched and any(type.has_batch for type in self.output_types):
            return None
        epoch, packed = self.epoch, self.packed
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
        places = [*packed.addresses, *scratch.addresses]
        fast.ctx[first : first + len(places)] = places
        arena = self._take_arena()
        fast.set_arena(arena.ctypes.data)
        fast.set_epoch(epoch)
        fast.keep(self.code, packed, arena, scratch)
        return fast

    def call(self, inputs: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """Run on contiguous, aligned arrays of this program's types."""
        n = self.batch(inputs)
        outputs = self.new_outputs(n)
        if n:
            arrays = [*inputs, *outputs]
            self.run([array.ctypes.data for array in arrays], arrays, n, threads)
        return outputs

    def run(
        self,
        addresses: Sequence[int],
        owners: object,
        n: int,
        threads: int,
        packed: Packed | None = None,
    ) -> None:
        """Run for ``n`` images on inputs, outputs and variables, in that order.

        ``owners`` keep what is at the addresses alive; ``packed`` is the `packed` of an
        earlier time, when the present one is not meant.
        """
        grains, shares = shares_of_call(self.code.manifest, n, min(threads, n))
        packed, scratch = packed or self.packed, self._take_scratch(n, shares)
        context = _context(addresses, packed, scratch)
        if grains is not None:
            memory = (owners, packed, scratch)
            self._run_on_threads(context, memory, n, grains, min(threads, n))
        else:
            arena = self._take_arena()
            self.code.run(context.ctypes.data, arena.ctypes.data, n)
            self._give_arena(arena, threads)
        self._spare_scratch = scratch

    def batch(self, inputs: Sequence[np.ndarray]) -> int:
        """Images in the arrays of the first inputs."""
        for array, type in zip(inputs, self.input_types):
            if type.has_batch:
                return len(array)
        return 1

    def _run_on_threads(
        self,
        context: np.ndarray,
        memory: object,
        n: int,
        grains: Sequence[int],
        threads: int,
    ) -> None:
        """Threads draw shares of the batch, segment by segment, until all is done.

        ``memory`` is whatever ``context`` points to.
        """
        counters = np.zeros((len(grains), 3), np.int64)
        counters[:, 2] = grains
        work = SharedWork(self.code, context, memory, counters, n)

        def task() -> None:
            arena = self._take_arena()
            work.run(arena)
            self._give_arena(arena, threads)

        spare = [self._take_arena() for _ in range(threads - 1)]
        run_on_threads(task, threads, Handover(work, spare))
        for arena in spare:
            self._give_arena(arena, threads)

    def run_profiled(
        self, addresses: Sequence[int], n: int, code: Executable, repeats: int
    ) -> np.ndarray:
        """Cycles spent in each kernel call by a build of this program with timers.

        ``addresses`` as for `run`.
        """
        cycles = np.zeros(len(code.manifest.kernels), np.int64)
        packed, scratch = self.packed, self._new_scratch(n)
        context = _context(addresses, packed, scratch)
        context[-1] = cycles.ctypes.data
        arena = self._take_arena()
        code.run(context.ctypes.data, arena.ctypes.data, n)
        cycles[:] = 0
        for _ in range(repeats):
            code.run(context.ctypes.data, arena.ctypes.data, n)
        self._give_arena(arena, 1)
        return cycles

    def new_outputs(self, n: int) -> list[np.ndarray]:
        """Uninitialised arrays for the results of ``n`` images."""
        return [np.empty(_shape(type, n), type.dtype) for type in self.output_types]


class _Scratch(NamedTuple):
    """Buffers that cross segments, large enough for ``images`` in ``shares``."""

    images: int
    shares: int
    arrays: list[np.ndarray]
    addresses: list[int]


class Packed:
    """Packed weights, with their addresses."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.addresses = [array.ctypes.data for array in arrays]


def _context(addresses: Sequence[int], packed: Packed, scratch: _Scratch) -> np.ndarray:
    """The pointer table of one call; the last entry is for a profile's cycles."""
    places = [*addresses, *packed.addresses, *scratch.addresses, 0]
    return np.array(places, np.int64)


def _shape(type: TensorType, n: int) -> tuple[int, ...]:
    return (n, *type.inner_shape) if type.has_batch else type.inner_shape


def _array_spec(type: TensorType) -> ArraySpec:
    return ArraySpec(np.dtype(type.dtype), type.inner_shape, type.has_batch)


def _fits_fast_path(type: TensorType) -> bool:
    return type.dtype in ("float32", "float64")

"""The simulator as a device: memory of the host, kernels run by numba's simulator.

Invariant: an access outside of a buffer's memory is an `IndexError`; memory starts as
bytes 0xFF, so that floats that were never written are NaN.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from jitseq.codegen.numba_cuda.compile import ObjectKernel, simulated_kernels
from jitseq.codegen.numba_cuda.functions import TYPES
from jitseq.errors import DeviceError
from jitseq.runtime.cuda.device import Device, Memory, Step
from jitseq.runtime.report import Peaks

BLOCKS = (2**31 - 1, 2**16 - 1)
"""The most blocks of a grid along its axes."""


SWITCH_SECONDS = 5e-5
"""The simulator's threads wait for each other all the time: with Python's own interval
it takes five times as long."""


class Elements:
    """What a kernel sees of a buffer: memory from an address to its end."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __getitem__(self, index: int) -> Any:
        return self.array[self._inside(index)]

    def __setitem__(self, index: int, value: Any) -> None:
        self.array[self._inside(index)] = value

    def _inside(self, index: int) -> int:
        if not 0 <= index < self.array.size:
            raise IndexError(f"element {index} of {self.array.size}")
        return index


@cache
def share_memory_once() -> None:
    """Let the threads of a block have one shared array for each line that asks.

    The simulator's own look-up has no lock: two threads that are the first at the same
    time would each get memory of their own, and lose what the other has written.
    """
    from numba.cuda.simulator.kernelapi import FakeCUDAShared, numpy_support

    lock, whole = threading.Lock(), FakeCUDAShared.array

    def array(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> Any:
        if alignment is not None:
            return whole(self, shape, dtype, alignment)
        if shape == 0:
            return whole(self, shape, dtype)
        if not isinstance(dtype, type | np.dtype):
            dtype = numpy_support.as_dtype(dtype)
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        with lock:
            if place not in self._allocations:
                self._allocations[place] = np.empty(shape, dtype)
            return self._allocations[place]

    FakeCUDAShared.array = array


class SimulatedDevice(Device):
    """Everything happens at once, in the thread that asks."""

    capability = (0, 0)
    key = name = "simulator"
    stream = 0

    def __init__(self) -> None:
        super().__init__()
        share_memory_once()

    def allocate(self, size: int) -> Memory:
        try:
            raw = np.full(size + 64, 0xFF, np.uint8)
        except MemoryError:
            raise DeviceError(
                "out of device memory", facts={"wanted": f"{size} bytes"}
            ) from None
        array = raw[-raw.ctypes.data % 64 :][:size]
        return Memory(array.ctypes.data, size, array)

    def pinned(self, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def load(self, kernels: Sequence[ObjectKernel]) -> list[Any]:
        found: list[Any] = []
        by_source: dict[bytes, Any] = {}
        for kernel in kernels:
            if kernel.code not in by_source:
                by_source[kernel.code] = simulated_kernels(kernel.code.decode())
            found.append(by_source[kernel.code][kernel.entry])
        return found

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int],
        threads: int,
        addresses: Sequence[tuple[int, str, int]],
        count: int,
    ) -> Step:
        assert all(size <= most for size, most in zip(grid, BLOCKS, strict=True))
        buffers = [
            Elements(self._view(address, size).view(TYPES[element]))
            for address, element, size in addresses
        ]

        def run(stream: Any) -> None:
            kernel[grid, threads](*buffers, count)

        return run

    def _view(self, address: int, size: int) -> np.ndarray:
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(memory)

    def upload(self, address: int, host: np.ndarray) -> Step:
        def run(stream: Any) -> None:
            ctypes.memmove(address, host.ctypes.data, host.nbytes)

        return run

    def download(self, host: np.ndarray, address: int) -> Step:
        def run(stream: Any) -> None:
            ctypes.memmove(host.ctypes.data, address, host.nbytes)

        return run

    def copy(self, target: int, source: int, size: int) -> Step:
        def run(stream: Any) -> None:
            ctypes.memmove(target, source, size)

        return run

    def run(self, steps: Sequence[Step]) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            for step in steps:
                step(None)
        finally:
            sys.setswitchinterval(before)

    def capture(self, steps: Sequence[Step]) -> Step:
        kept = tuple(steps)
        return lambda stream: self.run(kept)

    def wait_for(self, stream: int) -> None:
        """There is nothing to wait for."""

    def make_wait(self, stream: int) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """All is done."""

    def peaks(self) -> Peaks:
        return Peaks(math.nan, math.nan, math.nan)

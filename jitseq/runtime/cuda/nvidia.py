"""A device of NVIDIA's, through ``cuda.core`` and the driver's copies.

Invariant: memory comes from the device's own pool and is given back in the order of the
stream, so a kernel in flight never loses what it reads; an error of the driver leaves
as a `DeviceError`. All calls use the device's primary context, which other libraries
share.

The graphs of `capture` hold kernels only: copies between host and device stay outside.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from jitseq.codegen.numba_cuda.compile import ObjectKernel
from jitseq.codegen.numba_cuda.shim import capability
from jitseq.errors import DeviceError
from jitseq.runtime.cuda.device import Device, Memory, Step
from jitseq.runtime.report import Peaks

LEGACY, PER_THREAD = 1, 2
"""Handles of the default streams."""

CORES = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
"""float32 units of a multiprocessor, by compute capability; 128 from 8.6 on."""


@contextmanager
def driver_errors(doing: str) -> Iterator[None]:
    """Whatever the driver and its packages raise, as `DeviceError`."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:  # their errors have no common base that is public
        text = str(error).split("\n")[0]
        if isinstance(error, MemoryError) or "OUT_OF_MEMORY" in text:
            raise DeviceError(
                "out of device memory",
                facts={"while": doing, **_memory_facts()},
                hint="use smaller batches, or free what other libraries hold "
                "(torch.cuda.empty_cache())",
            ) from error
        raise DeviceError(
            "the device has failed",
            facts={"while": doing, "the driver says": text},
            hint="this process can no longer use it: start another one",
        ) from error


def _memory_facts() -> dict[str, str]:
    from cuda.bindings import driver

    status, free, total = driver.cuMemGetInfo()
    if int(status):
        return {}
    return {"free": f"{free >> 20} MiB of {total >> 20} MiB"}


class NvidiaDevice(Device):
    """The device that is current when this is made."""

    def __init__(self) -> None:
        super().__init__()
        from cuda.core import Device as CoreDevice
        from cuda.core import LegacyPinnedMemoryResource

        with driver_errors("opening the device"):
            self._device = CoreDevice()
            self._device.set_current()
            self._stream = self._device.create_stream()
            self._pinned = LegacyPinnedMemoryResource()
        self.number = int(self._device.device_id)
        self.capability = capability()
        self.name = str(self._device.name)
        major, minor = self.capability
        self.key = f"sm_{major}{minor}"

    def allocate(self, size: int) -> Memory:
        with driver_errors(f"allocating {size} bytes"):
            self._device.set_current()
            buffer = self._device.allocate(max(size, 1), stream=self._stream)
            return Memory(int(buffer.handle), size, buffer)

    def pinned(self, size: int) -> np.ndarray:
        with driver_errors(f"allocating {size} bytes of the host"):
            self._device.set_current()
            buffer = self._pinned.allocate(size)
        memory = (ctypes.c_uint8 * size).from_address(int(buffer.handle))
        memory.owner = buffer  # type: ignore[attr-defined]
        return np.ctypeslib.as_array(memory)

    def load(self, kernels: Sequence[ObjectKernel]) -> list[Any]:
        from cuda.core import ObjectCode

        with driver_errors("loading kernels"):
            self._device.set_current()
            return [
                ObjectCode.from_cubin(kernel.code, name=kernel.name).get_kernel(
                    kernel.entry
                )
                for kernel in kernels
            ]

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int],
        threads: int,
        addresses: Sequence[tuple[int, str, int]],
        count: int,
    ) -> Step:
        from cuda.core import LaunchConfig, launch

        config = LaunchConfig(grid=grid, block=threads)
        arguments = (*(address for address, _, _ in addresses), count)

        def run(stream: Any) -> None:
            launch(stream, config, kernel, *arguments)

        return run

    def upload(self, address: int, host: np.ndarray) -> Step:
        return self._copied("cuMemcpyHtoDAsync", address, host.ctypes.data, host.nbytes)

    def download(self, host: np.ndarray, address: int) -> Step:
        return self._copied("cuMemcpyDtoHAsync", host.ctypes.data, address, host.nbytes)

    def copy(self, target: int, source: int, size: int) -> Step:
        return self._copied("cuMemcpyDtoDAsync", target, source, size)

    def _copied(self, function: str, target: int, source: int, size: int) -> Step:
        from cuda.bindings import driver

        copy = getattr(driver, function)

        def run(stream: Any) -> None:
            (status,) = copy(target, source, size, stream.handle)
            if int(status):
                raise RuntimeError(f"{function}: {status.name}")

        return run

    def run(self, steps: Sequence[Step]) -> None:
        with driver_errors("running kernels"):
            self._device.set_current()
            for step in steps:
                step(self._stream)

    def capture(self, steps: Sequence[Step]) -> Step:
        """On a stream of the graph's own: memory that Python frees in the meantime goes
        back on the device's stream, and is no part of the graph."""
        with driver_errors("capturing a graph (JITSEQ_CUDA_GRAPHS=0 does without)"):
            self._device.set_current()
            builder = self._device.create_graph_builder()
            builder.begin_building("relaxed")
            for step in steps:
                step(builder)
            graph = builder.end_building().complete()

        def replay(stream: Any) -> None:
            graph.launch(stream)

        return replay

    def wait_for(self, stream: int) -> None:
        with driver_errors("waiting for a stream"):
            self._device.set_current()
            self._stream.wait(_stream(stream))

    def make_wait(self, stream: int) -> None:
        with driver_errors("waiting for a stream"):
            self._device.set_current()
            _stream(stream).wait(self._stream)

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def synchronize(self) -> None:
        with driver_errors("waiting for kernels"):
            self._device.set_current()
            self._stream.sync()

    def peaks(self) -> Peaks:
        """By clocks and widths; what the cache does is not known."""
        facts = self._device.properties
        cores = facts.multiprocessor_count * CORES.get(self.capability, 128)
        gflops = 2e-6 * cores * facts.clock_rate
        gbytes = 2e-6 * facts.memory_clock_rate * facts.global_memory_bus_width / 8
        return Peaks(gflops, float("nan"), gbytes)


def _stream(handle: int) -> Any:
    from cuda.core import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Stream

    known = {LEGACY: LEGACY_DEFAULT_STREAM, PER_THREAD: PER_THREAD_DEFAULT_STREAM}
    return known.get(handle) or Stream.from_handle(handle)

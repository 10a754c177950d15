"""Where grids run: memory, copies, launches; a device of NVIDIA's, or the simulator.

Bytes of the host and compiled kernels enter; what kernels wrote leaves. Invariant: all
that is asked of one device happens in the order in which it was asked, on one stream;
copies to the host are complete only after `Device.synchronize`.

Each process has one device: the one that was current when it was first asked for.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitseq.codegen.numba_cuda.compile import ObjectKernel
from jitseq.codegen.numba_cuda.shim import require_device, simulated
from jitseq.errors import DeviceError
from jitseq.runtime.report import Peaks

Step = Callable[[Any], None]
"""Work that is put on a stream."""


class Place(NamedTuple):
    """Bytes on a device: what kernels are given of a buffer."""

    address: int
    size: int


class Memory:
    """Bytes on a device, freed with the last reference; ``owner`` keeps them."""

    __slots__ = ("owner", "place")

    def __init__(self, address: int, size: int, owner: Any) -> None:
        self.place = Place(address, size)
        self.owner = owner

    @property
    def address(self) -> int:
        return self.place.address

    @property
    def size(self) -> int:
        return self.place.size


class Device(ABC):
    """One device and its stream. Calls of several threads take `lock` in turn."""

    capability: tuple[int, int]
    key: str
    """Text that tells devices apart that need other code."""
    name: str
    number = 0
    """Which of the devices it is, as CUDA counts."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    @abstractmethod
    def allocate(self, size: int) -> Memory:
        """Uninitialised memory; raises `DeviceError` where none is left."""

    @abstractmethod
    def pinned(self, size: int) -> np.ndarray:
        """Memory of the host that copies need not stage, as bytes."""

    @abstractmethod
    def load(self, kernels: Sequence[ObjectKernel]) -> list[Any]:
        """What `launch` takes, for each kernel."""

    @abstractmethod
    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int],
        threads: int,
        addresses: Sequence[tuple[int, str, int]],
        count: int,
    ) -> Step:
        """Run a kernel on buffers (address, element, bytes) and its count."""

    @abstractmethod
    def upload(self, address: int, host: np.ndarray) -> Step:
        """Copy bytes to the device."""

    @abstractmethod
    def download(self, host: np.ndarray, address: int) -> Step:
        """Copy bytes from the device."""

    @abstractmethod
    def copy(self, target: int, source: int, size: int) -> Step:
        """Copy bytes inside of the device."""

    @abstractmethod
    def run(self, steps: Sequence[Step]) -> None:
        """Put steps on the stream, in order."""

    @abstractmethod
    def capture(self, steps: Sequence[Step]) -> Step:
        """The steps as a graph, which one call puts on the stream."""

    @abstractmethod
    def wait_for(self, stream: int) -> None:
        """Go on only when what is on another stream now is done."""

    @abstractmethod
    def make_wait(self, stream: int) -> None:
        """Another stream goes on only when what is on this one now is done."""

    @property
    @abstractmethod
    def stream(self) -> int:
        """The handle of the stream; 0 where there is none."""

    @abstractmethod
    def peaks(self) -> Peaks:
        """What the device could do at best, by its clocks and widths."""

    @abstractmethod
    def synchronize(self) -> None:
        """Return when all is done; raises `DeviceError` where a kernel failed."""


_lock = threading.Lock()
_made: dict[str, Device] = {}
_forked = [False]


def current_device() -> Device:
    """The device of this process.

    Raises:
        DeviceError: there is none, or this process was forked from one that used it.
    """
    with _lock:
        if "device" not in _made:
            if _forked[0]:
                raise DeviceError(
                    "a forked process cannot use the device of its parent",
                    hint='start it with multiprocessing.get_context("spawn")',
                )
            require_device()
            _made["device"] = _make()
        return _made["device"]


def made_device() -> Device | None:
    """The device, if anything has used it."""
    return _made.get("device")


def _make() -> Device:
    if simulated():
        from jitseq.runtime.cuda.simulated import SimulatedDevice

        return SimulatedDevice()
    from jitseq.runtime.cuda.nvidia import NvidiaDevice

    return NvidiaDevice()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    device = _made.pop("device", None)
    _forked[0] = device is not None and device.stream != 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

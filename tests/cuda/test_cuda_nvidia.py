"""`NvidiaDevice` on a stand-in for ``cuda.core``: what it asks of it, in which order.

The stand-in's memory is the host's; its kernels are rendered source, which numba's
simulator runs on the addresses that a launch was given. What it cannot show is whether
a real driver takes the same.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_support import in_simulator

import jitseq as js
from jitseq import nn, optim
from jitseq.codegen.numba_cuda.compile import ObjectKernel
from jitseq.errors import DeviceError
from jitseq.runtime.cuda import device, nvidia, variables
from jitseq.runtime.cuda.simulated import SimulatedDevice

pytestmark = in_simulator


class Driver:
    """All that was asked for, and one error that is raised when its turn comes."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[str, str] = {}

    def note(self, what: str) -> None:
        self.log.append(what)
        if what in self.fails:
            raise RuntimeError(self.fails[what])


class Stream:
    def __init__(self, driver: Driver, handle: int) -> None:
        self.driver, self.handle = driver, handle

    def sync(self) -> None:
        self.driver.note("sync")

    def wait(self, other: Stream) -> None:
        self.driver.note(f"{self.handle} waits for {other.handle}")


class Builder:
    """Launches on it are kept, not run."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.launches: list[Any] = []

    def begin_building(self, mode: str) -> None:
        self.driver.note(f"begin {mode}")

    def end_building(self) -> Builder:
        self.driver.note("end")
        return self

    def complete(self) -> Builder:
        return self

    def launch(self, stream: Stream) -> None:
        self.driver.note("replay")
        for run in self.launches:
            run()


class Buffer:
    def __init__(self, size: int) -> None:
        self.memory = np.full(max(size, 1), 0xFF, np.uint8)
        self.handle = self.memory.ctypes.data


class CoreDevice:
    device_id, compute_capability, name = 0, (9, 0), "a stand-in"
    properties = SimpleNamespace(
        multiprocessor_count=132,
        clock_rate=1_980_000,
        memory_clock_rate=3_201_000,
        global_memory_bus_width=6144,
    )

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def set_current(self) -> None:
        self.driver.note("current")

    def create_stream(self) -> Stream:
        return Stream(self.driver, 77)

    def create_graph_builder(self) -> Builder:
        return Builder(self.driver)

    def allocate(self, size: int, stream: Stream) -> Buffer:
        assert stream.handle == 77
        self.driver.note("allocate")
        return Buffer(size)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Installs the stand-in; programs made now use it."""
    driver = Driver()
    core, bindings = ModuleType("cuda.core"), ModuleType("cuda.bindings")

    def launch(stream: Any, config: Any, kernel: Any, *arguments: Any) -> None:
        assert all(type(argument) is int for argument in arguments)
        driver.note("capture" if isinstance(stream, Builder) else "launch")
        *addresses, count = arguments

        def run() -> None:
            buffers = [
                (address, element, 1 << 14)  # a launch does not say where they end
                for address, element in zip(addresses, kernel.elements, strict=True)
            ]
            simulator = SimulatedDevice()
            step = simulator.launch(
                kernel.function, config.grid, config.block, buffers, count
            )
            simulator.run([step])

        if isinstance(stream, Builder):
            stream.launches.append(run)
        else:
            run()

    def copied(name: str) -> Any:
        def copy(target: int, source: int, size: int, stream: int) -> tuple[int]:
            driver.note(name)
            assert stream == 77
            ctypes.memmove(target, source, size)
            return (0,)

        return copy

    def from_cubin(code: bytes, name: str) -> Any:
        (function,) = SimulatedDevice().load([ObjectKernel(name, name, code)])
        elements = elements_of(code.decode(), name)
        kernel = SimpleNamespace(function=function, elements=elements)
        return SimpleNamespace(get_kernel=lambda entry: kernel)

    core.Device = lambda: CoreDevice(driver)
    core.LegacyPinnedMemoryResource = lambda: SimpleNamespace(allocate=Buffer)
    core.LaunchConfig = lambda grid, block: SimpleNamespace(grid=grid, block=block)
    core.launch = launch
    core.ObjectCode = SimpleNamespace(from_cubin=from_cubin)
    core.LEGACY_DEFAULT_STREAM = Stream(driver, 1)
    core.PER_THREAD_DEFAULT_STREAM = Stream(driver, 2)
    core.Stream = SimpleNamespace(from_handle=lambda handle: Stream(driver, handle))
    bindings.driver = SimpleNamespace(
        cuMemGetInfo=lambda: (0, 3 << 20, 5 << 20),
        **{
            name: copied(name)
            for name in (
                "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync",
            )
        },
    )  # fmt: skip
    for module in (core, bindings):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    made = {"device": nvidia.NvidiaDevice()}
    monkeypatch.setattr(device, "_made", made)
    monkeypatch.setattr(variables, "_pending", weakref.WeakSet())
    driver.log.clear()
    return driver


def elements_of(source: str, name: str) -> list[str]:
    """Of the buffers of a kernel, from the comment above it."""
    header = next(line for line in source.split("\n") if line.startswith(f"# {name}("))
    inside = header.split("(", 1)[1].split(";")[0]
    return [part.split(": ")[1] for part in inside.split(", ")]


def test_facts(driver: Driver) -> None:
    found = device.current_device()
    assert found.key == "sm_90" and found.capability == (9, 0)
    assert found.stream == 77 and found.name == "a stand-in"
    assert found.peaks().gflops == pytest.approx(66_900, rel=0.01)
    assert found.peaks().memory_gbytes == pytest.approx(4917, rel=0.01)


def test_a_call_and_its_graph(driver: Driver) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()
    compiled = js.jit(model, backend="cuda")
    rng, logs = np.random.default_rng(0), []
    for _ in range(4):
        driver.log.clear()
        x = rng.normal(size=(2, 4)).astype(np.float32)
        np.testing.assert_allclose(compiled(x), model(x), 1e-5, 1e-6)
        wanted = ("current", "allocate")
        logs.append([what for what in driver.log if what not in wanted])
    up, down = "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"
    parameters = [up, "sync", up, "sync"]
    assert logs[0] == [*parameters, up, "launch", down, "sync"]
    assert logs[1] == [up, "launch", down, "sync"]
    build = ["begin relaxed", "capture", "end"]
    assert logs[2] == [*build, up, "replay", down, "sync"]
    assert logs[3] == [up, "replay", down, "sync"]


def test_training(driver: Driver) -> None:
    losses = []
    for backend in ("cuda", "eager"):
        js.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        optimizer = optim.Adam(model.parameters(), 0.05)
        step = js.train_step(model, nn.MSELoss(), optimizer, backend=backend)
        x, y = np.full((3, 4), 0.3, np.float32), np.ones((3, 2), np.float32)
        losses.append([step(x, y) for _ in range(5)])
        values = [parameter.numpy() for parameter in model.parameters()]
        losses.append([float(value.sum()) for value in values])
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
    assert losses[1] == pytest.approx(losses[3], rel=1e-3, abs=1e-5)


def test_streams(driver: Driver) -> None:
    found = device.current_device()
    for handle in (1, 2, 4711):
        found.wait_for(handle)
        found.make_wait(handle)
    waits = [what for what in driver.log if "waits" in what]
    expected = [
        f"{a} waits for {b}" for h in (1, 2, 4711) for a, b in ((77, h), (h, 77))
    ]
    assert waits == expected


def test_errors_of_the_driver(driver: Driver) -> None:
    found = device.current_device()
    driver.fails["allocate"] = "CUDA_ERROR_OUT_OF_MEMORY: no memory"
    with pytest.raises(DeviceError, match="out of device memory") as raised:
        found.allocate(1 << 40)
    assert "3 MiB of 5 MiB" in str(raised.value)
    driver.fails["sync"] = "CUDA_ERROR_ILLEGAL_ADDRESS: a kernel"
    with pytest.raises(DeviceError, match="the device has failed") as raised:
        found.synchronize()
    assert "ILLEGAL_ADDRESS" in str(raised.value)

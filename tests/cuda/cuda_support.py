"""What the tests of backend "cuda" share: where they can run, kernels made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.codegen.numba_cuda import shim
from jitseq.errors import DeviceError
from jitseq.ir.grid_builder import GridBuilder
from jitseq.ir.program import Kernel, Launch, Program
from jitseq.runtime.cuda.device import current_device
from jitseq.runtime.cuda.simulated import SimulatedDevice

RNG = np.random.default_rng(0)


def _runs() -> bool:
    try:
        shim.require_device()
    except DeviceError:
        return False
    return True


in_simulator = pytest.mark.skipif(not shim.simulated(), reason="needs the simulator")
where_cuda_runs = pytest.mark.skipif(not _runs(), reason="needs a device")


def kernel_of(build: Callable[[GridBuilder], None], name: str = "k0_test") -> Kernel:
    """The kernel that ``build`` writes."""
    builder = GridBuilder()
    build(builder)
    return builder.finish(name)


def program_of(kernel: Kernel) -> Program:
    return Program((kernel,), (), 0, 0, ())


def run_simulated(
    kernel: Kernel, arrays: Sequence[np.ndarray], count: int, launch: Launch
) -> None:
    """Render a kernel and run it in numba's simulator; written arrays change."""
    from jitseq.codegen.numba_cuda.compile import compile_grids

    device = SimulatedDevice()
    (function,) = device.load(compile_grids(program_of(kernel), (0, 0)))
    buffers = [
        (array.ctypes.data, buffer.element, array.nbytes)
        for array, buffer in zip(arrays, kernel.buffers, strict=True)
    ]
    grid = (launch.blocks(count), launch.rows)
    device.run([device.launch(function, grid, launch.threads, buffers, count)])


def small() -> nn.Module:
    js.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()


def sample(n: int) -> np.ndarray:
    return RNG.normal(size=(n, 4)).astype(np.float32)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Launches of each graph that is captured."""
    device, found = current_device(), []
    whole = device.capture

    def capture(steps: Any) -> Any:
        found.append(len(steps))
        return whole(steps)

    monkeypatch.setattr(device, "capture", capture)
    return found

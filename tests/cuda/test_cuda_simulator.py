"""What is asked of numba's simulator so that a block's threads compute together."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from cuda_support import in_simulator

from jitseq.codegen.numba_cuda.shim import cuda_module
from jitseq.runtime.cuda.simulated import share_memory_once

pytestmark = in_simulator
THREADS = 8
cuda = cuda_module()  # the simulator exchanges it in a kernel's globals


def test_threads_that_ask_at_once_share_an_array(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    share_memory_once()
    shared, found = FakeCUDAShared(0), []
    together, whole = threading.Barrier(THREADS), np.empty

    def slow(*arguments: Any) -> np.ndarray:
        time.sleep(0.01)  # the other threads arrive meanwhile
        return whole(*arguments)

    def ask() -> None:
        together.wait(60)
        found.append(shared.array(4, np.float32))

    monkeypatch.setattr(np, "empty", slow)
    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == THREADS and len({id(array) for array in found}) == 1


def test_kernels_of_others_are_as_before() -> None:
    """Arrays of several lines and types, and memory whose size the launch says."""
    from numba import float32, int32

    share_memory_once()

    @cuda.jit
    def kernel(out: Any) -> None:
        a = cuda.shared.array(2, float32)
        b = cuda.shared.array(2, int32)
        c = cuda.shared.array(0, float32)
        a[cuda.threadIdx.x], b[cuda.threadIdx.x], c[cuda.threadIdx.x] = 1.5, 2, 3.5
        cuda.syncthreads()
        other = 1 - cuda.threadIdx.x
        out[cuda.threadIdx.x] = a[other] * 100 + b[other] * 10 + c[other]

    out = np.zeros(2)
    kernel[1, 2, 0, 8](out)
    assert out.tolist() == [173.5, 173.5]

"""Which tests of this directory can run: the marks that skip the others, with reasons.

The environment enters. Invariant: a test is skipped only where the simulator is on, or
where jitseq finds no device; `test_gpu_device` fails if another program finds one.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from jitseq.codegen.numba_cuda.shim import require_device
from jitseq.errors import DeviceError
from jitseq.runtime.cuda.device import current_device

BACKEND = "cuda"


def why_not() -> str | None:
    """What keeps kernels from running on a device, or None."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "NUMBA_ENABLE_CUDASIM=1: the simulator has tests of its own (make test)"
    try:
        require_device()
    except DeviceError as error:
        return error.message
    return None


def why_no_torch() -> str | None:
    """The same for tests whose arrays are PyTorch's CUDA tensors."""
    reason = why_not()
    if reason is not None:
        return reason
    try:
        import torch
    except ModuleNotFoundError:
        return "PyTorch is not installed"
    return None if torch.cuda.is_available() else "PyTorch finds no GPU"


def mark(reason: str | None) -> Any:
    return pytest.mark.skipif(reason is not None, reason=reason or "")


needs_gpu = mark(why_not())
needs_torch = mark(why_no_torch())


def on_device(array: np.ndarray) -> Any:
    """A copy as a torch CUDA tensor."""
    import torch

    return torch.from_numpy(array).to("cuda")


def on_host(tensor: Any) -> np.ndarray:
    """The numbers of a result that must be a torch CUDA tensor."""
    assert tensor.is_cuda, tensor.device
    found: np.ndarray = tensor.cpu().numpy()
    return found


def free_bytes() -> int:
    """Memory that the device has left, when all work is done."""
    from cuda.bindings import driver

    current_device().synchronize()
    status, free, _ = driver.cuMemGetInfo()
    assert int(status) == 0, status
    return int(free)

"""Tensors on the device, with a stand-in for torch whose tensors lie in its memory."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_support import in_simulator

import jitseq as js
from jitseq import nn
from jitseq.errors import DeviceError, DtypeError
from jitseq.runtime.cuda.device import current_device

pytestmark = in_simulator
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


class Tensor:
    """What is asked of a CUDA tensor."""

    is_cuda = True

    def __init__(self, array: np.ndarray, index: int = 0, dtype: str = "") -> None:
        self.array, self.shape = array, array.shape
        self.dtype = dtype or f"torch.{array.dtype.name}"
        self.device = SimpleNamespace(index=index)
        self.__cuda_array_interface__ = {"version": 2}

    def detach(self) -> Tensor:
        return self

    def contiguous(self) -> Tensor:
        return Tensor(np.ascontiguousarray(self.array), self.device.index, self.dtype)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def numel(self) -> int:
        return int(self.array.size)

    def element_size(self) -> int:
        return int(self.array.itemsize)


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    torch = ModuleType("torch")
    torch.Tensor, torch.float32 = Tensor, np.float32
    stream = SimpleNamespace(cuda_stream=0)
    torch.cuda = SimpleNamespace(current_stream=lambda device: stream)
    torch.stream = stream

    def empty(shape: tuple[int, ...], dtype: Any, device: str) -> Tensor:
        assert device == "cuda:0"
        return Tensor(np.empty(shape, dtype))

    torch.empty = empty
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def test_tensors_give_tensors() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()
    compiled = js.jit(model, backend="cuda")
    for x in (X, X[:2], np.asfortranarray(X), X + 1, X + 2):
        found = compiled(Tensor(x))
        assert isinstance(found, Tensor)
        np.testing.assert_allclose(found.array, model(x), 1e-5, 1e-6)


def test_the_current_stream_is_respected(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[str, int]] = []
    for name in ("wait_for", "make_wait"):
        monkeypatch.setattr(
            current_device(),
            name,
            lambda handle, name=name: waits.append((name, handle)),
        )
    compiled = js.jit(nn.Linear(4, 3), backend="cuda")
    for handle, expected in ((0, 1), (4711, 4711)):
        torch.stream.cuda_stream = handle
        waits.clear()
        compiled(Tensor(X))
        assert waits == [("wait_for", expected), ("make_wait", expected)]


def test_tensors_that_do_not_fit() -> None:
    compiled = js.jit(nn.Linear(4, 3), backend="cuda")
    with pytest.raises(DeviceError, match="another device"):
        compiled(Tensor(X, index=1))
    with pytest.raises(DtypeError, match="bfloat16"):
        compiled(Tensor(X, dtype="torch.bfloat16"))

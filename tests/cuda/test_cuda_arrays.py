"""Arrays that lie on the device: as arguments and results, with their streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_support import captured, sample, small, where_cuda_runs

import jitseq as js
from jitseq import nn, optim
from jitseq.errors import DeviceError, RangeError
from jitseq.runtime.cuda import bound
from jitseq.runtime.cuda.arrays import DeviceArray
from jitseq.runtime.cuda.device import current_device
from jitseq.runtime.cuda.variables import as_bytes

pytestmark = where_cuda_runs
__all__ = ["captured"]


def moved(x: np.ndarray) -> DeviceArray:
    """The array on the device."""
    device = current_device()
    memory = device.allocate(x.nbytes)
    device.run([device.upload(memory.address, as_bytes(x))])
    return DeviceArray(device, memory, x.dtype, x.shape)


@pytest.mark.parametrize("graphs", ("0", "1"))
def test_arrays_on_the_device_stay_there(
    graphs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JITSEQ_CUDA_GRAPHS", graphs)
    model = small()
    compiled = js.jit(model, backend="cuda")
    inputs = [sample(3) for _ in range(5)]
    found = [compiled(moved(x)) for x in inputs]
    for x, result in zip(inputs, found, strict=True):
        assert isinstance(result, DeviceArray)
        assert result.shape == (3, 3) and result.dtype == np.float32
        assert len(result) == 3 and result.ndim == 2 and result.size == 9
        assert result.__cuda_array_interface__["version"] == 3
        np.testing.assert_allclose(np.asarray(result), model(x), 1e-5, 1e-6)
        assert isinstance(compiled(x), np.ndarray)


def test_large_arrays_are_read_where_they_lie(
    monkeypatch: pytest.MonkeyPatch, captured: list[int]
) -> None:
    monkeypatch.setattr(bound, "COPIED_BYTES", 16)
    model = small()
    compiled = js.jit(model, backend="cuda")
    for _ in range(4):
        x = sample(3)
        result = compiled(moved(x))
        np.testing.assert_allclose(result.numpy(), model(x), 1e-5, 1e-6)
    assert captured == []


def test_arrays_of_both_kinds() -> None:
    compiled = js.jit(lambda a, b: a * b + a, backend="cuda")
    a, b = sample(3), sample(3)
    for first, second in ((moved(a), b), (a, moved(b)), (moved(a), moved(b))):
        result = compiled(first, second)
        assert isinstance(result, DeviceArray)
        np.testing.assert_allclose(result.numpy(), a * b + a, 1e-5, 1e-6)


def test_a_step_reads_arrays_on_the_device() -> None:
    losses = []
    x, y = sample(3), np.array([0, 2, 1])
    for arrays in ((x, y), (moved(x), moved(y))):
        model = small().train()
        optimizer = optim.SGD(model.parameters(), 0.1)
        step = js.train_step(model, nn.CrossEntropyLoss(), optimizer, backend="cuda")
        losses.append([step(*arrays) for _ in range(4)])
    assert losses[0] == losses[1]
    with pytest.raises(RangeError, match="label 7"):
        step(moved(x), moved(y + 7))


class Foreign:
    """An object of another library, with a stream of its own."""

    def __init__(self, x: np.ndarray, **changes: Any) -> None:
        self.array = moved(x)
        self.__cuda_array_interface__ = {
            **self.array.__cuda_array_interface__,
            "stream": 1,
            **changes,
        }


def test_the_stream_of_an_array_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    device, waits = current_device(), []
    for name in ("wait_for", "make_wait"):
        monkeypatch.setattr(
            device, name, lambda stream, name=name: waits.append((name, stream))
        )
    compiled, x = js.jit(small(), backend="cuda"), sample(2)
    compiled(Foreign(x, stream=None))
    assert waits == []
    compiled(Foreign(x))
    assert waits == [("wait_for", 1), ("make_wait", 1)]
    waits.clear()
    compiled(Foreign(x, version=2))
    assert waits == [("wait_for", 1), ("make_wait", 1)]


def test_strides_and_devices_that_do_not_fit() -> None:
    compiled, x = js.jit(small(), backend="cuda"), sample(2)
    np.testing.assert_allclose(
        compiled(Foreign(x, strides=(16, 4))).numpy(), small()(x), 1e-5, 1e-6
    )
    with pytest.raises(DeviceError, match="C-contiguous"):
        compiled(Foreign(x, strides=(4, 8)))
    elsewhere = Foreign(x)
    elsewhere.device = type("Device", (), {"id": 7})  # as cupy.ndarray.device
    with pytest.raises(DeviceError, match="another device"):
        compiled(elsewhere)

"""Arrays on the device, at the edge of a call: as arguments, and as results.

An object with ``__cuda_array_interface__`` (CuPy's, numba's, torch's tensors, jitseq's
own results) enters; a `DeviceInput` leaves, which kernels read where it lies. Results
come back in kind: torch tensors for torch tensors, a `DeviceArray` for others.
Invariant: kernels start behind what the array's own stream had to do, and that stream
goes on behind the kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jitseq.errors import DeviceError, DtypeError
from jitseq.nn.foreign import is_torch_tensor
from jitseq.runtime.cuda.device import Device, Memory, current_device
from jitseq.runtime.cuda.variables import as_bytes

LEGACY_STREAM = 1
"""The handle of the default stream, whose own handle is 0, in version 3."""


class DeviceArray:
    """A result on the device: C-contiguous, with ``__cuda_array_interface__``.

    ``numpy()`` copies it to the host; so does ``np.asarray``.
    """

    def __init__(
        self, device: Device, memory: Memory, dtype: Any, shape: tuple[int, ...]
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self._device = device
        self._memory = memory

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype.name})"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._memory.address, False),
            "strides": None,
            "stream": self._device.stream or LEGACY_STREAM,
            "version": 3,
        }

    def numpy(self) -> np.ndarray:
        """The elements, on the host."""
        host = np.empty(self.shape, self.dtype)
        return _downloaded(self._device, self._memory.address, host)

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self.numpy().item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self.numpy()
        return found if dtype is None else found.astype(dtype)


class DeviceInput:
    """An argument that lies on the device, with what a look-up of programs asks."""

    def __init__(
        self, address: int, dtype: Any, shape: tuple[int, ...], owner: Any, stream: Any
    ) -> None:
        self.address = address
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.owner = owner
        self.stream: int | None = stream
        """What has to be done before; None where nothing has."""

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(self.size * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        device = current_device()
        if self.stream is not None:
            device.wait_for(self.stream)
        host = np.empty(self.shape, self.dtype)
        return _downloaded(device, self.address, host)


def device_input(x: Any) -> DeviceInput:
    """``x`` as kernels can read it; copied on the device unless it is contiguous.

    Raises:
        DeviceError: it lies on another device than the one that programs use.
    """
    if is_torch_tensor(x):
        return _torch_input(x.detach())
    found = x.__cuda_array_interface__
    shape, dtype = tuple(found["shape"]), np.dtype(found["typestr"])
    if found.get("mask") is not None or not _is_contiguous(found, shape, dtype):
        raise DeviceError(
            "an array on the device must be C-contiguous, without a mask",
            facts={"shape": shape, "strides": found.get("strides")},
            hint="copy it first, for example with cupy.ascontiguousarray(x)",
        )
    _require_here(getattr(getattr(x, "device", None), "id", None))
    stream = found.get("stream") if found.get("version", 0) >= 3 else LEGACY_STREAM
    return DeviceInput(int(found["data"][0]), dtype, shape, x, stream)


def _torch_input(x: Any) -> DeviceInput:
    torch = sys.modules["torch"]
    _require_here(x.device.index)
    x = x.contiguous()
    stream = torch.cuda.current_stream(x.device).cuda_stream or LEGACY_STREAM
    try:
        dtype = np.dtype(str(x.dtype).removeprefix("torch."))
    except TypeError:
        raise DtypeError(
            f"a tensor of {x.dtype} has no NumPy equivalent",
            hint="convert it first, for example tensor.float()",
        ) from None
    return DeviceInput(int(x.data_ptr()), dtype, tuple(x.shape), x, int(stream))


def _is_contiguous(
    found: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> bool:
    strides, expected = found.get("strides"), dtype.itemsize
    for extent, stride in zip(reversed(shape), reversed(strides or ())):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def _require_here(number: Any) -> None:
    """Raise unless ``number`` is that of the device in use, or unknown."""
    own = current_device().number
    if number is not None and number != own:
        raise DeviceError(
            "an array lies on another device",
            facts={"the array's": number, "the programs'": own},
            hint="move it, or choose the device with CUDA_VISIBLE_DEVICES",
        )


def new_result(
    device: Device, kind: str, dtype: Any, shape: tuple[int, ...]
) -> tuple[Any, Memory]:
    """Memory for one result, "torch" or "device", and what holds it."""
    if kind == "torch":
        torch = sys.modules["torch"]
        name = np.dtype(dtype).name
        tensor = torch.empty(
            shape, dtype=getattr(torch, name), device=f"cuda:{device.number}"
        )
        size = tensor.numel() * tensor.element_size()
        return tensor, Memory(int(tensor.data_ptr()), size, tensor)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = device.allocate(size)
    return DeviceArray(device, memory, dtype, shape), memory


def streams_of(inputs: Sequence[Any]) -> list[int]:
    """The streams of the inputs on the device, each once."""
    found = (x.stream for x in inputs if isinstance(x, DeviceInput))
    return list(dict.fromkeys(s for s in found if s is not None))


def _downloaded(device: Device, address: int, host: np.ndarray) -> np.ndarray:
    flat = as_bytes(host)
    with device.lock:
        device.run([device.download(flat, address)])
        device.synchronize()
    return host

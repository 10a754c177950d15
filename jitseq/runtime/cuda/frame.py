"""The memory and the launches of a program for one batch size, made once.

Enter compiled grids and a number of images; the work of a call leaves as steps for the
device's stream. Invariant: the launches belong to the addresses for which they were
made, and are made again when one of those has moved; a captured graph is replayed only
for the same addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jitseq.config import setting
from jitseq.errors import UnsupportedError
from jitseq.ir.program import Call
from jitseq.ir.types import TensorType
from jitseq.runtime.cuda.device import Device, Place, Step
from jitseq.runtime.cuda.executable import GridExecutable

ALIGNMENT = 256
RUNS_BEFORE_CAPTURE = 2
MOST_ITEMS = 2**32
"""Numbers of items are divided in 32 bits."""


class Block:
    """Several arrays in one memory of the device, beside one of the host."""

    def __init__(
        self, device: Device, types: Sequence[TensorType], images: int
    ) -> None:
        self.offsets: list[int] = []
        self.shapes = [concrete_shape(type, images) for type in types]
        self.dtypes = [np.dtype(type.dtype) for type in types]
        end = 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            self.offsets.append(end)
            end += -(-int(np.prod(shape)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.memory = device.allocate(max(end, ALIGNMENT))
        self.host = device.pinned(max(end, ALIGNMENT))
        self.views = [
            self.host[start : start + int(np.prod(shape)) * dtype.itemsize]
            .view(dtype)
            .reshape(shape)
            for start, shape, dtype in zip(
                self.offsets, self.shapes, self.dtypes, strict=True
            )
        ]
        base = self.memory.address
        self.places = [
            Place(base + start, view.nbytes)
            for start, view in zip(self.offsets, self.views, strict=True)
        ]


class Frame:
    """What calls with one batch size share; one call at a time."""

    def __init__(
        self,
        code: GridExecutable,
        input_types: Sequence[TensorType],
        output_types: Sequence[TensorType],
        images: int,
    ) -> None:
        manifest, device = code.manifest, code.device
        self.code = code
        self.images = images
        self.inputs = Block(device, input_types, images)
        self.results = Block(device, output_types, images)
        self.scratch = device.allocate(max(manifest.image_bytes * images, ALIGNMENT))
        self.fixed = device.allocate(max(manifest.fixed_bytes, ALIGNMENT))
        self.calls = [call for call in manifest.calls if _takes_part(call, images)]
        self._places: tuple[Place, ...] | None = None
        self._steps: list[Step] = []
        self._runs = 0

    def own_memory(self) -> tuple[Place, Place]:
        """What kernels leave for each other: of each image, and in all."""
        return self.scratch.place, self.fixed.place

    def steps(self, places: Sequence[Place]) -> list[Step]:
        """The launches on these context slots, or the graph that was made of them."""
        if self._places != tuple(places):
            self._steps = self.launches(places)
            self._places, self._runs = tuple(places), 0
        self._runs += 1
        if self._runs == RUNS_BEFORE_CAPTURE + 1 and captures() and self._steps:
            self._steps = [self.code.device.capture(self._steps)]
        return self._steps

    def launches(self, places: Sequence[Place]) -> list[Step]:
        """One step for each call of the program."""
        return [self._launch(call, places) for call in self.calls]

    def _launch(self, call: Call, places: Sequence[Place]) -> Step:
        manifest, launch = self.code.manifest, call.launch
        assert launch is not None
        blocks = launch.blocks(self.images)
        if blocks * launch.items_per_block >= MOST_ITEMS:
            raise UnsupportedError(
                "this batch is too large for one call",
                facts={"images": self.images, "items of a kernel": launch.items},
                hint="pass it in parts",
            )
        buffers = []
        elements = manifest.elements[call.kernel]
        for argument, element in zip(call.arguments, elements, strict=True):
            scale = self.images if argument.space == "images" else 1
            address, size = places[argument.slot]
            start = argument.offset * scale
            buffers.append((address + start, element, size - start))
        kernel = self.code.kernels[call.kernel]
        count = self.images if call.count is None else call.count
        grid = (blocks, launch.rows)
        return self.code.device.launch(kernel, grid, launch.threads, buffers, count)


def captures() -> bool:
    """Whether launches are replayed as graphs."""
    return setting("JITSEQ_CUDA_GRAPHS", "1") != "0"


def concrete_shape(type: TensorType, images: int) -> tuple[int, ...]:
    return (images, *type.inner_shape) if type.has_batch else type.inner_shape


def _takes_part(call: Call, images: int) -> bool:
    assert call.launch is not None
    if images < call.least or (call.most is not None and images > call.most):
        return False
    return call.launch.blocks(images) > 0

"""A program of grids bound to variables: static values, memory for each batch size.

Enter the arrays of a call; its results leave. Invariants: nothing is changed before
all memory of a call has been allocated and all its values are on the device; static
values that are parameters are the ones that a training step changes, and `snapshot`
holds them as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jitseq.ir.graph import Graph, Value
from jitseq.ir.op import get_op
from jitseq.ir.text import value_names
from jitseq.ir.types import TensorType
from jitseq.ir.variable import Variable, mark_all_changed
from jitseq.passes.fusion_group import FusedGraph
from jitseq.runtime.cuda.arrays import DeviceInput, new_result, streams_of
from jitseq.runtime.cuda.device import Memory, Place, Step
from jitseq.runtime.cuda.executable import GridExecutable
from jitseq.runtime.cuda.frame import (
    Frame,
    captures,
    concrete_shape,
)
from jitseq.runtime.cuda.variables import as_bytes, device_copy

KEPT_FRAMES = 4
"""Batch sizes whose memory a program keeps."""

COPIED_BYTES = 16 << 20
"""Arrays on the device up to which a call copies them to where its graph reads them;
larger ones are read where they lie, and launched without a graph."""

Packed = tuple[Memory, ...]


class DeviceBound:
    """One program on one set of variables."""

    def __init__(
        self,
        fused: FusedGraph,
        code: GridExecutable,
        static: Mapping[str, Variable],
        changed: Sequence[Variable],
        output_types: Sequence[TensorType],
        epoch: int,
    ) -> None:
        self.fused = fused
        self.code = code
        self.device = code.device
        self.static = dict(static)
        self.changed = list(changed)
        self.input_types = [value.type for value in fused.graph.inputs]
        self.output_types = list(output_types)
        self._written = [(v, device_copy(self.device, v)) for v in self.changed]
        by_name = {name: value for value, name in value_names(fused.graph).items()}
        self._packs = [by_name[name] for name in code.manifest.packs]
        self._read = {
            value: (static[value.name], device_copy(self.device, static[value.name]))
            for value in self._packs
            if value in set(fused.graph.params)
        }
        self._frames: dict[int, Frame] = {}
        self._computed: dict[Value, Memory] = {}
        self._versions: tuple[int, ...] | None = None
        self.epoch = epoch
        """The process-wide epoch at which this was last known to be current."""
        self.refresh(epoch)

    # static values

    def refresh(self, epoch: int) -> None:
        """Compute again what depends on variables that have changed, if anything.

        ``epoch`` was read before the caller looked at the structure of the target.
        """
        versions = tuple(v.version for v in self.static.values())
        if versions != self._versions:
            self._compute()
            self._versions = versions
        self.epoch = epoch

    def _compute(self) -> None:
        """Static values that are no params, by the ops' references."""
        wanted = [value for value in self._packs if value not in self._read]
        if not wanted:
            return
        known = evaluate(self.fused.graph, wanted, self.static)
        with self.device.lock:
            computed = {}
            for value in wanted:
                host = np.ascontiguousarray(known[value])
                memory = computed[value] = self.device.allocate(host.nbytes)
                upload = self.device.upload(memory.address, as_bytes(host))
                self.device.run([upload])
            self.device.synchronize()  # ``known`` is freed
        self._computed = computed

    @property
    def packed(self) -> Packed:
        """The static values of now, those of variables shared with other programs."""
        return tuple(self._pack(value) for value in self._packs)

    def _pack(self, value: Value) -> Memory:
        if value in self._computed:
            return self._computed[value]
        variable, copy = self._read[value]
        return copy.current(variable)

    def snapshot(self) -> Packed:
        """The static values of now, in memory that nothing changes."""
        with self.device.lock:
            found = []
            for value in self._packs:
                source = self._pack(value)
                if value not in self._computed:
                    copy = self.device.allocate(source.size)
                    step = self.device.copy(copy.address, source.address, source.size)
                    self.device.run([step])
                    source = copy
                found.append(source)
            return tuple(found)

    # calls

    def fast_call(self, threads: int) -> None:
        """There is no native path."""

    def drop_fast(self) -> None:
        """There is no native path."""

    def batch(self, inputs: Sequence[Any]) -> int:
        """Images in the arrays of the first inputs."""
        for array, type in zip(inputs, self.input_types):
            if type.has_batch:
                return len(array)
        return 1

    def frame(self, images: int) -> Frame:
        """The memory for a batch size; that of the oldest others is given back."""
        found = self._frames.pop(images, None)
        while len(self._frames) >= KEPT_FRAMES:
            del self._frames[next(iter(self._frames))]
        if found is None:
            found = Frame(self.code, self.input_types, self.output_types, images)
        self._frames[images] = found
        return found

    def variable_places(self) -> list[Place]:
        """Where the variables lie that the program changes; their values are there."""
        return [copy.current(v).place for v, copy in self._written]

    def mark_written(self) -> None:
        """Kernels that change the variables have been told to run.

        Variables that somebody follows on the host get their values at once.
        """
        for variable, copy in self._written:
            copy.written(variable)
        try:
            for variable in self.changed:
                if type(variable).changed is not Variable.changed:
                    variable.current()
        finally:
            mark_all_changed(self.changed)

    def prepare(
        self, inputs: Sequence[Any], images: int, packed: Packed | None, kind: str
    ) -> Work:
        """All that can fail before a call: memory, values on the device, launches."""
        frame = self.frame(images)
        work = Work(self, frame, inputs, kind)
        work.places += self.variable_places()
        packed = self.packed if packed is None else packed
        work.places += [memory.place for memory in packed]
        work.places += frame.own_memory()
        work.packed = packed
        work.kernels = (
            frame.steps(work.places) if work.repeats else frame.launches(work.places)
        )
        return work


class Work:
    """One call: steps before its kernels, the kernels, and steps behind them.

    ``kind`` of the results is "numpy", "torch" or "device".
    """

    def __init__(
        self, bound: DeviceBound, frame: Frame, inputs: Sequence[Any], kind: str
    ) -> None:
        self.bound, self.frame, self.kind = bound, frame, kind
        self.before: list[Step] = []
        self.kernels: list[Step] = []
        self.behind: list[Step] = []
        self.packed: Packed | None = None
        self.streams = streams_of(inputs)
        self._kept = inputs
        foreign = [x for x in inputs if isinstance(x, DeviceInput)]
        moved = sum(x.nbytes for x in foreign)
        if kind != "numpy":
            moved += sum(view.nbytes for view in frame.results.views)
        self.repeats = moved == 0 or (captures() and moved <= COPIED_BYTES)
        """Whether the addresses are those of the frame, as in its other calls."""
        self.places = self._inputs(inputs)
        self.outputs = self._results()

    def _inputs(self, inputs: Sequence[Any]) -> list[Place]:
        """Arrays of the host go to the frame's memory, all together if they can."""
        device, block = self.bound.device, self.frame.inputs
        places, hosted = [], []
        for index, x in enumerate(inputs):
            place = block.places[index]
            if not isinstance(x, DeviceInput):
                block.views[index][...] = x
                hosted.append(index)
            elif self.repeats:
                self.before.append(device.copy(place.address, x.address, x.nbytes))
            else:
                place = Place(x.address, x.nbytes)
            places.append(place)
        if len(hosted) == len(places):
            self.before.append(device.upload(block.memory.address, block.host))
            return places
        for index in hosted:
            view = as_bytes(block.views[index])
            self.before.append(device.upload(places[index].address, view))
        return places

    def _results(self) -> list[Any]:
        """Places of results, and what will hold those that stay on the device."""
        device, block, outputs = self.bound.device, self.frame.results, []
        for index, type in enumerate(self.bound.output_types):
            place = block.places[index]
            if self.kind != "numpy":
                shape = concrete_shape(type, self.frame.images)
                output, memory = new_result(device, self.kind, type.dtype, shape)
                outputs.append(output)
                if self.repeats:
                    source, size = place.address, place.size
                    self.behind.append(device.copy(memory.address, source, size))
                else:
                    place = memory.place
            self.places.append(place)
        if self.kind == "numpy" and self.bound.output_types:
            self.behind.append(device.download(block.host, block.memory.address))
        return outputs

    def run(self) -> None:
        """Put everything on the stream; return when results of the host are there."""
        device = self.bound.device
        for stream in self.streams:
            device.wait_for(stream)
        device.run([*self.before, *self.kernels, *self.behind])
        for stream in self.streams:
            device.make_wait(stream)
        if self.kind == "numpy" or any(
            not isinstance(x, DeviceInput) for x in self._kept
        ):
            device.synchronize()  # the next call writes to the same memory of the host
        if self.kind == "numpy":
            self.outputs = [np.array(view) for view in self.frame.results.views]


def evaluate(
    graph: Graph, wanted: Sequence[Value], variables: Mapping[str, Variable]
) -> dict[Value, np.ndarray]:
    """Values that depend on params only, with those that lead to them."""
    producers, known = graph.producers(), {}
    pending = list(wanted)
    with np.errstate(all="ignore"):
        while pending:
            value = pending[-1]
            node = producers.get(value)
            missing = [v for v in node.inputs if v not in known] if node else []
            if missing:
                pending += missing
                continue
            pending.pop()
            if node is None:
                known[value] = variables[value.name].numpy()
            elif value not in known:
                inputs = [known[v] for v in node.inputs]
                known[value] = get_op(node.op).reference(*inputs, **node.attrs)
    return known

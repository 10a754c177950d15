"""PyTorch on a GPU: eager, compiled, replayed as a CUDA graph; each with TF32 too.

A zoo model or a training task enters; a call leaves whose inputs, parameters and
results stay on the device. Invariants: TF32, with which matrix products round their
operands to 11 bits, is on for no contestant but those that are named after it;
cuDNN chooses its algorithms by measuring them; a captured step leaves parameters and
optimiser as they were.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.export import to_torch
from benchmarks.peers import Call, installed_version
from benchmarks.train_peers import Stepper, TorchTrainer
from benchmarks.train_task import Task
from jitseq import nn

WARM_UPS = 3
"""Runs in front of a capture, in which libraries choose algorithms and get memory."""


@dataclass(frozen=True)
class GpuPeer:
    """One way of running PyTorch; ``place`` below is a torch device.

    Images are in PyTorch's default memory format; with TF32 they are channels-last,
    the order in which tensor cores read them.
    """

    name: str
    compiled: bool = False
    captured: bool = False
    tf32: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        return ("torch", "triton") if self.compiled else ("torch",)

    def missing(self) -> str | None:
        """What keeps this peer from running here, or None."""
        for package in self.packages:
            if installed_version(package) is None:
                return f"{package} is not installed"
        if self.compiled and not has_c_compiler():
            return "no C compiler was found"
        return None

    def infer(self, model: nn.Sequential, x: np.ndarray, place: str) -> Call:
        """A call that gives the outputs as a tensor on the device."""
        import torch

        self.choose_algorithms()
        twin, given = to_torch(model).to(place), torch.from_numpy(x).to(place)
        if self.tf32 and x.ndim == 4:
            twin = twin.to(memory_format=torch.channels_last)
            given = given.contiguous(memory_format=torch.channels_last)
        function = torch.compile(twin) if self.compiled else twin

        def call() -> Any:
            with torch.no_grad():
                return function(given)

        return captured(call) if self.captured else call

    def train(self, task: Task, place: str) -> Stepper:
        """Steps that read their loss, as every contestant does."""
        self.choose_algorithms()
        trainer = TorchTrainer.make(task, place, self.tf32 and task.x.ndim == 4)
        if self.compiled:
            trainer = trainer.compiled()
        step = trainer.step
        if self.captured:
            step = captured(step, restorer(trainer))
        return Stepper(lambda: float(step().item()), trainer.state)

    def choose_algorithms(self) -> None:
        import torch

        torch.backends.cudnn.benchmark = True
        use_tf32(self.tf32)


def use_tf32(on: bool) -> None:
    """Let products and convolutions of the calls that follow use TF32, or not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def captured(run: Call, restore: Callable[[], None] | None = None) -> Call:
    """A call that replays the kernels of one ``run()``, and gives its result.

    ``restore()`` undoes what the runs in front of the capture did. The capture itself
    runs nothing.
    """
    import torch

    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    cuda.current_stream().wait_stream(side)
    if restore is not None:
        restore()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def restorer(trainer: TorchTrainer) -> Callable[[], None]:
    """Puts back what parameters and buffers hold now, and forgets the momentum.

    In the same memory, which a graph refers to; a velocity of zero makes the next step
    the same as a first one.
    """
    import torch

    tensors = [*trainer.twin.parameters(), *trainer.twin.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
            for state in trainer.optimizer.state.values():
                state["momentum_buffer"].zero_()

    return restore


def has_c_compiler() -> bool:
    """Whether torch.compile would find the compiler with which it launches kernels."""
    return any(shutil.which(c) for c in (os.environ.get("CC"), "gcc", "clang") if c)


FLOAT32 = (
    GpuPeer("torch"),
    GpuPeer("torch.compile", compiled=True),
    GpuPeer("torch graphs", captured=True),
    GpuPeer("compile graphs", compiled=True, captured=True),
)
TF32 = (
    GpuPeer("torch TF32", tf32=True),
    GpuPeer("compile TF32", compiled=True, tf32=True),
    GpuPeer("graphs TF32", captured=True, tf32=True),
    GpuPeer("compile graphs TF32", compiled=True, captured=True, tf32=True),
)
GPU_PEERS = FLOAT32 + TF32

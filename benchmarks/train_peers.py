"""Whole training steps of jitseq and of its peers, each behind the same two calls.

A `Task` and a number of threads enter ``prepare``; a `Stepper` leaves. Invariant: each
peer gets its best reasonable form: one compiled step where it has such a thing, fused
updates, inputs in its own arrays beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jitseq as js
from benchmarks.export import to_torch
from benchmarks.peers import has_cpp_compiler, installed_version
from benchmarks.train_jax import prepare_jax, uncovered_by_jax
from benchmarks.train_task import MOMENTUM, RATE, State, Task
from jitseq import nn, optim
from jitseq.runtime.report import Profile


@dataclass(frozen=True)
class Stepper:
    """``step()`` trains by one step and gives the loss; ``state()`` the parameters.

    ``profile()`` measures the kernels of a step, where the contestant is jitseq.
    """

    step: Callable[[], float]
    state: Callable[[], State]
    profile: Callable[[], Profile] | None = None


@dataclass(frozen=True)
class TrainPeer:
    """``packages`` must be installed; ``prepare(task, threads)`` gives the stepper."""

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[Task, int], Stepper]
    uncovered: Callable[[Task], str | None] = lambda task: None
    """Why this peer does not run a task, or None."""

    def missing(self) -> str | None:
        """What keeps this peer from running here, or None."""
        for package in self.packages:
            if installed_version(package) is None:
                return f"{package} is not installed"
        if self.name == "torch.compile" and not has_cpp_compiler():
            return "no C++ compiler was found"
        return None


def prepare_jitseq(
    task: Task, threads: int | None, backend: str, place: str | None = None
) -> Stepper:
    """``place`` is the torch device on which inputs lie; without one, on the host."""
    model = task.model()
    loss = nn.CrossEntropyLoss() if task.loss == "cross_entropy" else nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    step = js.train_step(model, loss, optimizer, backend=backend, threads=threads)
    x, y = (task.x, task.y) if place is None else tensors(task, place)

    def state() -> State:
        return {name: p.numpy().copy() for name, p in model.named_parameters()}

    return Stepper(lambda: float(step(x, y)), state, partial(step.profile, x, y))


def tensors(task: Task, place: str) -> tuple[Any, Any]:
    """Inputs and targets as torch tensors on the device ``place``."""
    import torch

    return torch.from_numpy(task.x).to(place), torch.from_numpy(task.y).to(place)


def prepare_torch(task: Task, threads: int) -> Stepper:
    """PyTorch as it is written: eager, images in its default memory format."""
    return torch_stepper(task, threads)


def prepare_torch_channels_last(task: Task, threads: int) -> Stepper:
    """The same on images that are channels-last, which is faster for most models."""
    return torch_stepper(task, threads, channels_last=True)


def without_images(task: Task) -> str | None:
    return None if task.x.ndim == 4 else "its inputs are not images"


def prepare_torch_compile(task: Task, threads: int) -> Stepper:
    """Forward, loss and backward compiled together, images channels-last."""
    return torch_stepper(task, threads, task.x.ndim == 4, compiled=True)


def torch_stepper(
    task: Task, threads: int, channels_last: bool = False, compiled: bool = False
) -> Stepper:
    import torch

    torch.set_num_threads(threads)
    trainer = TorchTrainer.make(task, "cpu", channels_last)
    if compiled:
        torch.compiler.reset()
        trainer = trainer.compiled()
    return Stepper(lambda: float(trainer.step().item()), trainer.state)


@dataclass(frozen=True)
class TorchTrainer:
    """The parts of a training step in PyTorch, all on one device."""

    twin: Any
    x: Any
    y: Any
    loss_of: Callable[[Any, Any], Any]
    optimizer: Any

    @classmethod
    def make(cls, task: Task, place: str, channels_last: bool) -> TorchTrainer:
        """``place`` is a torch device, ``channels_last`` the format of the images."""
        import torch

        twin = to_torch(task.model()).train().to(place)
        x, y = tensors(task, place)
        if channels_last:
            twin = twin.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
            if y.ndim == 4:
                y = y.contiguous(memory_format=torch.channels_last)
        functions = torch.nn.functional
        losses: dict[str, Any] = {
            "cross_entropy": functions.cross_entropy,
            "mse": functions.mse_loss,
        }
        criterion = losses[task.loss]
        optimizer = torch.optim.SGD(
            twin.parameters(), lr=RATE, momentum=MOMENTUM, fused=True
        )
        return cls(twin, x, y, lambda x, y: criterion(twin(x), y), optimizer)

    def compiled(self) -> TorchTrainer:
        """Forward, loss and backward as one compiled function."""
        import torch

        return replace(self, loss_of=torch.compile(self.loss_of))

    def step(self) -> Any:
        """Trains by one step; the loss, as a tensor on the device."""
        self.optimizer.zero_grad()
        loss = self.loss_of(self.x, self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> State:
        named = self.twin.named_parameters()
        return {key: p.detach().cpu().numpy().copy() for key, p in named}


TRAIN_PEERS = (
    TrainPeer("torch", ("torch",), prepare_torch),
    TrainPeer("torch nhwc", ("torch",), prepare_torch_channels_last, without_images),
    TrainPeer("torch.compile", ("torch",), prepare_torch_compile),
    TrainPeer(
        "jax",
        ("jax", "jaxlib"),
        lambda task, threads: Stepper(*prepare_jax(task, threads)),
        uncovered_by_jax,
    ),
)

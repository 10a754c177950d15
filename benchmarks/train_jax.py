"""The zoo's training step in JAX: one jitted function of parameters and velocities.

A `Task` enters; two calls leave, as in `benchmarks.train_peers.Stepper`. Images are
``n, h, w, c`` and weights ``h, w, i, o``, which XLA's convolutions on CPUs are fastest
with; parameters and velocities are donated, so updates happen in place. Batch-norm and
dropout, whose state JAX leaves to other libraries, are not covered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.export import pair
from benchmarks.train_task import MOMENTUM, RATE, State, Task
from jitseq import nn

UNCOVERED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.AdaptiveAvgPool2d)

Apply = Callable[[Any, dict[str, Any]], Any]
"""``apply(x, {"weight": …, "bias": …})`` of one layer."""


def uncovered_by_jax(task: Task) -> str | None:
    """Which layer keeps a task from running in JAX, or None."""
    for layer in task.model().modules():
        if isinstance(layer, UNCOVERED):
            return f"{type(layer).__name__} is not written in JAX here"
    return None


def import_jax(threads: int) -> Any:
    """JAX on so many threads; the first import in the process decides.

    With one, a step of ``cnn32`` at batch 64 still kept 1.3 processors busy.
    """
    if "jax" not in sys.modules:
        flags = [os.environ.get("XLA_FLAGS", "")]
        if threads == 1:
            flags.append("--xla_cpu_multi_thread_eigen=false")
            flags.append("intra_op_parallelism_threads=1")
        os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
        os.environ["NPROC"] = str(threads)
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    return jax


def prepare_jax(
    task: Task, threads: int
) -> tuple[Callable[[], float], Callable[[], State]]:
    """``step`` and ``state``; see `benchmarks.train_peers.Stepper`."""
    jax = import_jax(threads)
    model = task.model()
    layers = dict(model.named_children())
    applied = {name: layer_function(layer, jax) for name, layer in layers.items()}
    kinds = {
        f"{name}.{key}": type(layer).__name__
        for name, layer in layers.items()
        for key in layer.state_dict()
    }
    given = {name: p.numpy() for name, p in model.named_parameters()}
    images = task.x.ndim == 4

    def loss_of(params: dict[str, Any], x: Any, y: Any) -> Any:
        for name, apply in applied.items():
            own = (key for key in params if key.rpartition(".")[0] == name)
            x = apply(x, {key.rpartition(".")[2]: params[key] for key in own})
        if task.loss == "mse":
            return jax.numpy.mean((x - y) ** 2)
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1)
        return -jax.numpy.mean(chosen)

    def update(params: Any, velocity: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)
        return params, velocity, loss

    train = jax.jit(update, donate_argnums=(0, 1))
    own = {name: to_jax(value, kinds[name]) for name, value in given.items()}
    params = {name: jax.device_put(value) for name, value in own.items()}
    held = [params, jax.tree.map(jax.numpy.zeros_like, params)]
    x = jax.device_put(channels_last(task.x) if images else task.x)
    y = jax.device_put(channels_last(task.y) if task.y.ndim == 4 else task.y)

    def step() -> float:
        held[0], held[1], loss = train(*held, x, y)
        jax.block_until_ready(held)
        return float(loss)

    def state() -> State:
        return {k: from_jax(np.array(v), kinds[k]) for k, v in held[0].items()}

    return step, state


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def to_jax(value: np.ndarray, kind: str) -> np.ndarray:
    """A parameter as `layer_function` reads it; `from_jax` is the way back."""
    if value.ndim < 2:
        return np.array(value)
    if kind == "Linear":
        return np.ascontiguousarray(value.T)
    order = (2, 3, 0, 1) if kind == "ConvTranspose2d" else (2, 3, 1, 0)
    value = value.transpose(order)
    flipped = value[::-1, ::-1] if kind == "ConvTranspose2d" else value
    return np.ascontiguousarray(flipped)


def from_jax(value: np.ndarray, kind: str) -> np.ndarray:
    if value.ndim < 2:
        return value
    if kind == "Linear":
        return value.T
    if kind == "ConvTranspose2d":
        return value[::-1, ::-1].transpose(2, 3, 0, 1)
    return value.transpose(3, 2, 0, 1)


def layer_function(layer: Any, jax: Any) -> Apply:
    """One layer of the zoo, on images ``n, h, w, c``."""
    kind = type(layer).__name__
    if kind in ("Conv2d", "ConvTranspose2d"):
        return convolution(layer, jax)
    if kind in ("MaxPool2d", "AvgPool2d"):
        return pooling(layer, jax)
    functions: dict[str, Apply] = {
        "Linear": lambda x, p: x @ p["weight"] + p["bias"],
        "ReLU": lambda x, p: jax.nn.relu(x),
        "Tanh": lambda x, p: jax.numpy.tanh(x),
        "Sigmoid": lambda x, p: jax.nn.sigmoid(x),
        "Softmax": lambda x, p: jax.nn.softmax(x, axis=1),
        "Flatten": lambda x, p: x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1),
    }
    return functions[kind]


def convolution(layer: Any, jax: Any) -> Apply:
    """A convolution, or its transpose: one with its input spread by the stride."""
    kernel, stride, padding = map(
        pair, (layer.kernel_size, layer.stride, layer.padding)
    )
    dilation = pair(layer.dilation)
    options: dict[str, Any] = {"window_strides": stride}
    pads = [(p, p) for p in padding]
    if type(layer).__name__ == "ConvTranspose2d":
        options = {"window_strides": (1, 1), "lhs_dilation": stride}
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        extra = pair(layer.output_padding)
        pads = [
            (r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True)
        ]

    def apply(x: Any, p: dict[str, Any]) -> Any:
        y = jax.lax.conv_general_dilated(
            x,
            p["weight"],
            padding=pads,
            rhs_dilation=dilation,
            feature_group_count=layer.groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            **options,
        )
        return y + p["bias"] if "bias" in p else y

    return apply


def pooling(layer: Any, jax: Any) -> Apply:
    kernel, padding = pair(layer.kernel_size), pair(layer.padding)
    window, strides = (1, *kernel, 1), (1, *pair(layer.stride), 1)
    pads = ((0, 0), *((p, p) for p in padding), (0, 0))
    largest = type(layer).__name__ == "MaxPool2d"

    def apply(x: Any, p: dict[str, Any]) -> Any:
        if largest:
            return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, strides, pads)
        total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, pads)
        return total / (kernel[0] * kernel[1])

    return apply

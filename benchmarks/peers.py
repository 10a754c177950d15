"""The libraries that jitseq is measured against, each behind the same two calls.

A zoo model and an input enter ``prepare``; a zero-argument callable that computes the
outputs leaves, with everything that can be done beforehand done beforehand. Invariant:
each peer gets its best reasonable form: fixed shapes, its own input type bound
beforehand where it allows that, and as many threads as jitseq.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from benchmarks.export import to_onnx, to_torch
from jitseq import nn

Call = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """``packages`` must be installed; ``prepare(model, x, threads)`` gives the call."""

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[nn.Sequential, np.ndarray, int], Call]

    def missing(self) -> str | None:
        """What keeps this peer from running here, or None."""
        for package in self.packages:
            if installed_version(package) is None:
                return f"{package} is not installed"
        if self.name == "torch.compile" and not has_cpp_compiler():
            return "no C++ compiler was found"
        return None


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def has_cpp_compiler() -> bool:
    """Whether torch.compile would find the compiler that it needs."""
    return any(shutil.which(c) for c in (os.environ.get("CXX"), "g++", "clang++") if c)


def prepare_torch(model: nn.Sequential, x: np.ndarray, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    return _without_gradients(to_torch(model), torch.from_numpy(x))


def prepare_torch_compile(model: nn.Sequential, x: np.ndarray, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    torch.compiler.reset()
    call = _without_gradients(torch.compile(to_torch(model)), torch.from_numpy(x))
    call()
    return call


def _without_gradients(twin: Any, x: Any) -> Call:
    import torch

    def call() -> Any:
        with torch.inference_mode():
            return twin(x)

    return call


def prepare_onnxruntime(model: nn.Sequential, x: np.ndarray, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_free_dimension_override_by_name("n", len(x))
    session = onnxruntime.InferenceSession(
        to_onnx(model, x.shape[1:]), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": x}
    return lambda: session.run(None, feed)[0]


def prepare_openvino(model: nn.Sequential, x: np.ndarray, threads: int) -> Call:
    import openvino

    core = openvino.Core()
    network = core.read_model(to_onnx(model, x.shape[1:]), b"")
    network.reshape(list(x.shape))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    return lambda: request.infer(share_outputs=True)[0]


PEERS = (
    Peer("torch", ("torch",), prepare_torch),
    Peer("torch.compile", ("torch",), prepare_torch_compile),
    Peer("onnxruntime", ("onnx", "onnxruntime"), prepare_onnxruntime),
    Peer("openvino", ("onnx", "openvino"), prepare_openvino),
)

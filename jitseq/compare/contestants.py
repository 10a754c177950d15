"""Everybody who can run a model: the backends, and the libraries beside them.

A compiled callable and arrays enter; a zero-argument call for each contestant leaves,
with everything done beforehand that can be. Invariants: a library that is missing, or
does not cover the model, is an error before anything is timed; the caller's model is
never trained, only copies of it are.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jitseq import nn
from jitseq.compare.timing import Call
from jitseq.errors import JitseqError, UnsupportedError
from jitseq.optim.optimizer import Optimizer
from jitseq.runtime.arguments import BACKENDS
from jitseq.runtime.compiled import Compiled
from jitseq.runtime.following import CompiledFollowing
from jitseq.runtime.training import TrainStep

LIBRARIES = ("torch", "torch.compile", "onnxruntime", "openvino", "jax")
TRAINED = ("torch", "torch.compile")
"""Libraries that training steps are written in here."""

Loss = Callable[[Any, Any], Any]
OptimizerFactory = Callable[[Any], Optimizer]
State = dict[str, np.ndarray]


def checked_names(names: Sequence[str], training: bool) -> list[str]:
    """Each name once.

    Raises:
        UnsupportedError: one is neither a backend nor a library that can do this.
        JitseqError: a package is missing.
    """
    known = (*BACKENDS, *(TRAINED if training else LIBRARIES))
    for name in names:
        if name not in known:
            what = "train with" if training else "run"
            raise UnsupportedError(
                f"benchmark: cannot {what} {name!r}", hint=f"one of {', '.join(known)}"
            )
        if name in LIBRARIES:
            _require(name)
    return list(dict.fromkeys(names))


def _require(name: str) -> None:
    """Raise `JitseqError` unless everything that a library needs is there."""
    peers = _benchmarks("peers")
    packages = {"jax": ("jax", "jaxlib")}
    found = {peer.name: peer for peer in peers.PEERS}
    reason = None
    if name in found:
        reason = found[name].missing()
    else:
        absent = [p for p in packages[name] if peers.installed_version(p) is None]
        reason = f"{absent[0]} is not installed" if absent else None
    if reason is not None:
        raise JitseqError(
            f"benchmark: {name} cannot run: {reason}",
            hint="install it, or leave it out of against=",
        )


def _benchmarks(module: str) -> Any:
    """A module of the benchmarks, which are beside the package.

    Raises `JitseqError` where they are not.
    """
    try:
        return importlib.import_module(f"benchmarks.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", f"benchmarks.{module}"):
            raise
        raise JitseqError(
            "benchmark: what runs other libraries is not installed beside jitseq",
            hint="install jitseq with its benchmarks, or compare backends only",
        ) from None


@contextmanager
def limited(names: Sequence[str], threads: int) -> Iterator[None]:
    """NumPy's products on so many threads, where threadpoolctl is installed.

    Afterwards torch has the number of threads that it had before.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        blas: AbstractContextManager[Any] = nullcontext()
    else:
        blas = threadpool_limits(threads, user_api="blas")
    with blas:
        if not {"torch", "torch.compile"} & {*names}:
            yield
            return
        import torch

        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)


# calls


def inference_call(
    name: str, compiled: Compiled, arrays: Sequence[np.ndarray], threads: int
) -> Call:
    """One contestant's call on the arrays.

    Raises `UnsupportedError` for a model that a library does not cover.
    """
    if name in BACKENDS:
        options = {**compiled.options, "backend": name, "threads": threads}
        return partial(type(compiled)(compiled.target, **options), *arrays)
    if isinstance(compiled, CompiledFollowing) and name in ("torch", "torch.compile"):
        module: Any = compiled.target
        return _torch_call(module.module, arrays, threads, name == "torch.compile")
    model = _sequential(name, compiled, arrays)
    if name == "jax":
        return _jax_call(model, arrays[0], threads)
    found = {peer.name: peer for peer in _benchmarks("peers").PEERS}
    call: Call = found[name].prepare(model, arrays[0], threads)
    return call


def _sequential(
    name: str, compiled: Compiled, inputs: Sequence[np.ndarray]
) -> nn.Sequential:
    model = compiled.target
    if isinstance(compiled, CompiledFollowing):
        model = model.twin  # type: ignore[attr-defined]
    if not isinstance(model, nn.Sequential) or len(inputs) != 1:
        raise UnsupportedError(
            f"benchmark: {name} runs an nn.Sequential of one input, got "
            f"{type(model).__name__} of {len(inputs)}",
            hint="compare backends only, or give the torch module itself",
        )
    return model


def _torch_call(
    module: Any, arrays: Sequence[np.ndarray], threads: int, compile: bool
) -> Call:
    import torch

    torch.set_num_threads(threads)
    inputs = [torch.from_numpy(array) for array in arrays]
    if compile:
        torch.compiler.reset()
        module = torch.compile(module)

    def call() -> Any:
        with torch.inference_mode():
            return module(*inputs)

    return call


def _jax_call(model: nn.Sequential, x: np.ndarray, threads: int) -> Call:
    """One jitted function of the input, parameters on the device."""
    written = _benchmarks("train_jax")
    jax = written.import_jax(threads)
    layers = dict(model.named_children())
    for layer in layers.values():
        if isinstance(layer, written.UNCOVERED):
            raise UnsupportedError(
                f"benchmark: {type(layer).__name__} is not written in JAX here",
                hint="leave jax out of against=",
            )
    functions = {name: written.layer_function(x, jax) for name, x in layers.items()}
    params = {
        name: {
            key: jax.device_put(written.to_jax(np.array(v), type(layer).__name__))
            for key, v in layer.state_dict().items()
        }
        for name, layer in layers.items()
    }

    def forward(params: Any, x: Any) -> Any:
        for name, apply in functions.items():
            x = apply(x, params[name])
        return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x

    compiled = jax.jit(forward)
    given = jax.device_put(written.channels_last(x) if x.ndim == 4 else x)
    return lambda: jax.block_until_ready(compiled(params, given))


# training steps


@dataclass(frozen=True)
class Stepper:
    """``step()`` trains a copy by one step and gives the loss."""

    step: Callable[[], float]
    state: Callable[[], State]


def stepper(
    name: str,
    compiled: Compiled,
    arrays: Sequence[np.ndarray],
    loss: Loss,
    factory: OptimizerFactory,
    threads: int,
    dropout: bool,
) -> Stepper:
    """One contestant's training step on a fresh copy in training mode.

    ``arrays`` are inputs and, last, what the loss compares the result with;
    without ``dropout``, layers of that name keep every element.
    Raises `UnsupportedError` for a target without parameters of its own.
    """
    target = compiled.target
    if not isinstance(target, nn.Module):
        raise UnsupportedError(
            f"benchmark: trains an nn.Module, got {type(target).__name__}",
            hint="wrap a function in a module; copy a torch module with "
            "jitseq.interop.torch.from_torch",
        )
    model = copy.deepcopy(target).train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout) and not dropout:
            layer.p = 0.0
    optimizer = factory(model.parameters())
    if name in LIBRARIES:
        _sequential(name, compiled, arrays[:-1])
        fast = name == "torch.compile"
        return _torch_stepper(model, arrays, loss, optimizer, threads, fast)
    options = {**compiled.options, "backend": name, "threads": threads}
    step = TrainStep(model, loss, optimizer, **options)

    def state() -> State:
        return {key: p.numpy().copy() for key, p in model.named_parameters()}

    return Stepper(lambda: float(step(*arrays)), state)


def _torch_stepper(
    model: nn.Module,
    arrays: Sequence[np.ndarray],
    loss: Loss,
    optimizer: Optimizer,
    threads: int,
    compile: bool,
) -> Stepper:
    import torch

    torch.set_num_threads(threads)
    twin = _benchmarks("export").to_torch(model).train()
    criterion = _of_torch(torch.nn, loss, vars(loss))
    if len(optimizer.param_groups) != 1:
        raise UnsupportedError("benchmark: torch trains one group of parameters here")
    (group,) = optimizer.param_groups
    rule = _of_torch(torch.optim, optimizer, group, twin.parameters())
    x, y = map(torch.from_numpy, arrays)

    def loss_of(x: Any, y: Any) -> Any:
        return criterion(twin(x), y)

    if compile:
        torch.compiler.reset()
    computed: Callable[..., Any] = torch.compile(loss_of) if compile else loss_of

    def step() -> float:
        rule.zero_grad()
        value = computed(x, y)
        value.backward()
        rule.step()
        return float(value.item())

    def state() -> State:
        named = twin.named_parameters()
        return {key: p.detach().numpy().copy() for key, p in named}

    return Stepper(step, state)


def _of_torch(place: Any, own: Any, options: Any, *first: Any) -> Any:
    """Torch's class of the same name, with those of the options that it takes."""
    kind = getattr(place, type(own).__name__, None)
    if kind is None:
        raise UnsupportedError(f"benchmark: torch has no {type(own).__name__}")
    names = set(inspect.signature(kind).parameters) - {"params", "weight", "pos_weight"}
    unable = [n for n in ("weight", "pos_weight") if _buffer(own, n) is not None]
    if unable:
        raise UnsupportedError(f"benchmark: torch's loss has no {unable[0]} here")
    return kind(*first, **{n: v for n, v in options.items() if n in names})


def _buffer(own: Any, name: str) -> Any:
    return getattr(own, name, None) if isinstance(own, nn.Module) else None

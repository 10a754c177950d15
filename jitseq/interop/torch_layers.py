"""Torch modules as jitseq modules: layers, containers, and forwards of their own.

A `torch.nn.Module` enters; a jitseq module with the same names leaves. Invariant: the
conversion never changes the torch module and draws no random numbers; parameters and
buffers come from the ``variable`` function alone, so that whoever converts decides
whether they are copies or follow the tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from jitseq import nn
from jitseq.errors import JitseqError, UnsupportedError
from jitseq.interop.torch_forward import ForwardGraph, called_modules, forward_graph
from jitseq.ir.variable import Variable, advance_epoch
from jitseq.nn.init import generator

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
NOT_OPTIONS = frozenset({"self", "device", "dtype"})

MakeVariable = Callable[[torch.Tensor, str, bool], Variable]
"""The variable of a tensor, given its path and whether a state dict holds it."""


class Container(nn.Module):
    """Holds children and parameters for the module around it; never called."""


class Conversion:
    """One conversion; shared modules are converted once."""

    def __init__(self, variable: MakeVariable) -> None:
        self._variable = variable
        self._done: dict[int, nn.Module] = {}

    def module(self, source: torch.nn.Module, path: str = "") -> nn.Module:
        """Convert ``source``, which stands at ``path`` in the model.

        Raises `UnsupportedError` and `DtypeError`, naming the layer by its path.
        """
        if id(source) in self._done:
            return self._done[id(source)]
        try:
            twin = self._convert(source, path)
        except JitseqError as error:
            place = f"model.{path}" if path else "model"
            error.facts.setdefault("at", f"{place}  {_first_line(source)}")
            raise
        self._done[id(source)] = twin
        return twin

    def _convert(self, source: torch.nn.Module, path: str) -> nn.Module:
        _refuse_changed_calls(source)
        known = layer_class(source)
        if known is not None:
            return self._layer(source, known, path)
        if type(source).forward is torch.nn.Sequential.forward:
            twin: nn.Module = nn.Sequential()
            self._state(source, twin, path)
            for name, child in source._modules.items():
                twin._modules[name] = child and self.module(child, _join(path, name))
            return _with_mode(twin, source)
        return self._own_forward(source, path)

    def _layer(
        self, source: torch.nn.Module, known: type[nn.Module], path: str
    ) -> nn.Module:
        with _generator_untouched():
            twin = known(**options_of(source, known))
        self._state(source, twin, path)
        return _with_mode(twin, source)

    def _own_forward(self, source: torch.nn.Module, path: str) -> nn.Module:
        name = type(source).__name__
        twin = type(name, (ForwardGraph,), {"__doc__": f"Torch's {name}."})()
        try:
            graph = forward_graph(source)
            self._fill(source, twin, path, called_modules(graph))
            twin.complete(graph, lambda target: self._constant(source, target, path))
        except UnsupportedError as error:
            if type(source).__module__.startswith("torch.nn."):
                raise UnsupportedError(
                    f"torch.nn.{name} is not covered",
                    facts={"because": error.message},
                    hint="build the model from layers that jitseq.nn has",
                ) from error
            raise
        return _with_mode(twin, source)

    def _fill(
        self, source: torch.nn.Module, twin: nn.Module, path: str, called: set[str]
    ) -> None:
        """State and children; ``called`` are the paths below that forward calls."""
        self._state(source, twin, path)
        for name, child in source._modules.items():
            below = _join(path, name)
            if child is None:
                twin._modules[name] = None
            elif name in called:
                twin._modules[name] = self.module(child, below)
            else:
                inside = {p.removeprefix(f"{name}.") for p in called if f"{name}." in p}
                twin._modules[name] = self._container(child, below, inside)

    def _container(
        self, source: torch.nn.Module, path: str, called: set[str]
    ) -> nn.Module:
        if id(source) not in self._done:
            name = type(source).__name__
            twin: nn.Module = type(name, (Container,), {"__doc__": Container.__doc__})()
            self._fill(source, twin, path, called)
            self._done[id(source)] = _with_mode(twin, source)
        return self._done[id(source)]

    def _state(self, source: torch.nn.Module, twin: nn.Module, path: str) -> None:
        """Replace the parameters and buffers of ``twin`` by those of ``source``."""
        twin._parameters.clear()
        twin._buffers.clear()
        transient = source._non_persistent_buffers_set
        registries: tuple[tuple[Mapping[str, Any], dict[str, Any]], ...] = (
            (source._parameters, twin._parameters),
            (source._buffers, twin._buffers),
        )
        for tensors, variables in registries:
            for name, tensor in tensors.items():
                variables[name] = None
                if tensor is not None:
                    full = _join(path, name)
                    variables[name] = self._variable(
                        tensor, full, name not in transient
                    )

    def _constant(self, source: torch.nn.Module, target: str, path: str) -> Variable:
        """The variable of a parameter, buffer or plain tensor attribute."""
        *names, last = target.split(".")
        owner = source.get_submodule(".".join(names))
        return self._variable(getattr(owner, last), _join(path, target), False)


def layer_class(source: torch.nn.Module) -> type[nn.Module] | None:
    """The jitseq layer of the same name, if ``source`` is one of torch's own layers."""
    kind = type(source)
    twin = getattr(nn, kind.__name__, None)
    covered = isinstance(twin, type) and issubclass(twin, nn.Module)
    own = getattr(torch.nn, kind.__name__, None) is kind
    if not covered or not own or twin in (nn.Module, nn.Sequential):
        return None
    return twin


def options_of(source: torch.nn.Module, known: type[nn.Module]) -> dict[str, Any]:
    """Constructor arguments that make a ``known`` like ``source``.

    Raises `UnsupportedError` for an option that only torch has, unless it has its
    default.
    """
    wanted = _parameters(known)
    for name, parameter in _parameters(type(source)).items():
        value = getattr(source, name, parameter.default)
        if name not in wanted and name != "bias" and value != parameter.default:
            raise UnsupportedError(
                f"{type(source).__name__}: {name}={value!r} is not covered",
                hint=f"leave {name} at {parameter.default!r}",
            )
    options = {name: getattr(source, name) for name in wanted if hasattr(source, name)}
    if "bias" in options:
        options["bias"] = options["bias"] is not None
    return options


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    return {p.name: p for p in found if p.kind in named and p.name not in NOT_OPTIONS}


def _refuse_changed_calls(source: torch.nn.Module) -> None:
    """Raise `UnsupportedError` where calling the module is not calling its class."""
    if isinstance(source, torch.jit.ScriptModule):
        raise UnsupportedError("a TorchScript module", hint="pass the original module")
    if "forward" in source.__dict__:
        raise UnsupportedError(
            "forward was replaced on the instance", hint="define it in a subclass"
        )
    if any(getattr(source, name) for name in HOOKS):
        raise UnsupportedError(
            "a module with forward hooks",
            hint="remove them; weight_norm and spectral_norm have a remove_… function",
        )


@contextmanager
def _generator_untouched() -> Iterator[None]:
    """Give back the state of the generator from which new layers draw."""
    state = generator().bit_generator.state
    try:
        yield
    finally:
        generator().bit_generator.state = state


def _with_mode(twin: nn.Module, source: torch.nn.Module) -> nn.Module:
    twin.training = bool(source.training)
    advance_epoch()
    return twin


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _first_line(source: torch.nn.Module) -> str:
    return repr(source).split("\n")[0]

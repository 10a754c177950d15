"""`Module`: named parameters, buffers and child modules around a ``forward``.

Arrays enter ``forward`` when it is called eagerly, tracers while a program is
traced. Invariant: whatever a compiled program may depend on (the structure, a
parameter, a flag, any attribute) advances the epoch when it is set.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import numpy as np

from jitseq.errors import JitseqError
from jitseq.ir.builder import Builder, active_builder
from jitseq.ir.tracer import Tracer
from jitseq.ir.variable import Variable, advance_epoch
from jitseq.nn.foreign import call_with_tensors, is_torch_tensor
from jitseq.nn.init import float_dtype
from jitseq.nn.parameter import Buffer, Parameter
from jitseq.nn.state import IncompatibleKeys, load

T = TypeVar("T")
REGISTRIES = ("_parameters", "_buffers", "_modules")


class Module:
    """Base of all layers and models; subclasses define ``forward``."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Buffer | None]
    _modules: dict[str, Any]  # Module or None
    _optional_state: tuple[str, ...] = ()
    """Own variables that an older state dict may lack."""
    training: bool

    def __init__(self) -> None:
        for registry in REGISTRIES:
            object.__setattr__(self, registry, {})
        object.__setattr__(self, "training", True)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Compute the outputs; every subclass defines it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def extra_repr(self) -> str:
        """The arguments shown in this module's ``repr``."""
        return ""

    # Calling

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run ``forward``; torch tensors give torch tensors.

        A `JitseqError` gains the path of the layer in which it was raised.
        """
        builder = active_builder()
        try:
            if builder is not None:
                return self._trace(builder, args, options)
            for x in (*args, *options.values()):
                if type(x) is not np.ndarray and is_torch_tensor(x):
                    return call_with_tensors(self.forward, args, options)
            return self.forward(*args, **options)
        except JitseqError as error:
            names = (name for name, m in self._modules.items() if m is error.module)
            error.locate(self, next(names, None) if error.module is not None else None)
            raise

    def _trace(
        self, builder: Builder, args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        path = builder.module_names.get(id(self))
        if path is None:
            path = self._name_in(builder)
        variables = (*_present(self._parameters), *_present(self._buffers))
        with builder.layer(path, variables):
            result = self.forward(*args, **options)
        if isinstance(result, Tracer):
            builder.record_layer_output(path, result.value)
        return result

    def _name_in(self, builder: Builder) -> str:
        """Name this module, and all below it, after its class."""
        taken = set(builder.module_names.values())
        base = path = type(self).__name__.lower()
        count = 0
        while path in taken:
            count += 1
            path = f"{base}_{count}"
        for name, module in self.named_modules(prefix=path):
            builder.module_names.setdefault(id(module), name)
        return path

    # Attributes

    def __getattr__(self, name: str) -> Any:
        for registry in REGISTRIES:
            members = self.__dict__.get(registry, {})
            if name in members:
                return members[name]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        kinds = {Parameter: "_parameters", Buffer: "_buffers", Module: "_modules"}
        target = next((r for kind, r in kinds.items() if isinstance(value, kind)), None)
        if target is not None and "_modules" not in self.__dict__:
            raise AttributeError(
                f"cannot assign {name!r} before Module.__init__() call"
            )
        if target is not None:
            self._place(target, name, value)
        elif name in self.__dict__.get("_parameters", ()):
            self._clear("_parameters", name, value, "parameter", "Parameter")
        elif name in self.__dict__.get("_modules", ()):
            self._clear("_modules", name, value, "child module", "Module")
        elif name in self.__dict__.get("_buffers", ()):
            self._set_buffer(name, value)
        else:
            object.__setattr__(self, name, value)
        advance_epoch()

    def _place(self, target: str, name: str, value: Any) -> None:
        for registry in (r for r in REGISTRIES if r != target):
            self.__dict__[registry].pop(name, None)
        self.__dict__.pop(name, None)
        self.__dict__[target][name] = value

    def _clear(
        self, registry: str, name: str, value: Any, what: str, kind: str
    ) -> None:
        if value is not None:
            raise TypeError(
                f"cannot assign {type(value).__name__!r} as {what} {name!r} "
                f"({kind} or None expected)"
            )
        self.__dict__[registry][name] = None

    def _set_buffer(self, name: str, value: Any) -> None:
        """Assign into the buffer; a value of another shape makes a new one."""
        buffer = self._buffers[name]
        if buffer is not None and value is not None and np.shape(value) == buffer.shape:
            buffer.assign(value)
            return
        persistent = buffer is None or buffer.persistent
        self._buffers[name] = None if value is None else Buffer(value, persistent)

    def __delattr__(self, name: str) -> None:
        for registry in REGISTRIES:
            if name in self.__dict__[registry]:
                del self.__dict__[registry][name]
                break
        else:
            object.__delattr__(self, name)
        advance_epoch()

    def __dir__(self) -> list[str]:
        members = (name for registry in REGISTRIES for name in self.__dict__[registry])
        return sorted({*super().__dir__(), *(m for m in members if m.isidentifier())})

    # Registration

    def _check_new(self, name: Any, registry: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a name should be a string, got {type(name).__name__}")
        if name == "" or "." in name:
            raise KeyError(f'a name cannot be empty or contain ".", got {name!r}')
        if hasattr(self, name) and name not in self.__dict__[registry]:
            raise KeyError(f"attribute {name!r} already exists")

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child; raises `TypeError` or `KeyError` where PyTorch does."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_new(name, "_modules")
        self._modules[name] = module
        advance_epoch()

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or a name without one."""
        if not isinstance(param, Parameter) and param is not None:
            raise TypeError(
                f"cannot assign {type(param).__name__!r} object to parameter {name!r} "
                "(Parameter or None required)"
            )
        self._check_new(name, "_parameters")
        self._parameters[name] = param
        advance_epoch()

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add a buffer: an array (copied), a `Buffer`, or ``None``."""
        self._check_new(name, "_buffers")
        wrapped = isinstance(tensor, Buffer) or tensor is None
        self._buffers[name] = tensor if wrapped else Buffer(tensor, persistent)
        advance_epoch()

    # Traversal

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Direct children by name, each module once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """Direct children, each once."""
        return (module for _, module in self.named_children())

    def named_modules(
        self,
        memo: set[int] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, with their paths, parents first."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        if remove_duplicate:
            memo.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                path = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, path, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named(
        self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        modules = iter([(prefix, self)])
        if recurse:
            modules = self.named_modules(None, prefix, remove_duplicate)
        seen: set[int] = set()
        for path, module in modules:
            for name, variable in _present(module.__dict__[registry]):
                if remove_duplicate and id(variable) in seen:
                    continue
                seen.add(id(variable))
                yield f"{path}.{name}" if path else name, variable

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their paths; a shared one under its first path."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """Buffers with their paths; a shared one under its first path."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """Buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; ``""`` is this one. Raises `AttributeError`."""
        module: Module = self
        for name in target.split(".") if target else ():
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(f"{type(module).__name__} has no module {name!r}")
            module = found
        return module

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call ``function`` on every module below, then on this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # State

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Variable, bool]]:
        """Key, variable and whether it may be absent; shared ones under every key."""
        for name, parameter in _present(self._parameters):
            yield prefix + name, parameter, name in self._optional_state
        for name, buffer in _present(self._buffers):
            if buffer.persistent:
                yield prefix + name, buffer, name in self._optional_state
        for name, module in self._modules.items():
            if module is not None:
                yield from module._state(f"{prefix}{name}.")

    def state_dict(self, *, prefix: str = "") -> OrderedDict[str, np.ndarray]:
        """Copies of all parameters and persistent buffers, by path."""
        return OrderedDict((key, v.numpy().copy()) for key, v, _ in self._state(prefix))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into this module, each cast to its parameter's dtype.

        Values may be arrays, torch tensors or anything with ``__array__``. Returns
        ``(missing_keys, unexpected_keys)``. Raises `StateDictError` before anything
        is changed: for keys that differ (only if ``strict``), and for values whose
        shape or dtype does not fit.
        """
        entries = list(self._state())
        variables = {key: variable for key, variable, _ in entries}
        optional = [key for key, _, may_be_absent in entries if may_be_absent]
        return load(type(self).__name__, variables, optional, state_dict, strict)

    # Modes and dtypes

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below it in training (or evaluation) mode."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below it in evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set ``requires_grad`` of every parameter."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = np.zeros_like(parameter.grad)

    def to(self, dtype: Any) -> Self:
        """Convert floating-point parameters and buffers to float32 or float64."""
        dtype = float_dtype(dtype)
        for variable in (*self.parameters(), *self.buffers()):
            if variable.dtype.kind == "f" and variable.dtype != dtype:
                variable.cast(dtype)
        return self

    def float(self) -> Self:
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Convert to float64."""
        return self.to(np.float64)

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [
            f"({name}): {module!r}".replace("\n", "\n  ")
            for name, module in self._modules.items()
        ]
        if not children:
            return f"{type(self).__name__}({extra})"
        lines = [*([extra] if extra else []), *children]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _present(members: Mapping[str, T | None]) -> Iterator[tuple[str, T]]:
    return ((name, item) for name, item in members.items() if item is not None)

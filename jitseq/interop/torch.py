"""PyTorch models in jitseq: copies (`from_torch`), and twins that follow (`Followed`).

A `torch.nn.Module` on the CPU enters; a jitseq module with the same structure, names
and values leaves. Torch's own layers become jitseq's of the same name; any other
``forward`` is recorded by `torch.fx` once for each setting of the training flags.

**Never stale.** `js.jit(torch_module)` looks at the torch module before each call, and
it compares *values*, not version counters: ``tensor._version`` does not move when
memory is written through ``p.data``, ``p.numpy()``, `vector_to_parameters` or a fused
optimizer. The comparison is exact (memcmp): about 1 µs a tensor, 1 µs a module, and
20 to 60 µs a megabyte. ``js.jit(from_torch(module))`` is a copy: it does without, and
does not follow. Flags, options, hooks and replaced layers or parameters
are seen by the identity of all attributes of all modules. What ``forward`` reads from
elsewhere (globals, the contents of its own lists and dicts) is read once.

What a call in training mode changes, the running statistics of batch-norm, it changes
in the torch module, or for a copy in the copy.

Results carry no autograd history, and inputs are never changed, not even where the
first layer has ``inplace=True``.
"""

from __future__ import annotations

import ctypes
import operator
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

from jitseq import nn
from jitseq.errors import DtypeError, UnsupportedError
from jitseq.interop.torch_layers import HOOKS, Conversion
from jitseq.ir.builder import active_builder
from jitseq.ir.types import FLOAT_DTYPES
from jitseq.ir.variable import Variable

BUFFER_DTYPES = (*FLOAT_DTYPES, "int64", "int32", "uint8", "bool")


def from_torch(module: torch.nn.Module) -> nn.Module:
    """A copy of a torch model as a jitseq model: same state dict, same training flags.

    Parameters and buffers are copied; later changes of either side do not reach the
    other one. float32 and float64 parameters are covered.

    Raises:
        UnsupportedError: a layer, function or option that jitseq does not cover,
            named with its path; forward hooks; parameters that are not in main memory.
        DtypeError: parameters of another dtype.
    """
    return Conversion(_Links().variable).module(_original(module))


class Followed:
    """A torch module as a target of `jitseq.jit`: takes over its state when called.

    ``module`` is the torch module, ``twin`` its present counterpart. Raises what
    `from_torch` raises, now or at the call after the module was changed.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = _original(module)
        self.__name__ = type(self.module).__name__
        self.__doc__ = type(self.module).__doc__
        self._lock = threading.RLock()
        self._links = _Links(follow=True)
        self._convert()

    def __reduce__(self) -> Any:
        return Followed, (self.module,)

    def __call__(self, *args: Any) -> Any:
        """The eager result of the twin on arrays, or its trace.

        Raises `UnsupportedError` inside of another traced function, which would not
        see later changes.
        """
        builder = active_builder()
        if builder is None:
            self.refresh()
        elif builder.module_names.get(id(self.twin)) != "":
            raise UnsupportedError(
                "a compiled torch module inside of another compiled function",
                hint="call jitseq.interop.torch.from_torch(module), a copy, instead",
            )
        return self.twin(*args)

    @property
    def forward(self) -> Callable[..., Any]:
        """The torch module's own, whose signature names the inputs."""
        return self.module.forward

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The twin's modules by path."""
        return self.twin.named_modules()

    def refresh(self) -> None:
        """See every change of the torch module since the last time.

        Raises:
            UnsupportedError, DtypeError: the module changed into something that is not
                covered.
        """
        with self._lock:
            moved = any(link.is_other() for link in self._links)
            if moved or not self._attributes.same():
                self._convert()
            for link in self._links:
                link.refresh()

    def after_fork(self) -> None:
        """In a forked child: whoever held the lock is gone."""
        self._lock = threading.RLock()

    def _convert(self) -> None:
        """Make the twin anew; tensors that are still there keep their variables."""
        kept = (link for link in self._links if not link.is_other())
        links = _Links(kept, follow=True)
        twin = Conversion(links.variable).module(self.module)
        self._attributes = _Attributes(self.module)
        self._links, self.twin = links, twin


def _original(module: torch.nn.Module) -> torch.nn.Module:
    """The module behind the result of `torch.compile`."""
    inner = module._modules.get("_orig_mod")
    return module if inner is None else inner


class _Attributes:
    """All attributes of all modules below one, by identity."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._own: list[dict[str, Any]] = []
        self._registries: list[dict[str, Any]] = []
        self._hooks: list[dict[str, Any]] = []
        for each in module.modules():
            self._own.append(each.__dict__)
            self._registries += [each._modules, each._parameters, each._buffers]
            self._hooks += [getattr(each, name) for name in HOOKS]
        # Half of a module's own attributes are tables of hooks that nobody replaces.
        self._pick = [
            operator.itemgetter(*(name for name in own if "hook" not in name))
            for own in self._own
        ]
        self._count = self._size()
        self._values = list(self._now())

    def _size(self) -> int:
        return sum(map(len, self._own)) + sum(map(len, self._registries))

    def _now(self) -> Iterator[Any]:
        own = map(operator.call, self._pick, self._own)
        return chain.from_iterable(chain(own, map(_values_of, self._registries)))

    def same(self) -> bool:
        """Whether no attribute was set, added or removed, and no hook was added."""
        if self._size() != self._count or any(self._hooks):
            return False
        try:
            return all(map(operator.is_, self._now(), self._values))
        except KeyError:  # one attribute removed, another one added
            return False


_values_of: Callable[[dict[str, Any]], Iterable[Any]] = dict.values


# tensors and their variables


class _Link:
    """A torch tensor and the variable that has its value."""

    __slots__ = ("_address", "_place", "_theirs", "_type", "tensor", "variable")

    def __init__(self, tensor: torch.Tensor, variable: Variable) -> None:
        self.tensor = tensor
        self.variable = variable
        self._type = (tensor.shape, tensor.dtype, tensor.is_cpu)
        self._place: tuple[int, bool] | None = None
        self._theirs = variable.numpy()
        self._address: int = self._theirs.ctypes.data

    def is_other(self) -> bool:
        """Whether the tensor's shape, dtype or device is not the variable's."""
        tensor = self.tensor
        return (tensor.shape, tensor.dtype, tensor.is_cpu) != self._type

    def refresh(self) -> None:
        """Assign the tensor's value if one bit of it differs.

        ``_theirs`` keeps the memory alive, so an address that is the same is the same
        memory.
        """
        tensor = self.tensor
        place = (tensor.data_ptr(), tensor.is_contiguous())
        if place != self._place:
            self._theirs = tensor.detach().numpy()
            self._place = place
        address, contiguous = place
        if not contiguous:
            self._theirs = np.ascontiguousarray(tensor.detach().numpy())
            address = self._theirs.ctypes.data
        if _memcmp(self._address, address, self._theirs.nbytes):
            if isinstance(self.variable, _SharedBuffer):
                self.variable.take_over(self._theirs)
            else:
                self.variable.assign(self._theirs)


def _load_memcmp() -> Any:
    """The C library's, with the GIL held: the weights cannot change underneath."""
    memcmp = ctypes.PyDLL("msvcrt" if sys.platform == "win32" else None).memcmp
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return memcmp


_memcmp = _load_memcmp()


class _SharedBuffer(nn.Buffer):
    """A buffer of a torch module: each change reaches the torch tensor, too."""

    def __init__(self, tensor: torch.Tensor, persistent: bool) -> None:
        super().__init__(tensor.detach().numpy(), persistent)
        self._tensor = tensor
        self._taking_over = False

    def changed(self) -> None:
        if self._taking_over:
            return
        with torch.no_grad():
            self._tensor.copy_(torch.from_numpy(self._array))

    def take_over(self, value: np.ndarray) -> None:
        """Copy the tensor's own value."""
        self._taking_over = True
        self.assign(value)
        self._taking_over = False


class _Links:
    """The pairs of one conversion; ``known`` ones are used again.

    With ``follow``, buffers write their changes back.
    """

    def __init__(self, known: Iterable[_Link] = (), follow: bool = False) -> None:
        self._follow = follow
        self._known = {id(link.tensor): link for link in known}
        self._used: dict[int, _Link] = {}

    def __iter__(self) -> Iterator[_Link]:
        return iter(self._used.values())

    def variable(self, tensor: torch.Tensor, path: str, persistent: bool) -> Variable:
        """The variable of ``tensor``, the same one each time."""
        link = self._used.get(id(tensor)) or self._known.get(id(tensor))
        if link is None:
            variable = _new_variable(tensor, path, persistent, self._follow)
            link = _Link(tensor, variable)
        self._used[id(tensor)] = link
        return link.variable


def _new_variable(
    tensor: torch.Tensor, path: str, persistent: bool, follow: bool
) -> Variable:
    """A copy of ``tensor``."""
    if torch.nn.parameter.is_lazy(tensor) or not tensor.is_cpu:
        raise UnsupportedError(
            "a parameter without a value in main memory",
            facts={"parameter": path},
            hint="run a lazy module once; move a module with module.cpu()",
        )
    trained = isinstance(tensor, torch.nn.Parameter)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in (FLOAT_DTYPES if trained else BUFFER_DTYPES):
        raise DtypeError(
            f"a parameter or buffer of {tensor.dtype} is not covered",
            facts={"parameter": f"{path}  {dtype}{tuple(tensor.shape)}"},
            hint="convert the module first: module.float() or module.double()",
        )
    value = tensor.detach().numpy()
    if trained:
        return nn.Parameter(value, tensor.requires_grad)
    return _SharedBuffer(tensor, persistent) if follow else nn.Buffer(value, persistent)

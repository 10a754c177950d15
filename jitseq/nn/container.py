"""`Sequential`: modules that run one after the other.

Invariant: every layer has its own key, keys follow PyTorch's numbering, and no
operation overwrites a layer that it was not asked to replace.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Self, overload

from jitseq.ir.variable import advance_epoch
from jitseq.nn.functional.arguments import Array
from jitseq.nn.module import Module


class NotAModuleError(TypeError, AssertionError):
    """`Sequential.insert` of something else; PyTorch raises AssertionError there."""


class Sequential(Module):
    """Layers from positional arguments (keys "0", "1", …) or one `OrderedDict`.

    Indexed by position (negative too), by slice (a new `Sequential` that shares the
    layers and keeps their keys) or by key. Deleting numbers the layers anew, as in
    PyTorch. Raises `TypeError` for anything that is not a `Module`, `IndexError` and
    `KeyError` for positions and keys that do not exist. Without layers it is the
    identity.

    >>> model = Sequential(OrderedDict(a=Sequential()))
    >>> model["a"] is model[0] is model.a
    True
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for key, module in args[0].items():
                self.add_module(key, _module(module))
            return
        for i, module in enumerate(args):
            self.add_module(str(i), _module(module))

    def forward(self, input: Array) -> Array:
        for module in self._modules.values():
            input = module(input)
        return input

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))

    def _key(self, index: Any) -> str:
        """The key at a position, or the key itself."""
        if isinstance(index, str):
            if index not in self._modules:
                raise KeyError(f"no layer is called {index!r}")
            return index
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {position} is out of range")
        return list(self._modules)[position]

    @overload
    def __getitem__(self, index: slice) -> Self: ...
    @overload
    def __getitem__(self, index: int | str) -> Any: ...
    def __getitem__(self, index: int | str | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))
        return self._modules[self._key(index)]

    def __setitem__(self, index: int | str, module: Module) -> None:
        key = self._key(index)
        if module is None:
            raise TypeError(f"cannot assign None as layer {key!r}")
        setattr(self, key, module)

    def __delitem__(self, index: int | str | slice) -> None:
        if isinstance(index, slice):
            gone = set(list(self._modules)[index])
        else:
            gone = {self._key(index)}
        kept = [module for key, module in self._modules.items() if key not in gone]
        self._set_layers((str(i), module) for i, module in enumerate(kept))

    def _set_layers(self, items: Iterable[tuple[str, Module]]) -> None:
        items = list(items)
        self._modules.clear()
        self._modules.update(items)
        advance_epoch()

    def _free_key(self, position: int) -> str:
        """The key that PyTorch would take, or else the next number that is free."""
        while str(position) in self._modules:
            position += 1
        return str(position)

    def append(self, module: Module) -> Self:
        """Add a layer at the end, and return this container."""
        self.add_module(self._free_key(len(self)), _module(module))
        return self

    def extend(self, sequential: Iterable[Module]) -> Self:
        """Append all layers of ``sequential``, or none when one is not a module."""
        for module in [_module(module) for module in sequential]:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a layer before position ``index``; numbered layers move up."""
        if not isinstance(module, Module):
            raise NotAModuleError(f"module should be of type: {Module}")
        count = len(self)
        if not -count <= index <= count:
            raise IndexError(f"Index out of range: {index}")
        position = index + count if index < 0 else index
        items = list(self._modules.items())
        numbered = list(self._modules) == [str(i) for i in range(count)]
        key = str(position) if numbered else self._free_key(position)
        items.insert(position, (key, module))
        if numbered:
            items = [(str(i), layer) for i, (_, layer) in enumerate(items)]
        self._set_layers(items)
        return self

    def pop(self, key: int | str | slice) -> Any:
        """Remove and return a layer, or a slice of them."""
        removed = self[key]
        del self[key]
        return removed

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *_sequential(other))

    def __iadd__(self, other: Sequential) -> Self:
        return self.extend(_sequential(other))

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*(list(self) * _factor(self, other)))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        return self.extend(list(self) * (_factor(self, other) - 1))


def _module(module: Any) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"{type(module).__name__} is not a Module subclass")
    return module


def _sequential(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(
            "add operator supports only objects of Sequential class, "
            f"but {type(other)} is given."
        )
    return other


def _factor(left: Sequential, other: Any) -> int:
    if not isinstance(other, int):
        raise TypeError(
            f"unsupported operand type(s) for *: {type(left)} and {type(other)}"
        )
    if other <= 0:
        raise ValueError(f"Non-positive multiplication factor {other}")
    return other

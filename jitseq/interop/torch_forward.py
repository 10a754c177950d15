"""Torch modules with a ``forward`` of their own, through `torch.fx`.

Enters a `torch.nn.Module`; leaves a `ForwardGraph`, a jitseq module that runs the
recorded graph on arrays or tracers. Invariant: every node was looked up when the
graph was made, so what is not covered is refused then; a value that torch would
change in place is never read again afterwards, so that running the graph without
changing anything gives torch's result.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.fx

from jitseq import nn
from jitseq.errors import JitseqError, UnsupportedError
from jitseq.interop.torch_functions import function_meaning, method_meaning
from jitseq.ir.variable import Variable

IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv", "imod")


class _Proxy(torch.fx.Proxy):
    """Records ``x += y`` as what it is; torch.fx makes it ``x = x + y``."""


def _record_in_place(name: str) -> Callable[[_Proxy, Any], Any]:
    def record(self: _Proxy, other: Any) -> Any:
        target = getattr(operator, name)
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return record


for _name in IN_PLACE:
    setattr(_Proxy, f"__{_name}__", _record_in_place(_name))


class _Tracer(torch.fx.Tracer):
    """Calls of submodules stay calls; parameters and buffers stay references."""

    proxy_buffer_attributes = True
    record_stack_traces = True

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        known = not isinstance(a, torch.Tensor) or isinstance(a, torch.nn.Parameter)
        if known or a in self.tensor_attrs or any(a is b for b in self.root.buffers()):
            return super().create_arg(a)
        raise UnsupportedError(
            "forward makes a tensor of its own",
            facts={"tensor": f"{a.dtype} {tuple(a.shape)}"},
            hint="make it in __init__ with register_buffer, or use a Python number",
        )


def forward_graph(source: torch.nn.Module) -> torch.fx.Graph:
    """Record ``source.forward``, for its current training flag.

    Raises `UnsupportedError` where control flow depends on tensors, and where forward
    has effects (on attributes of the module).
    """
    name = type(source).__name__
    before = dict(source.__dict__)
    try:
        graph = _Tracer().trace(source)
    except JitseqError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"{name}.forward cannot be recorded by torch.fx",
            facts={"because": str(error).split("\n")[0]},
            hint="its control flow must not depend on the values of tensors; lists "
            "of arguments (*args) are not covered",
        ) from error
    finally:
        after = dict(source.__dict__)
        source.__dict__.clear()
        source.__dict__.update(before)
    stored = [key for key in after if after[key] is not before.get(key)]
    if stored:
        raise UnsupportedError(
            f"{name}.forward sets attributes: {', '.join(stored)}",
            hint="return the value instead of storing it",
        )
    return graph


def called_modules(graph: torch.fx.Graph) -> set[str]:
    """Paths of the submodules that the graph calls."""
    return {str(node.target) for node in graph.nodes if node.op == "call_module"}


class _Effect(NamedTuple):
    """How a node computes, and whether it changes or returns its first input."""

    run: Callable[..., Any] | None
    mutates: bool = False
    views: bool = False


class ForwardGraph(nn.Module):
    """A module that interprets a `torch.fx.Graph`; its children are set from outside.

    `complete` must be called once, when they are.
    """

    _nodes: tuple[torch.fx.Node, ...] = ()
    _effects: Mapping[torch.fx.Node, _Effect]
    mutates = views = False
    """Whether forward would change its input in torch, or return (part of) it."""

    def complete(
        self, graph: torch.fx.Graph, constant: Callable[[str], Variable]
    ) -> None:
        """Look up every node; ``constant`` gives the variable at a dotted path.

        Raises `UnsupportedError`, naming the function and the user's line.
        """
        nodes = tuple(graph.nodes)
        effects = {}
        for node in nodes:
            with _Line(node):
                effects[node] = self._effect(node, constant)
        self._nodes, self._effects = nodes, effects
        roots = _roots(nodes, effects)
        _refuse_visible_mutation(nodes, effects, roots)
        inputs = {node for node in nodes if node.op == "placeholder"}
        changed = (n for n in nodes if effects[n].mutates)
        returned = nodes[-1].all_input_nodes
        self.mutates = any(not inputs.isdisjoint(roots[n]) for n in changed)
        self.views = any(not inputs.isdisjoint(roots[n]) for n in returned)

    def _effect(
        self, node: torch.fx.Node, constant: Callable[[str], Variable]
    ) -> _Effect:
        if node.op == "call_module":
            path = str(node.target)
            child = self.get_submodule(path)
            return _Effect(self._caller(path), mutates_input(child), views_input(child))
        if node.op == "get_attr":
            variable = constant(str(node.target))
            return _Effect(lambda: variable)
        if node.op == "placeholder" and str(node.target).startswith("*"):
            raise UnsupportedError(
                f"forward takes {node.target}", hint="name every argument"
            )
        if node.op == "call_function":
            return _Effect(*function_meaning(node.target, node.args, node.kwargs))
        if node.op == "call_method":
            return _Effect(*method_meaning(str(node.target), node.args, node.kwargs))
        return _Effect(None)

    def _caller(self, path: str) -> Callable[..., Any]:
        """Call a submodule; an error passes through the containers on its path."""
        names = path.split(".")

        def call(*args: Any, **options: Any) -> Any:
            try:
                return self.get_submodule(path)(*args, **options)
            except JitseqError as error:
                for depth in range(len(names) - 1, 0, -1):
                    container = self.get_submodule(".".join(names[:depth]))
                    error.locate(container, names[depth])
                raise

        return call

    def forward(self, *args: Any, **options: Any) -> Any:
        values: dict[torch.fx.Node, Any] = {}
        given = iter(args)
        for node in self._nodes:
            if node.op == "output":
                return _filled(node.args[0], values)
            if node.op == "placeholder":
                values[node] = _argument(node, given, options)
                continue
            run = self._effects[node].run
            assert run is not None
            arguments = _filled(node.args, values)
            with _Line(node):
                values[node] = run(*arguments, **_filled(node.kwargs, values))
        raise AssertionError("a graph ends with its output")


class _Line:
    """Adds the user's line to an error that passes."""

    def __init__(self, node: torch.fx.Node) -> None:
        self.trace = node.stack_trace

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        line = _users_line(self.trace or "")
        if isinstance(error, JitseqError) and line:
            error.facts.setdefault("line", line)


def _users_line(trace: str) -> str:
    """The innermost frame of a printed stack that is not torch's or of this file."""
    frames = re.findall(r'File "(.*?)", line (\d+).*\n(.*)', trace)
    own = (os.path.dirname(torch.__file__), __file__)
    users = [frame for frame in frames if not frame[0].startswith(own)]
    if not users:
        return ""
    file, number, code = users[-1]
    return f"{os.path.basename(file)}:{number}  {code.strip()}"


def _filled(part: Any, values: Mapping[torch.fx.Node, Any]) -> Any:
    """``part`` with the values of the nodes in it; plain tuples, lists and dicts."""
    if isinstance(part, torch.fx.Node):
        return values[part]
    if isinstance(part, tuple):
        return tuple(_filled(item, values) for item in part)
    if isinstance(part, list):
        return [_filled(item, values) for item in part]
    if isinstance(part, dict):
        return {key: _filled(item, values) for key, item in part.items()}
    if isinstance(part, slice):
        bounds = (part.start, part.stop, part.step)
        return slice(*(_filled(bound, values) for bound in bounds))
    return part


def _argument(node: torch.fx.Node, given: Any, options: Mapping[str, Any]) -> Any:
    """The value of a placeholder: by position, by name, or its default."""
    name = str(node.target)
    for value in given:
        return value
    if name in options:
        return options[name]
    if not node.args:
        raise TypeError(f"forward() missing the argument {name!r}")
    return node.args[0]


# what torch would change in place


def mutates_input(module: Any) -> bool:
    """Whether the torch twin of a converted module changes its input."""
    if isinstance(module, ForwardGraph):
        return module.mutates
    if isinstance(module, nn.Sequential):
        for child in module:
            if mutates_input(child):
                return True
            if not views_input(child):
                return False
        return False
    if isinstance(module, nn.Dropout) and not (module.training and module.p):
        return False
    return bool(getattr(module, "inplace", False))


def views_input(module: Any) -> bool:
    """Whether the torch twin may return its input, or a view of it."""
    if isinstance(module, ForwardGraph):
        return module.views
    if isinstance(module, nn.Sequential):
        return all(map(views_input, module))
    kinds = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)
    return isinstance(module, kinds) or mutates_input(module)


Roots = dict[torch.fx.Node, frozenset[torch.fx.Node]]


def _roots(
    nodes: Iterable[torch.fx.Node], effects: Mapping[torch.fx.Node, _Effect]
) -> Roots:
    """The nodes whose memory each node's result may share; itself if it is new."""
    roots: Roots = {}
    for node in nodes:
        shares = effects[node].mutates or effects[node].views
        inputs = node.all_input_nodes
        inputs = inputs if node.op == "call_module" else inputs[:1]
        found = [roots[n] for n in inputs] if shares else []
        roots[node] = frozenset[torch.fx.Node]().union(*found) or frozenset((node,))
    return roots


def _refuse_visible_mutation(
    nodes: tuple[torch.fx.Node, ...],
    effects: Mapping[torch.fx.Node, _Effect],
    roots: Roots,
) -> None:
    """Raise `UnsupportedError` where a value is read after it changed in place."""
    place = {node: i for i, node in enumerate(nodes)}
    for node in (node for node in nodes if effects[node].mutates):
        later = (n for k in nodes[place[node] + 1 :] for n in k.all_input_nodes)
        old = [n for n in later if place[n] < place[node] and roots[n] & roots[node]]
        old += [n for n in roots[node] if n.op == "get_attr"]
        if not old:
            continue
        with _Line(node):
            raise UnsupportedError(
                f"{_text(node)} changes a value in place that is used again",
                facts={"value": old[0].name},
                hint="compute a new value: x = x + y, inplace=False, no …_()",
            )


def _text(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))

"""The printed form of a Graph: stable, typed, one node a line."""

from __future__ import annotations

from typing import Any

from jitseq.ir.graph import Graph, Node, Value


def value_names(graph: Graph) -> dict[Value, str]:
    """A unique printable name for each value, in order of definition."""
    names: dict[Value, str] = {}
    for param in graph.params:
        names[param] = f"@{param.name}"
    for value in graph.inputs:
        names[value] = f"%{value.name}"
    count = 0
    for node in graph.nodes:
        for value in node.outputs:
            names[value] = f"%{count}"
            count += 1
    return names


def attr_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(attr_text, value)) + ")"
    return repr(value) if isinstance(value, float) else str(value)


def node_text(node: Node, names: dict[Value, str]) -> str:
    left = ", ".join(f"{names[value]}: {value.type}" for value in node.outputs)
    inputs = ", ".join(names[value] for value in node.inputs)
    attrs = ", ".join(f"{k}={attr_text(v)}" for k, v in sorted(node.attrs.items()))
    text = f"{left} = {node.op}({inputs})" + (f" {{{attrs}}}" if attrs else "")
    return f"{text:<72}  # {node.path}" if node.path else text


def graph_text(graph: Graph) -> str:
    names = value_names(graph)
    signature = ", ".join(f"{names[v]}: {v.type}" for v in graph.inputs)
    lines = [f"graph({signature}) {{"]
    lines += [f"  param {names[v]}: {v.type}" for v in graph.params]
    lines += [f"  {node_text(node, names)}" for node in graph.nodes]
    lines += [f"  return {', '.join(names[v] for v in graph.outputs)}", "}"]
    return "\n".join(lines)

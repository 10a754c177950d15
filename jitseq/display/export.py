"""Graphs as JSON and as DOT, for other programs.

A Graph enters; text leaves, and a Graph comes back from JSON. Invariant: the text is a
function of the graph alone, and a graph read from its JSON prints as the graph itself.
"""

from __future__ import annotations

import json
import math
from typing import Any

from jitseq.display.families import family, shape_text
from jitseq.display.style import ACCENTS
from jitseq.errors import JitseqError
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.text import attr_text, value_names
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.static_values import static_values

FORMAT = "jitseq.graph"
VERSION = 1
NUMBERS = ("inf", "-inf", "nan")


def graph_json(graph: Graph) -> str:
    """The graph as JSON; `docs/displays.md` has the schema.

    Raises TypeError for an attribute that is neither a number, a word, None, nor a
    tuple of such.
    """
    names = value_names(graph)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [names[value] for value in graph.inputs],
        "params": [names[value] for value in graph.params],
        "outputs": [names[value] for value in graph.outputs],
        "values": {
            names[value]: {
                "dtype": value.type.dtype,
                "shape": _plain(value.type.shape),
                "name": value.name,
            }
            for value in graph.values()
        },
        "nodes": [
            {
                "op": node.op,
                "inputs": [names[value] for value in node.inputs],
                "outputs": [names[value] for value in node.outputs],
                "attrs": {name: _plain(v) for name, v in sorted(node.attrs.items())},
                "path": node.path,
                "place": node.place,
            }
            for node in graph.nodes
        ],
        "layer_outputs": {
            path: names[value] for path, value in graph.layer_outputs.items()
        },
    }
    return json.dumps(record, indent=1, allow_nan=False)


def graph_from_json(source: str) -> Graph:
    """The graph whose `graph_json` is ``source``; raises `JitseqError` for others."""
    record = json.loads(source)
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise JitseqError(
            "this is no graph of jitseq",
            facts={"format": record.get("format"), "version": record.get("version")},
        )
    values = {
        name: Value(TensorType(item["dtype"], _back(item["shape"])), item["name"])
        for name, item in record["values"].items()
    }

    def named(names: list[str]) -> tuple[Value, ...]:
        return tuple(values[name] for name in names)

    nodes = tuple(
        Node(
            node["op"],
            named(node["inputs"]),
            {name: _back(value) for name, value in node["attrs"].items()},
            named(node["outputs"]),
            node["path"],
            node["place"],
        )
        for node in record["nodes"]
    )
    layers = {path: values[name] for path, name in record["layer_outputs"].items()}
    inputs, params = named(record["inputs"]), named(record["params"])
    return Graph(inputs, params, nodes, named(record["outputs"]), layers)


def _plain(value: Any) -> Any:
    """As JSON: tuples are arrays, the batch is "n", numbers beyond JSON are words."""
    if value is BATCH:
        return "n"
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an attribute of type {type(value).__name__} has no JSON")


def _back(value: Any) -> Any:
    if value == "n":
        return BATCH
    if isinstance(value, list):
        return tuple(_back(item) for item in value)
    return float(value) if isinstance(value, str) and value in NUMBERS else value


def graph_dot(graph: Graph) -> str:
    """The graph in the language of Graphviz; what is computed once is dashed."""
    static = static_values(graph)
    lines = ["digraph jitseq {", "  rankdir=TB;"]
    lines.append('  node [shape=box, style=rounded, fontname="monospace"];')
    places: dict[Value, str] = {}
    for index, value in enumerate(graph.inputs):
        places[value] = f"input{index}"
        label = f"{value.name}\n{value.type}"
        lines.append(f"  input{index} [label={_quoted(label)}, shape=ellipse];")
    for index, node in enumerate(graph.nodes):
        for value in node.outputs:
            places[value] = f"node{index}"
        shapes = ", ".join(shape_text(value.type) for value in node.outputs)
        label = "\n".join(filter(None, (node.op, node.path, shapes)))
        tip = ", ".join(f"{k}={attr_text(v)}" for k, v in sorted(node.attrs.items()))
        options = [f"label={_quoted(label)}", f'color="{ACCENTS[family(node)]}"']
        options.append(f"tooltip={_quoted(tip or node.op)}")
        if static.issuperset(node.outputs):
            options.append('style="rounded,dashed"')
        lines.append(f"  node{index} [{', '.join(options)}];")
        for value in dict.fromkeys(node.inputs):
            if value in places:
                lines.append(f"  {places[value]} -> node{index};")
    for index, value in enumerate(graph.outputs):
        label = f"output\n{value.type}"
        lines.append(f"  output{index} [label={_quoted(label)}, shape=ellipse];")
        if value in places:
            lines.append(f"  {places[value]} -> output{index};")
    return "\n".join([*lines, "}", ""])


def _quoted(content: str) -> str:
    escaped = content.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

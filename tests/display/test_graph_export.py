"""Graphs as JSON and DOT: nothing is lost, and other programs can read them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from display_models import branches, images, step_model

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim
from jitseq.errors import JitseqError
from jitseq.ir.graph import Graph, Node, Value
from jitseq.ir.interpret import evaluate
from jitseq.ir.types import BATCH, TensorType


def graphs() -> dict[str, Graph]:
    compiled = js.jit(branches()).prepare(images())
    model = step_model()
    step = js.train_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters()))
    step(images(4), np.zeros(4, np.int64))
    chain = ZOO["cnn32"]
    return {
        "traced": compiled.traced_graph(),
        "optimised": compiled.graph(),
        "chain": js.jit(chain.build()).graph(chain.sample(1)),
        "step": step.graph(),
    }


def test_json_there_and_back() -> None:
    for name, graph in graphs().items():
        text = graph.to_json()
        again = Graph.from_json(text)
        assert str(again) == str(graph), name
        assert again.to_json() == text, name
        assert {p: str(v.type) for p, v in again.layer_outputs.items()} == {
            p: str(v.type) for p, v in graph.layer_outputs.items()
        }
        assert [n.place for n in again.nodes] == [n.place for n in graph.nodes]


def test_a_graph_read_back_computes_the_same() -> None:
    model, x = branches(), images()
    traced = js.jit(model, dynamic_batch=False).prepare(x)._programs.latest().traced
    again = Graph.from_json(traced.graph.to_json())
    known = {again.inputs[0]: x}
    known |= {p: traced.variables[p.name].numpy() for p in again.params}
    evaluate(again.nodes, known, again.outputs)
    np.testing.assert_array_equal(known[again.outputs[0]], model(x))


def test_the_schema() -> None:
    x = np.ones((2, 3), np.float32)
    graph = js.jit(nn.Sequential(nn.Linear(3, 2), nn.ReLU())).traced_graph(x)
    assert json.loads(graph.to_json()) == {
        "format": "jitseq.graph",
        "version": 1,
        "inputs": ["%input"],
        "params": ["@0.weight", "@0.bias"],
        "outputs": ["%1"],
        "values": {
            "%input": {"dtype": "float32", "shape": ["n", 3], "name": "input"},
            "@0.weight": {"dtype": "float32", "shape": [2, 3], "name": "0.weight"},
            "@0.bias": {"dtype": "float32", "shape": [2], "name": "0.bias"},
            "%0": {"dtype": "float32", "shape": ["n", 2], "name": ""},
            "%1": {"dtype": "float32", "shape": ["n", 2], "name": ""},
        },
        "nodes": [
            {
                "op": "linear",
                "inputs": ["%input", "@0.weight", "@0.bias"],
                "outputs": ["%0"],
                "attrs": {},
                "path": "0",
                "place": 0,
            },
            {
                "op": "relu",
                "inputs": ["%0"],
                "outputs": ["%1"],
                "attrs": {},
                "path": "1",
                "place": 1,
            },
        ],
        "layer_outputs": {"0": "%0", "1": "%1", "": "%1"},
    }


def one_node(**attrs: object) -> Graph:
    x, y = Value(TensorType("float32", (2,)), "x"), Value(TensorType("float32", (2,)))
    return Graph((x,), (), (Node("relu", (x,), attrs, (y,)),), (y,))


def test_attributes_beyond_json() -> None:
    attrs = {"low": -math.inf, "high": math.inf, "shape": (BATCH, (1, None)), "s": "w"}
    text = one_node(**attrs).to_json()
    json.loads(text, parse_constant=pytest.fail)  # no Infinity, no NaN
    assert Graph.from_json(text).nodes[0].attrs == attrs
    nan = Graph.from_json(one_node(value=math.nan).to_json()).nodes[0].attrs["value"]
    assert math.isnan(nan)
    with pytest.raises(TypeError, match="ndarray"):
        one_node(value=np.ones(2)).to_json()


@pytest.mark.parametrize("text", ["{}", '{"format": "jitseq.graph", "version": 2}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(JitseqError, match="no graph of jitseq"):
        Graph.from_json(text)


STRING = r'"(?:[^"\\]|\\.)*"'
OPTION = rf"\w+=(?:{STRING}|\w+)"
STATEMENTS = (
    re.compile(rf"  (node|graph) \[{OPTION}(?:, {OPTION})*\];"),
    re.compile(r"  rankdir=TB;"),
    re.compile(rf"  (?P<name>\w+) \[{OPTION}(?:, {OPTION})*\];"),
    re.compile(r"  (?P<tail>\w+) -> (?P<head>\w+);"),
)


def dot_parts(text: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Names of nodes, and edges; every line is a statement."""
    first, *lines, last = text.splitlines()
    assert (first, last) == ("digraph jitseq {", "}")
    names, edges = set(), set()
    for line in lines:
        match = next((m for s in STATEMENTS if (m := s.fullmatch(line))), None)
        assert match is not None, line
        found = match.groupdict()
        if "name" in found:
            names.add(found["name"])
        if "tail" in found:
            edges.add((found["tail"], found["head"]))
    return names, edges


def test_dot() -> None:
    for name, graph in graphs().items():
        names, edges = dot_parts(graph.to_dot())
        assert {end for edge in edges for end in edge} <= names, name
        nodes = len(graph.nodes) + len(graph.inputs) + len(graph.outputs)
        assert len(names) == nodes, name
        made = {v: f"node{i}" for i, n in enumerate(graph.nodes) for v in n.outputs}
        made |= {v: f"input{i}" for i, v in enumerate(graph.inputs)}
        wanted = {
            (made[value], f"node{i}")
            for i, node in enumerate(graph.nodes)
            for value in node.inputs
            if value in made
        }
        ends = enumerate(graph.outputs)
        wanted |= {(made[v], f"output{i}") for i, v in ends if v in made}
        assert edges == wanted, name


def test_dot_quotes_what_it_must() -> None:
    x, y = Value(TensorType("float32", (2,)), 'a"b\\'), Value(TensorType("float32", ()))
    text = Graph((x,), (), (Node("relu", (x,), {}, (y,), 'p"q'),), (y,)).to_dot()
    names, _ = dot_parts(text)
    assert names == {"input0", "node0", "output0"}
    assert '"a\\"b\\\\\\nf32[2]"' in text


def test_a_graph_without_nodes() -> None:
    graph = js.jit(lambda x: x).traced_graph(np.ones((2, 3), np.float32))
    assert "<svg" in graph.to_svg()
    assert str(Graph.from_json(graph.to_json())) == str(graph)
    assert dot_parts(graph.to_dot())[1] == {("input0", "output0")}

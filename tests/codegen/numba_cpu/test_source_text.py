"""Whole programs as Python source: what it computes, and what it looks like."""

from __future__ import annotations

import ast
import traceback

import native_graph
import numpy as np
import pytest
from native_graph import by_references, interpreted
from op_cases import CASES, inputs_of
from source_runs import TARGETS, run_checked

import jitseq as js
from jitseq import nn, optim
from jitseq.codegen.numba_cpu.calls import load_source, place
from jitseq.codegen.numba_cpu.render import kernel_source, render
from jitseq.ir.program import Program
from jitseq.ir.program_text import kernel_text
from jitseq.ir.target import Target
from jitseq.ir.trace import trace
from jitseq.ir.tracer import apply
from jitseq.ir.types import type_of
from jitseq.nn import Parameter
from jitseq.passes.pipeline import optimise, schedule

LAYERS = ("conv2d", "conv_transpose2d", "linear", "batch_norm")
MOST_ELEMENTS = 700
SMALL = [
    case
    for case in CASES
    if case.values[0].name not in ("constant", "random_uniform")
    and sum(np.prod(shape) for shape in case.values[1].shapes) <= MOST_ELEMENTS
]
NONE: frozenset[str] = frozenset()


@pytest.fixture(autouse=True)
def by_source(monkeypatch) -> None:
    """What `interpreted` runs is the source, checked against the interpreter."""
    monkeypatch.setattr(native_graph, "interpret_program", run_checked)


def results_of(function, arrays, target: Target, disabled=NONE) -> list[np.ndarray]:
    traced = trace(function, [type_of(array) for array in arrays])
    params = {p: traced.variables[p.name].numpy() for p in traced.graph.params}
    found = interpreted(traced.graph, arrays, params, target, disabled)
    expected = by_references(traced.graph, arrays, params)
    for array, reference in zip(found, expected, strict=True):
        assert array.shape == reference.shape and array.dtype == reference.dtype
    return found


def program_of(model: nn.Module, x: np.ndarray, target: Target) -> Program:
    traced = trace(model, [type_of(x)])
    return schedule(optimise(traced.graph), target).planned.program


@pytest.mark.parametrize(
    "op, example, target",
    [
        pytest.param(*case.values, target, id=f"{case.id}-{target}")
        for target, cases in (("AVX-512", SMALL[::2]), ("two lanes", SMALL))
        for case in cases
    ],
)
def test_op_examples(op, example, target) -> None:
    arrays = inputs_of(op, example, "float32")
    count = 1 if op.name in LAYERS else len(arrays)
    params = [Parameter(array) for array in arrays[count:]]
    results_of(
        lambda *xs: apply(op.name, *xs, *params, **example.attrs),
        arrays[:count],
        TARGETS[target],
    )


def small_cnn() -> nn.Sequential:
    js.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(5, 4),
    )  # fmt: skip


@pytest.mark.parametrize("disabled", [(), ("fuse",), ("segment", "reuse_memory")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_model_with_pooling(target, dtype, disabled) -> None:
    model = small_cnn().to(dtype).eval()
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 6)).astype(dtype)
    (found,) = results_of(model, [x], TARGETS[target], frozenset(disabled))
    close = {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(found, model(x), close, close)


@pytest.mark.parametrize("target", TARGETS)
def test_a_training_step(target) -> None:
    """Random numbers, sums over the batch, updates in place, labels that are bytes."""
    model = small_cnn().train()
    step = js.train_step(
        model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), weight_decay=0.01)
    )
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 2, 5, 6)).astype(np.float32)
    y = rng.integers(4, size=3).astype(np.uint8)
    program = step._program((x, y))
    graph, variables = program.code.fused.graph, program.plan.variables
    params = {param: variables[param.name].numpy() for param in graph.params}
    arrays = [fed(value, x, y, rng) for value in graph.inputs]
    expected = by_references(graph, arrays, params)
    found = interpreted(graph, arrays, params, TARGETS[target])
    for array, reference in zip(found, expected, strict=True):
        size = np.abs(reference).max(initial=0.0)
        np.testing.assert_allclose(array, reference, 1e-4, 1e-5 * size + 1e-12)


def fed(value, x, y, rng) -> np.ndarray:
    """The batch, or some number for what a step is fed with besides."""
    for array in (x, y):
        if value.type.shape[1:] == array.shape[1:] and value.type.dtype == array.dtype:
            return array
    shape = value.type.inner_shape
    if value.type.dtype == "uint32":
        return rng.integers(2**32, size=value.type.shape, dtype=np.uint32)
    return np.asarray(rng.uniform(0.1, 1.0, (*shape,)), value.type.dtype)


def statements(source: str) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(source)))


@pytest.mark.parametrize(
    "name, layers, most",
    [
        ("3 x 3", [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()], 15),
        ("depthwise", [nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU6()], 30),
        ("pooling", [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)], 20),
        ("5 x 5", [nn.Conv2d(8, 24, 5), nn.Tanh()], 20),
    ],
)
def test_tiles_are_few_statements(name, layers, most) -> None:
    """Hundreds of instructions: the compiler's front end takes time for each."""
    x = np.zeros((4, layers[0].in_channels, 32, 32), np.float32)
    program = program_of(nn.Sequential(*layers).eval(), x, TARGETS["AVX-512"])
    (kernel,) = (k for k in program.kernels if "conv2d" in k.name)
    assert len(kernel_text(kernel).splitlines()) > 200
    assert statements(kernel_source(kernel)) <= most


def test_the_source_is_deterministic() -> None:
    x = np.zeros((4, 2, 5, 6), np.float32)
    sources = {
        render(program_of(small_cnn().eval(), x, TARGETS["AVX-512"]), "A title.")
        for _ in range(2)
    }
    (source,) = sources
    assert source.startswith('"""A title.\n')
    assert max(map(len, source.splitlines())) <= 100


def test_tracebacks_show_the_source() -> None:
    x = np.zeros((4, 2, 5, 6), np.float32)
    program = program_of(small_cnn().eval(), x, TARGETS["two lanes"])
    run = load_source(render(program))["run"]
    short = [np.zeros(16, np.float32)] * program.context_slots
    with pytest.raises(IndexError) as caught:
        run(short, 4)
    lines = "".join(traceback.format_exception(caught.value))
    assert "k0_" in lines and "load(in" in lines


def test_places_are_aligned() -> None:
    pointer = place(np.arange(4, dtype=np.float32), "f32", 8)
    assert pointer.elements[pointer.origin] == 2
    with pytest.raises(AssertionError, match="byte 6 is not aligned to f32"):
        place(np.arange(4, dtype=np.float32), "f32", 6)

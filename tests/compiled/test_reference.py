"""Scheduled programs, run by the plain-Python interpreter, against the ops' references.

The interpreter refuses accesses outside of a buffer and starts scratch memory as NaN,
so these tests also see reads and writes that compiled code would get away with.
"""

from __future__ import annotations

import numpy as np
import pytest
from error_bound import analyse, assert_within
from hypothesis import given, settings
from hypothesis import strategies as st
from native_graph import interpreted
from op_cases import CASES, inputs_of
from strategies import Case, cases, randomise

from jitseq import nn
from jitseq.codegen.reference import Pointer, run_kernel
from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Type
from jitseq.ir.target import Target
from jitseq.ir.trace import trace
from jitseq.ir.tracer import apply
from jitseq.ir.types import type_of
from jitseq.nn import Parameter

LAYERS = ("conv2d", "conv_transpose2d", "linear", "batch_norm")
TARGETS = {
    "AVX-512": Target("x86-64-v4", "", 64, 32),
    "two lanes": Target("narrow", "", 8, 16),
}
MOST_ELEMENTS = 2000
SMALL = [
    case
    for case in CASES
    if case.values[0].name not in ("constant", "random_uniform")
    and sum(np.prod(shape) for shape in case.values[1].shapes) <= MOST_ELEMENTS
]


def interpret(
    target, arrays, machine: Target, disabled=frozenset()
) -> list[np.ndarray]:
    """The outputs of a function, by the interpreter instead of compiled code."""
    traced = trace(target, [type_of(array) for array in arrays])
    params = {p: traced.variables[p.name].numpy() for p in traced.graph.params}
    return interpreted(traced.graph, arrays, params, machine, disabled)


def op_as_function(op, example, arrays):
    """The op as a function of its inputs; weights of layers are parameters."""
    count = 1 if op.name in LAYERS else len(arrays)
    params = [Parameter(array) for array in arrays[count:]]
    return lambda *xs: apply(op.name, *xs, *params, **example.attrs), arrays[:count]


@pytest.mark.parametrize("op, example", SMALL)
def test_op_examples(op, example) -> None:
    function, arrays = op_as_function(op, example, inputs_of(op, example, "float32"))
    expected = analyse(function, arrays)
    machine = TARGETS["AVX-512"]
    assert_within(interpret(function, arrays, machine), expected, "float32")


def block() -> nn.Sequential:
    """Several kernels: halos, a pooling epilogue, a view, memory that is reused."""
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.PReLU(5), nn.MaxPool2d(2),
        nn.Conv2d(5, 5, (3, 1), padding=(1, 0), groups=5), nn.SiLU(),
        nn.ConvTranspose2d(5, 3, 2, stride=2), nn.Flatten(), nn.Linear(48, 3),
        nn.Softmax(1),
    )  # fmt: skip
    randomise(model, 0)
    return model.eval()


@pytest.mark.parametrize("disabled", [(), ("fuse",), ("segment", "reuse_memory")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("machine", TARGETS)
def test_a_model(machine, dtype, disabled) -> None:
    model = block().to(dtype)
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(dtype)
    results = interpret(model, [x], TARGETS[machine], frozenset(disabled))
    assert_within(results, analyse(model, [x]), dtype)


@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(cases(most_layers=4, largest=600), st.sampled_from(sorted(TARGETS)))
def test_random_models(case: Case, machine: str) -> None:
    x = case.first[:2]
    results = interpret(case.model, [x], TARGETS[machine])
    assert_within(results, analyse(case.model, [x]), x.dtype)


def test_access_outside_of_a_buffer_is_refused() -> None:
    builder = KernelBuilder()
    source, out = builder.buffer("x", "f32"), builder.buffer("y", "f32", written=True)
    builder.loop(
        "i", 0, 8, 4,
        lambda i: builder.store(out, i, builder.load(source, i + 1, Type("f32", 4))),
    )  # fmt: skip
    kernel = builder.finish("shift")
    result = np.zeros(8, np.float32)
    run_kernel(kernel, [Pointer(np.arange(9, dtype="f4"), 0), Pointer(result, 0)], 1)
    np.testing.assert_array_equal(result, np.arange(1, 9))
    with pytest.raises(IndexError, match="load: element 8 of 8"):
        run_kernel(
            kernel, [Pointer(np.arange(8, dtype="f4"), 0), Pointer(result, 0)], 1
        )


def test_masked_lanes_are_neither_read_nor_written() -> None:
    builder = KernelBuilder()
    source, out = builder.buffer("x", "f64"), builder.buffer("y", "f64", written=True)
    builder.store(out, 0, builder.load(source, 0, Type("f64", 4), valid=3), valid=2)
    kernel = builder.finish("mask")
    result = np.full(3, 7.0)
    run_kernel(kernel, [Pointer(np.arange(3.0), 0), Pointer(result, 0)], 1)
    np.testing.assert_array_equal(result, [0, 1, 7])

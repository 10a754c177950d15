"""Each function of generated kernels, compiled by numba, against its plain meaning."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from jitseq.codegen.llvm.compiler import Library, compile_object, optimise
from jitseq.codegen.llvm.host import selected_target
from jitseq.codegen.llvm.instructions import INSTRUCTIONS
from jitseq.codegen.llvm.math import math_functions
from jitseq.codegen.llvm.types import function_attributes
from jitseq.codegen.numba_cpu import vectors
from jitseq.codegen.numba_cpu.compile import PASSES
from jitseq.codegen.numba_cpu.intrinsics import FUNCTIONS
from jitseq.codegen.reference import DTYPES, Pointer

LANES = 4


def compiled(source: str, elements: tuple[str, ...], *arrays: np.ndarray) -> None:
    """Run the function ``k`` of ``source`` on arrays, which it changes."""
    from jitseq.codegen.numba_cpu.frontend import kernel_text

    target = selected_target()
    text = kernel_text(source, "k", elements)
    math = math_functions(text.math, "#0")
    names = [f"ptr %p{i}" for i in range(len(arrays))]
    known = " ".join(text.globals)
    declares = [line for line in math.declares if line.split("@")[1][:20] not in known]
    entry = f"""define void @entry(ptr %all) #0 {{
  %nothing = alloca ptr
  {loads(len(arrays))}
  %s = call i32 @"k.numba"(ptr %nothing, ptr %nothing, {", ".join(names)}, i64 3, i64 0)
  ret void
}}"""
    parts = [text.definition, entry, math.definitions, *declares, *text.globals]
    module = "\n\n".join([*parts, function_attributes(target)])
    code = compile_object(str(optimise(module, target, PASSES)), target)
    library = Library(code, ("entry",))
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("entry"))(pointers)


def loads(count: int) -> str:
    return "\n  ".join(
        f"%at{i} = getelementptr ptr, ptr %all, i64 {i}\n  %p{i} = load ptr, ptr %at{i}"
        for i in range(count)
    )


def plain(source: str, *arrays: np.ndarray) -> None:
    """The same without numba."""
    names = (*vectors.FUNCTIONS, "kernel")
    namespace: dict[str, Any] = {name: getattr(vectors, name) for name in names}
    namespace["inf"] = np.inf
    exec(source, namespace)
    namespace["k"](*(Pointer(array, 0) for array in arrays), 3, 0)


def kernel(*lines: str, arguments: str = "in0, in1, out2") -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"@kernel\ndef k({arguments}, images, first):\n{body}\n"


def both(source: str, element: str = "f32", extra: str | None = None) -> Any:
    """Output elements of the compiled and of the plain run."""
    rng = np.random.default_rng(3)
    results = []
    values = rng.uniform(-2, 2, 96).astype(DTYPES[element])
    values[[3, 9]] = np.nan, 0.0
    second = np.roll(values, 5)
    if extra is not None:
        second = rng.integers(0, 9, 96).astype(DTYPES[extra])
    for run in (compiled, plain):
        out = np.zeros(96, DTYPES[element])
        arrays = values.copy(), second.copy(), out
        if run is compiled:
            compiled(source, (element, extra or element, element), *arrays)
        else:
            plain(source, *arrays)
        results.append(out)
    return results


X = "x = load(in0, 0, offsets=(0, 8), lanes={lanes})"
Y = "y = load(in1, 0, offsets=(0, 16), lanes={lanes})"
OUT = "store(out2, 0, z, offsets=(0, 16))"


@pytest.mark.parametrize("element", ["f32", "f64"])
@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize(
    "expression",
    [
        "add(x, y)", "sub(x, y)", "mul(x, y)", "div(x, y)", "neg(x)", "abs(x)",
        "sqrt(x)", "maximum(x, y)", "minimum(x, y)", "select(lt(x, y), x, y)",
        "select(gt(x, y), x, y)", "select(le(x, y), x, y)", "select(ge(x, y), x, y)",
        "select(eq(x, y), x, y)", "select(unordered(x, x), y, x)",
        "take(x, order=(1, 0))",
        "add(each(take(x, order=(1,)), times=2), tile(take(y, order=(1,)), times=2))",
        "pack(take(x, order=(1,)), take(y, order=(0,)))",
        "add(x, const(value=-0.5, lanes={lanes}, element='{element}'))",
        "mul(x, const(value=(inf, 2.0), lanes={lanes}, element='{element}'))",
        "first_lanes(x, y, count={some})",
    ],
)  # fmt: skip
def test_exact(expression: str, lanes: int, element: str) -> None:
    if lanes == 1 and "first_lanes" in expression:
        pytest.skip("a scalar has no lanes to choose between")
    some = min(3, lanes)
    lines = (X, Y, f"z = {expression}", OUT)
    source = kernel(
        *(line.format(lanes=lanes, element=element, some=some) for line in lines)
    )
    found, expected = both(source, element)
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("element", ["f32", "f64"])
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "erf"])
@pytest.mark.parametrize("lanes", [1, LANES])
def test_vector_functions(name: str, lanes: int, element: str) -> None:
    source = kernel(X.format(lanes=lanes), f"z = {name}(x)", OUT)
    found, expected = both(source, element)
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(DTYPES[element]).eps)


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize(
    "lines",
    [
        ("z = load(in0, 1, offsets=(0, 8), lanes={lanes}, valid={some})",),
        ("z = load_splat(in0, 1, offsets=(0, 8), lanes={lanes})",),
        ("z = gather(in0, 1, offsets=(0, 2), lanes={lanes}, stride=5, valid={some})",),
        ("p = pin(in0, 7)", "z = load(p, first, offsets=(0, 8), lanes={lanes})"),
        (
            "prefetch(in0, 4, offsets=(0, 9))",
            "z = load(in0, 2 * (images - 1) - 3, offsets=(0, 8), lanes={lanes})",
        ),
        (
            "x = to_float(images + 1, element='f32', offsets=(0, 5))",
            "z = splat(x, lanes={lanes})",
        ),
        (
            "i = table(images - 2, values=(5, 3, 9))",
            "j = imin(imax(i, 2), round_down(images, multiple=2))",
            "z = load(in0, 4 * i + j, offsets=(0, 8), lanes={lanes})",
        ),
    ],
)  # fmt: skip
def test_memory_and_indices(lines: tuple[str, ...], lanes: int) -> None:
    some = max(lanes - 1, 1)
    if lanes == 1 and any("valid" in line for line in lines):
        pytest.skip("scalars have no lanes to leave out")
    source = kernel(*(line.format(lanes=lanes, some=some) for line in lines), OUT)
    found, expected = both(source)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("memory", ["i64", "i32", "u32", "u8"])
def test_integers_of_memory(memory: str) -> None:
    source = kernel(
        "x = load(in1, 0, offsets=(0, 8), lanes=4, element='f32')",
        "y = load_splat(in1, 2, offsets=(0, 1), lanes=4, element='f32')",
        "z = add(x, y)",
        OUT,
    )
    found, expected = both(source, extra=memory)
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_uniform_numbers() -> None:
    source = kernel(
        "i = 9 * images",
        "z = uniform(in1, i, stride=2, lanes=4, element='f32', offsets=(0, 7))",
        OUT,
    )
    found, expected = both(source, extra="u32")
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_lanes_and_rows() -> None:
    source = kernel(
        "rows = load(in0, 12, offsets=(0, 4, 8, 12), lanes=4)",
        "store(out2, 0, transpose(rows), offsets=(0, 4, 8, 12))",
        "few = take(rows, order=(2, 0, 1))",
        "store(out2, 16, sum_lanes(few, lanes=4))",
        "store(out2, 20, reduce_add(few), offsets=(0, 1, 2))",
        "store(out2, 24, reduce_maximum(load(in0, 0, lanes=4)))",
        "store(out2, 28, few, offsets=(0, 4, 8), valid=3)",
    )
    found, expected = both(source)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("columns", [(0, 4), (0, 4, 1, 5, 1, 6)])
def test_steps_of_a_register_tile(columns, pinned, vectors) -> None:
    source = kernel(
        "acc = tile(load(in0, 0, offsets=(0, 12), lanes=4), times=3)",
        f"z = accumulate(in0, images, in1, 2, acc, rows=(0, 5, 30), columns={columns},",
        f"    x_steps=(0, 1, 40), w_steps=(0, 8, 16), pinned={pinned}, ahead=64,",
        f"    w_pinned={not pinned}, vectors={vectors})",
        "store(out2, 0, z, offsets=(0, 4, 8, 12, 16, 20))",
    )
    found, expected = both(source)
    good = np.isfinite(expected)
    assert good[:24].sum() > 10 and expected[:24].any()
    np.testing.assert_allclose(found[good], expected[good], rtol=1e-5, atol=1e-5)


def test_loops_carry_packs_and_tiles() -> None:
    source = kernel(
        "acc = tile(load(in1, 0, lanes=4), times=6)",
        "for n in range(0, images):",
        "    for i in range(0, 8, 2):",
        "        w = load(in1, 4 * i + n, offsets=(0, 4), lanes=4)",
        "        acc = outer_fma(in0, n + i, w, acc, offsets=(0, 5, 9))",
        "store(out2, 0, acc, offsets=(0, 4, 8, 12, 16, 20))",
    )
    found, expected = both(source)
    good = np.isfinite(expected)
    assert good.sum() > 40
    np.testing.assert_allclose(found[good], expected[good], rtol=1e-5, atol=1e-5)


def test_every_instruction_is_a_function_of_both_kinds() -> None:
    assert set(INSTRUCTIONS) <= set(FUNCTIONS)
    assert set(FUNCTIONS) - set(vectors.FUNCTIONS) == {"affine"}  # made of expressions
    assert set(vectors.FUNCTIONS) <= set(FUNCTIONS)

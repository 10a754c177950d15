"""The vector math, compiled and compared with results of higher precision.

float32 results are compared with float64 ones, float64 results with 80-bit ones
where the platform has them and with mpmath (fewer points) where it has not. An error
is counted in units of the last place of the exact result.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import mpmath
import numpy as np
import pytest

from jitseq.codegen.llvm.math import ULP_BOUND, math_functions, symbol
from jitseq.codegen.llvm.math_emit import FORMATS

NAMES = ("exp", "expm1", "log", "log1p", "tanh", "erf")
DTYPES = {"float": np.float32, "double": np.float64}
LANES = {"float": (1, 4, 16), "double": (1, 8)}
CASES = [(n, e, k) for n in NAMES for e in LANES for k in LANES[e]]
WIDE_LONGDOUBLE = np.finfo(np.longdouble).nmant >= 63
INF, NAN = math.inf, math.nan

# Where each function has something to get wrong: kinks of the implementation,
# overflow, underflow and the neighbourhood of poles.
RANGES = {
    "exp": ((-1, 1), (-110, 90), (-104, -85), (-750, 711), (-746, -706)),
    "expm1": ((-1, 1), (-40, 40), (-19, 90), (600, 711)),
    "log": ((0.5, 2), (0.9, 1.1), (0, 100)),
    "log1p": ((-1, -0.9), (-0.5, 1), (0, 100)),
    "tanh": ((-1, 1), (0.5, 0.6), (-22, 22)),
    "erf": ((-1, 1), (0.8, 1.2), (-7, 7)),
}
ODD = ((0.0, 0.0), (-0.0, -0.0))
SATURATING = (*ODD, (INF, 1.0), (-INF, -1.0), (1e30, 1.0), (-50.0, -1.0))
SPECIAL = {
    "exp": (
        (0.0, 1.0),
        (-0.0, 1.0),
        (INF, INF),
        (-INF, 0.0),
        (1e30, INF),
        (-1e30, 0.0),
    ),
    "expm1": (*ODD, (INF, INF), (-INF, -1.0), (1e30, INF), (-1e30, -1.0)),
    "log": (
        (0.0, -INF),
        (-0.0, -INF),
        (1.0, 0.0),
        (INF, INF),
        (-INF, NAN),
        (-1.0, NAN),
    ),
    "log1p": (*ODD, (-1.0, -INF), (INF, INF), (-INF, NAN), (-1.5, NAN)),
    "tanh": SATURATING,
    "erf": SATURATING,
}

Kernel = Callable[[np.ndarray], np.ndarray]


def module_text(name: str, element: str, lanes: int) -> str:
    """A module whose ``kernel(in, out, count)`` maps the function over vectors."""
    text = math_functions([(name, element, lanes)])
    vector = element if lanes == 1 else f"<{lanes} x {element}>"
    align = FORMATS[element].width // 8
    return "\n".join([*sorted(text.declares), text.definitions, f"""
define void @kernel(ptr %in, ptr %out, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %source = getelementptr {vector}, ptr %in, i64 %i
  %target = getelementptr {vector}, ptr %out, i64 %i
  %x = load {vector}, ptr %source, align {align}
  %y = call {vector} {symbol(name, element, lanes)}({vector} %x)
  store {vector} %y, ptr %target, align {align}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %exit
exit:
  ret void
}}"""])  # fmt: skip


def optimised(text: str) -> tuple[Any, Any]:
    """The module for this machine after LLVM's passes, and its target machine."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2,
    )
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


@cache
def compiled(name: str, element: str, lanes: int) -> Kernel:
    """The function over a flat array, padded here to whole vectors."""
    engine = llvm.create_mcjit_compiler(*optimised(module_text(name, element, lanes)))
    engine.finalize_object()
    address = engine.get_function_address("kernel")
    native = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

    def kernel(x: np.ndarray, engine: Any = engine) -> np.ndarray:
        padded = np.resize(x, -(-len(x) // lanes) * lanes)
        result = np.empty_like(padded)
        count = len(padded) // lanes
        native(address)(padded.ctypes.data, result.ctypes.data, count)
        return result[: len(x)]

    return kernel


def samples(name: str, element: str, count: int) -> np.ndarray:
    """Every exponent and both signs, the function's critical ranges, and borders."""
    rng = np.random.default_rng(0)
    dtype = DTYPES[element]
    width = FORMATS[element].width
    any_bits = rng.integers(0, 2**width, count // 2, dtype=f"uint{width}")
    ranges = RANGES[name]
    dense = [rng.uniform(a, b, count // 2 // len(ranges)) for a, b in ranges]
    finfo = np.finfo(dtype)
    edges = np.array([finfo.max, finfo.tiny, finfo.smallest_subnormal], dtype)
    borders = [edges, -edges, np.array(SPECIAL[name], dtype)[:, 0]]
    x = np.concatenate([any_bits.view(dtype), *[d.astype(dtype) for d in dense]])
    return np.concatenate([x, *borders])[~np.isnan(np.concatenate([x, *borders]))]


def exact(name: str, x: np.ndarray) -> np.ndarray:
    """The function in the next wider type that the platform has."""
    if x.dtype == np.float64 and (name == "erf" or not WIDE_LONGDOUBLE):
        return np.array([exact_double(name, v) for v in x.tolist()], np.longdouble)
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        if name == "erf":
            return np.array([math.erf(v) for v in wide.tolist()])
        return np.asarray(getattr(np, name)(wide))


def exact_double(name: str, x: float) -> np.longdouble:
    """The function by mpmath, as the sum of two doubles."""
    special = dict(SPECIAL[name])
    if x in special:
        return np.longdouble(special[x])
    if x < {"log": 0.0, "log1p": -1.0}.get(name, -INF):
        return np.longdouble(NAN)
    with mpmath.workprec(200):
        value = getattr(mpmath, name)(mpmath.mpf(x))
        high = float(value)
        low = 0.0 if math.isinf(high) else float(value - high)
    return np.longdouble(high) + np.longdouble(low)


def ulp_errors(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distances in units of the expected value's last place; inf where not alike."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(got.dtype)
        step = np.spacing(np.minimum(np.abs(rounded), np.finfo(got.dtype).max))
        errors = np.abs(got.astype(expected.dtype) - expected) / step
    exceptional = ~np.isfinite(rounded) | ~np.isfinite(got)
    alike = (rounded == got) | (np.isnan(rounded) & np.isnan(got))
    return np.where(exceptional, np.where(alike, 0.0, INF), errors)


@pytest.mark.parametrize("name, element, lanes", CASES)
def test_error_is_within_the_stated_bound(name: str, element: str, lanes: int) -> None:
    by_mpmath = element == "double" and (name == "erf" or not WIDE_LONGDOUBLE)
    x = samples(name, element, 6_000 if by_mpmath else 200_000)
    errors = ulp_errors(compiled(name, element, lanes)(x), exact(name, x))
    worst = int(np.argmax(errors))
    assert errors[worst] <= ULP_BOUND[name, element], f"at {x[worst]!r}"


@pytest.mark.parametrize("name, element, lanes", CASES)
def test_special_values_and_signed_zeros(name: str, element: str, lanes: int) -> None:
    x, expected = np.array(SPECIAL[name], DTYPES[element]).T
    got = compiled(name, element, lanes)(x)
    np.testing.assert_array_equal(got, expected)
    ordered = ~np.isnan(expected)
    signs = np.signbit(expected[ordered])
    np.testing.assert_array_equal(np.signbit(got[ordered]), signs)


@pytest.mark.parametrize("name, element, lanes", CASES)
def test_every_nan_stays_nan(name: str, element: str, lanes: int) -> None:
    fmt = FORMATS[element]
    payloads = np.arange(1, 2**fmt.fraction, 2**fmt.fraction // 999)
    inf_bits = fmt.encode(INF)
    unsigned = np.dtype(f"uint{fmt.width}")
    nans = (payloads.astype(unsigned) | unsigned.type(inf_bits)).view(DTYPES[element])
    assert np.isnan(nans).all()
    kernel = compiled(name, element, lanes)
    assert np.isnan(kernel(np.concatenate([nans, -nans]))).all()


@pytest.mark.parametrize("name", ["expm1", "log1p", "tanh"])
@pytest.mark.parametrize("element", ["float", "double"])
def test_subnormal_arguments_come_back_unchanged(name: str, element: str) -> None:
    finfo = np.finfo(DTYPES[element])
    x = (
        np.array([1, 2, 3, 2**20 + 1, 2**22 - 1], finfo.dtype)
        * finfo.smallest_subnormal
    )
    both = np.concatenate([x, -x])
    np.testing.assert_array_equal(
        compiled(name, element, LANES[element][-1])(both), both
    )


def test_exp_underflows_gradually() -> None:
    x = np.linspace(-103.97, -87.4, 5000).astype(np.float32)
    got = compiled("exp", "float", 16)(x)
    assert (got > 0).all() and (got < np.finfo(np.float32).tiny).all()
    np.testing.assert_array_equal(np.sort(got), got)


@pytest.mark.parametrize("name, element, lanes", CASES)
def test_code_has_neither_branches_nor_calls(
    name: str, element: str, lanes: int
) -> None:
    text = math_functions([(name, element, lanes)])
    assert " br " not in text.definitions
    features = llvm.get_host_cpu_features()
    if not (features.get("fma") or features.get("neon")):
        pytest.skip("this processor has no fused multiply-add")
    module, machine = optimised(module_text(name, element, lanes))
    code = machine.emit_assembly(module)
    assert not [line for line in code.splitlines() if line.split()[:1] == ["call"]]


def test_text_is_sorted_and_defines_each_function_once() -> None:
    needed = [("tanh", "float", 16), ("exp", "double", 1), ("exp", "float", 8)]
    text = math_functions(needed)
    assert text == math_functions([*reversed(needed), *needed])
    heads = [line for line in text.definitions.splitlines() if "define" in line]
    assert [head.split("(")[0].split()[-1] for head in heads] == [
        "@js.exp.f64", "@js.exp.v8f32", "@js.tanh.v16f32",
    ]  # fmt: skip
    assert "declare double @llvm.fma.f64(double, double, double)" in text.declares
    module = llvm.parse_assembly("\n".join([*text.declares, text.definitions]))
    module.verify()
    declared = {f.name for f in module.functions if f.is_declaration}
    assert declared == {line.split("@")[1].split("(")[0] for line in text.declares}


def test_definition_is_inlined_internal_code() -> None:
    head = math_functions([("erf", "float", 16)]).definitions.splitlines()[0]
    assert head == (
        "define internal <16 x float> @js.erf.v16f32(<16 x float> %x) "
        "alwaysinline nounwind {"
    )

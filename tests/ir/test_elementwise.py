"""`jitseq.elementwise`: values, broadcasting, fusion, names, redefinition, pickling."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from elementwise_functions import (
    FUNCTIONS,
    arrays_for,
    composed,
    hardswish,
    in_python,
    mish,
    registry_as_before,
    softplus,
    swish,
)
from tolerance import assert_close

import jitseq as js
from jitseq import nn
from jitseq.nn import functional as F
from jitseq.runtime.arguments import BACKENDS

__all__ = ["registry_as_before"]
COMPILED = [backend for backend in BACKENDS if backend != "eager"]


@js.elementwise
def unit(x):
    return 1.0


@js.elementwise
def guarded(x):
    return math.log(x) if x > 0 else 0.0


@pytest.mark.parametrize("function, count", FUNCTIONS)
def test_eager_is_python(function, count, rng) -> None:
    arrays = arrays_for(count, rng, "float64")
    if function is composed:  # its body calls ops, which give arrays of no dimension
        expected = mish(arrays[0]) * swish(arrays[1], 1.5)
        expected += softplus(arrays[0] - arrays[1], beta=2.0)
    else:
        expected = in_python(function, *arrays)
    assert_close(function(*arrays), expected, 1 + np.abs(expected))


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function, count", FUNCTIONS)
def test_compiled_is_eager(function, count, dtype, backend, rng) -> None:
    arrays = arrays_for(count, rng, dtype)
    result = js.jit(function, backend=backend)(*arrays)
    expected = function(*arrays)
    assert result.dtype == expected.dtype == dtype
    magnitude = 1 + np.abs(expected)
    assert_close(result, expected, magnitude)
    assert_close(expected, function(*map(np.float64, arrays)), magnitude)


@pytest.mark.parametrize("backend", COMPILED)
def test_sides_not_taken_are_not_seen(backend) -> None:
    x = np.array([-1.0, 0.0, 1.0, np.inf, np.nan], np.float32)
    expected = np.array([0, 0, 0, np.inf, 0], np.float32)
    np.testing.assert_array_equal(guarded(x), expected)
    np.testing.assert_array_equal(js.jit(guarded, backend=backend)(x), expected)


def test_minimum_and_maximum_keep_nan() -> None:
    @js.elementwise
    def largest(x, y):
        return max(0.0, x, y)

    x, y = np.float32([[np.nan, 1.0, -1.0, np.nan], [1.0, np.nan, -2.0, np.nan]])
    expected = np.float32([np.nan, np.nan, 0, np.nan])
    np.testing.assert_array_equal(largest(x, y), expected)
    np.testing.assert_array_equal(js.jit(largest)(x, y), expected)


def test_results_are_new_arrays_of_the_joint_shape() -> None:
    @js.elementwise
    def first(x, y):
        return x

    x, y = np.ones((3, 1), np.float32), np.zeros((2, 3, 4), np.float32)
    assert first(x, y).shape == js.jit(first)(x, y).shape == (2, 3, 4)
    same = first(y, x)
    same[...] = 5
    assert not y.any() and same.flags.writeable
    np.testing.assert_array_equal(js.jit(unit)(x), unit(x))
    assert unit(x).dtype == np.float32


def test_large_masks() -> None:
    """NumPy selects bitwise there; a side that is a number has no dtype."""

    @js.elementwise
    def sign(x):
        return 1 if x > 0 else (-1 if x < 0 else 0)

    x = np.random.default_rng(0).standard_normal((130, 130), dtype=np.float32)
    np.testing.assert_array_equal(sign(x), np.sign(x))
    assert sign(x).dtype == np.float32


def test_arguments() -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    np.testing.assert_array_equal(swish(x), swish(x, 1.0))
    np.testing.assert_array_equal(swish(beta=x, x=2.0), swish(np.float32(2), x))
    assert swish(0.5).dtype == np.float32 and swish(0.5).shape == ()
    np.testing.assert_allclose(
        softplus(x, beta=2), in_python(softplus, x, beta=2), 1e-6
    )
    with pytest.raises(TypeError, match=r"swish\(\): missing"):
        swish()
    with pytest.raises(TypeError, match="too many"):
        mish(x, x)
    with pytest.raises(nn.OptionError, match="beta must be a number"):
        softplus(x, beta=x)
    with pytest.raises(js.DtypeError, match="float32 and float64, got int64"):
        mish(np.arange(3))
    with pytest.raises(js.DtypeError, match="different dtypes"):
        swish(x, x.astype(np.float64))
    with pytest.raises(js.ShapeError, match="do not broadcast"):
        swish(x, x[:4])


def test_numbers_of_a_call_choose_the_code() -> None:
    @js.elementwise
    def powered(x, *, squared):
        return x * x if squared > 0 else x

    x = np.float32([1, 2, 3])
    for value in (0, 1.0, True, np.float32(1)):
        compiled = js.jit(lambda x, value=value: powered(x, squared=value))
        np.testing.assert_array_equal(compiled(x), x * x if value else x)
    with pytest.raises(TypeError, match="missing a required argument: 'squared'"):
        powered(x)
    program = js.trace(lambda x: powered(x, squared=0), x).source(form="program")
    assert "select" not in program and "mul" not in program


@pytest.mark.parametrize("backend", COMPILED)
def test_fuses_into_the_kernel_before_it(backend, rng) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Elementwise(mish), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 33), nn.Elementwise(softplus, beta=2.0),
    ).eval()  # fmt: skip
    x = rng.standard_normal((5, 3, 6, 6), dtype=np.float32)
    compiled = js.jit(model, backend=backend)
    np.testing.assert_allclose(compiled(x), model(x), rtol=2e-5, atol=1e-5)
    ops = [kernel.ops for kernel in compiled.explain(x).kernels]
    assert ("conv2d", mish.op, "max_pool2d") in ops
    assert ("linear", softplus.op) in ops
    assert f"{softplus.op}(%4) {{beta=2.0, threshold=20.0}}" in str(compiled.graph(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_have_signs(backend) -> None:
    @js.elementwise
    def over(x, *, k):
        return x / k

    x = np.float32([1, -1])
    for k in (0.0, -0.0, np.inf):
        compiled = js.jit(lambda x, k=k: over(x, k=k), backend=backend)
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(compiled(x), x / np.float32(k))


def test_assigned_values_are_computed_once() -> None:
    @js.elementwise
    def sigmoids(x):
        e = math.exp(x)
        again = math.exp(x)
        return e / (1 + e) * again

    x = np.ones((4, 16), np.float32)
    programs = [js.trace(f, x).source(form="program") for f in (sigmoids, F.exp)]
    assert programs[0].count(" exp ") == programs[1].count(" exp ") > 0


def test_names() -> None:
    """An op's name belongs to one meaning; jitseq's own ops keep theirs."""

    def make(scale):
        @js.elementwise
        def scaled(x):
            return x * scale

        return scaled

    x = np.ones(3, np.float32)
    double, triple, again = make(2.0), make(3.0), make(2.0)
    both = js.jit(lambda x: (double(x), triple(x), again(x)))
    assert [float(y[0]) for y in both(x)] == [2, 3, 2]
    assert (double.op, triple.op, again.op) == ("scaled", "scaled_2", "scaled")
    assert mish.op == "mish_2"
    np.testing.assert_allclose(F.mish(x), mish(x), rtol=1e-6)


def test_other_letters() -> None:
    def σ(x):
        return 1 / (1 + math.exp(-x))

    function = js.elementwise(σ)
    x = np.linspace(-2, 2, 5, dtype=np.float32)
    np.testing.assert_allclose(js.jit(function)(x), F.sigmoid(x), rtol=1e-6)
    assert function.op.isascii() and function.op.isidentifier()
    square = js.elementwise(lambda x: (x + 1) * (x - 1))
    np.testing.assert_array_equal(square(x), x * x - 1)


PAGE = """
import jitseq as js

@js.elementwise
def act(x):
    return x * {scale}
"""


def cell(tmp_path, names, scale) -> None:
    """Run a file anew that defines ``act``, as a notebook runs an edited cell."""
    file = tmp_path / f"cell_{scale}.py"
    file.write_text(PAGE.format(scale=scale))
    exec(compile(file.read_text(), str(file), "exec"), names)


def test_redefinition(tmp_path) -> None:
    names = {"__name__": "notebook"}
    cell(tmp_path, names, 2)
    compiled = js.jit(lambda x: names["act"](x) + 1.0)
    x = np.float32([1, 2])
    np.testing.assert_array_equal(compiled(x), x * 2 + 1)
    cell(tmp_path, names, 3)
    np.testing.assert_array_equal(compiled(x), x * 3 + 1)
    cell(tmp_path, names, 2)
    np.testing.assert_array_equal(compiled(x), x * 2 + 1)
    compilations = compiled.cache_info().misses
    cell(tmp_path, names, 2)
    compiled(x)
    assert compiled.cache_info().misses == compilations


def test_disk_cache_tells_functions_apart(tmp_path) -> None:
    """Other processes give the same name to another function: its code is its own."""
    (tmp_path / "run.py").write_text(
        "import numpy as np\n" + PAGE.format(scale="SCALE").replace(
            "@js", "import sys\nSCALE = float(sys.argv[1])\n\n@js"
        )
        + "compiled = js.jit(act)\n"
        "print(compiled(np.float32([1]))[0], compiled.cache_info().disk_hits)\n"
    )  # fmt: skip

    def run(scale: str) -> list[str]:
        command = [sys.executable, str(tmp_path / "run.py"), scale]
        environment = {"JITSEQ_CACHE_DIR": str(tmp_path / "cache"), "PATH": ""}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout.split()

    assert [run("2"), run("3"), run("2")] == [["2.0", "0"], ["3.0", "0"], ["2.0", "1"]]


def test_copies_and_pickles(rng) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Elementwise(softplus, beta=0.5))
    x = rng.standard_normal((2, 4), dtype=np.float32)
    compiled = js.jit(model)
    for twin in (pickle.loads(pickle.dumps(compiled)), copy.deepcopy(compiled)):
        np.testing.assert_array_equal(twin(x), compiled(x))
    assert pickle.loads(pickle.dumps(mish)) is mish
    assert copy.deepcopy(model)[1].function is softplus
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(js.elementwise(lambda x: x))


def test_layer(rng) -> None:
    model = nn.Sequential(nn.Elementwise(hardswish), nn.Elementwise(softplus, beta=2))
    assert repr(model[0]) == "Elementwise(hardswish)"
    assert repr(model[1]) == "Elementwise(softplus, beta=2.0, threshold=20.0)"
    assert not model.state_dict()
    x = rng.standard_normal((3, 5), dtype=np.float32)
    compiled = js.jit(model)
    np.testing.assert_allclose(compiled(x), model(x), rtol=1e-6)
    model[1].beta = 0.25
    np.testing.assert_allclose(compiled(x), softplus(hardswish(x), beta=0.25), 1e-6)
    for bad in ({"gamma": 1.0}, {"beta": "1"}):
        with pytest.raises(nn.OptionError):
            nn.Elementwise(softplus, **bad)
    with pytest.raises(nn.OptionError, match=r"made by jitseq\.elementwise"):
        nn.Elementwise(math.exp)


def test_disabled_compilation(monkeypatch) -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    monkeypatch.setenv("JITSEQ_DISABLE", "1")
    compiled = js.jit(mish)
    np.testing.assert_array_equal(compiled(x), mish(x))
    assert compiled.cache_info().compilations == 0


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2, 2, 9)
    expected = torch.nn.functional.mish(x)
    result = js.jit(mish)(x)
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result, expected)
    np.testing.assert_allclose(mish(x), expected, rtol=1e-6, atol=1e-7)


def test_first_calls_of_several_threads() -> None:
    @js.elementwise
    def shared(x):
        return x + 0.125

    x, results = np.float32([1, 2]), []
    threads = [
        threading.Thread(target=lambda: results.append(shared(x))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(np.array_equal(r, x + 0.125) for r in results)

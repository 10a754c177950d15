"""`jit`, `trace` and what they return, apart from numbers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import jitseq as js
from jitseq import nn

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def layers() -> nn.Sequential:
    js.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()


@js.jit
def double(x):
    """Twice the input."""
    return x * 2.0


@js.jit(threads=1)
def shift(x, by):
    return x + by


def test_as_a_decorator_with_and_without_options():
    np.testing.assert_array_equal(double(X), X * 2)
    np.testing.assert_array_equal(shift(X, X), X + X)
    assert isinstance(double, js.Compiled) and shift.threads == 1
    assert double.__name__ == "double" and double.__doc__ == "Twice the input."
    assert "double" in repr(double)


def test_arguments_by_name():
    np.testing.assert_array_equal(shift(by=X, x=-X), X - X)
    np.testing.assert_array_equal(shift(X, by=X * 2), X * 3)
    net = layers()
    np.testing.assert_array_equal(js.jit(net)(input=X), js.jit(net)(X))
    compiled = js.jit(lambda x, *, y: x)
    with pytest.raises(js.UnsupportedError, match="keyword-only argument 'y'"):
        compiled(X, y=X)


def test_a_default_that_is_not_given_is_the_functions_own():
    compiled = js.jit(lambda x, factor=3.0: x * factor)
    np.testing.assert_array_equal(compiled(X), X * 3)
    np.testing.assert_array_equal(compiled(X, factor=4.0), X * 4)


def test_jit_of_a_compiled_callable_is_another_of_the_same_target():
    net = layers()
    first = js.jit(net)
    second = js.jit(first, backend="eager")
    assert second.target is net and second.backend == "eager"
    np.testing.assert_allclose(second(X), first(X), rtol=1e-6)


@pytest.mark.parametrize("what", [3, "text", [1]])
def test_targets_that_cannot_be_called(what):
    with pytest.raises(js.JitseqError, match="cannot be called"):
        js.jit(what)


def test_trace_compiles_at_once():
    compiled = js.trace(layers(), X)
    assert compiled.cache_info().misses == 1 and compiled.cache_info().hits == 0
    compiled(X)
    assert compiled.cache_info()[:2] == (1, 1)


def test_an_unknown_backend():
    with pytest.raises(js.UnsupportedError, match="no backend 'tpu'"):
        js.jit(layers(), backend="tpu")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_numbers_of_threads_that_are_refused(threads):
    with pytest.raises(js.JitseqError, match="not a number of threads"):
        js.jit(layers(), threads=threads)


def test_a_pass_that_does_not_exist():
    with pytest.raises(js.JitseqError, match="no optional pass"):
        js.jit(layers(), disable_passes=["magic"])


@pytest.mark.parametrize(
    ("variable", "value"), [("JITSEQ_BACKEND", "eager"), ("JITSEQ_DISABLE", "1")]
)
def test_the_environment_can_make_everything_eager(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    net, seen = layers(), []
    compiled = js.jit(lambda x: seen.append(type(x)) or net(x))
    for _ in range(2):
        np.testing.assert_array_equal(compiled(X), net(X))
    assert seen == [np.ndarray, np.ndarray]
    assert compiled.cache_info() == (0, 0, 0, 0, ())


def test_a_function_runs_once_whatever_it_does_besides():
    calls = []
    compiled = js.jit(lambda x: calls.append(x.shape[1]) or x * 2.0)
    for n in (1, 5, 2):
        assert compiled(np.ones((n, 3), np.float32)).shape == (n, 3)
    assert calls == [3]


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_of_a_compiled_model(duplicate):
    net = layers()
    compiled = js.jit(net, threads=1)
    expected = compiled(X)
    other = duplicate(compiled)
    assert other is not compiled and other.threads == 1
    assert other.cache_info() == (0, 0, 0, 0, ())
    np.testing.assert_array_equal(other(X), expected)
    shared = other.target is net
    assert shared == (duplicate is copy.copy)
    net[0].weight[...] = 0.0
    assert np.array_equal(other(X), expected) != shared
    assert not np.array_equal(compiled(X), expected)


def test_a_copy_of_a_model_that_was_compiled_stands_alone():
    net = layers()
    compiled = js.jit(net)
    expected = compiled(X)
    twin = copy.deepcopy(net)
    twin[0].weight[...] = 0.0
    np.testing.assert_array_equal(compiled(X), expected)
    assert not np.array_equal(js.jit(twin)(X), expected)


def test_a_decorated_function_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(double)) is double
    assert copy.deepcopy(double) is double


def test_tensors_give_tensors():
    torch = pytest.importorskip("torch")
    compiled = js.jit(layers())
    result = compiled(torch.from_numpy(X).requires_grad_())
    assert isinstance(result, torch.Tensor) and not result.requires_grad
    np.testing.assert_array_equal(result.numpy(), compiled(X))
    with pytest.raises(js.DtypeError):
        compiled(torch.from_numpy(X).bfloat16())


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("trace", "linear("), ("passes", "after fuse"), ("codegen", "kernels in"),
        ("cache", "[jitseq cache] store"),
        ("recompiles", "[jitseq recompiles] Sequential: first call with f32[2, 4]"),
    ],
)  # fmt: skip
def test_log_topics(topic, text, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))
    compiled = js.jit(layers())
    monkeypatch.setenv("JITSEQ_LOG", f"nothing, {topic}")
    compiled(X)
    assert text in capsys.readouterr().err
    compiled(X)
    assert capsys.readouterr().err == ""

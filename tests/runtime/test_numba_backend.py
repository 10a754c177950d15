"""The numba backend behind every front door; `tests/backends` compares the results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jitseq as js
from jitseq import nn, optim
from jitseq.codegen.numba_cpu import compile as numba_compile
from jitseq.codegen.numba_cpu.calls import load_source
from jitseq.codegen.numba_cpu.compile import CodegenError

X = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)


def layers() -> nn.Sequential:
    js.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 10), nn.Tanh(), nn.Linear(10, 4), nn.Softmax(dim=1),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_the_bits_of_the_cpu_backend(batch, target, monkeypatch) -> None:
    monkeypatch.setenv("JITSEQ_TARGET", target)
    model, x = layers(), np.resize(X, (batch, 3, 8, 8))
    expected = js.jit(model)(x)
    found = js.jit(model, backend="numba")(x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-6)


def test_several_threads() -> None:
    model, x = layers(), np.resize(X, (2000, 3, 8, 8))
    compiled = js.jit(model, backend="numba", threads=3)
    flops = sum(kernel.flops for kernel in compiled.explain(x).kernels)
    assert flops * len(x) > 20e6, "too little work for a second thread"
    np.testing.assert_allclose(compiled(x), js.jit(model, threads=1)(x), rtol=1e-5)


def test_a_training_step_has_the_bits_of_the_cpu_backend() -> None:
    y = np.arange(5) % 4
    runs = []
    for backend in ("cpu", "numba"):
        model = layers()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        step = js.train_step(model, nn.CrossEntropyLoss(), optimizer, backend=backend)
        losses = [step(X, y) for _ in range(4)]
        runs.append((losses, [np.array(p) for p in model.state_dict().values()]))
    (expected, values), (found, new) = runs
    assert found == expected and found[-1] < found[0]
    for a, b in zip(new, values, strict=True):
        np.testing.assert_array_equal(a, b)


def test_value_and_grad_and_vjp() -> None:
    model, y = layers(), np.arange(5) % 4
    results = [
        js.value_and_grad(model, nn.CrossEntropyLoss(), backend=backend)(X, y)
        for backend in ("numba", "cpu")
    ]
    assert results[0][0] == results[1][0]
    for name, gradient in results[1][1].items():
        np.testing.assert_array_equal(results[0][1][name], gradient)
    out, pullback = js.vjp(js.jit(model, backend="numba"), X)
    expected, reference = js.vjp(js.jit(model), X)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(pullback(out)[0], reference(out)[0])


def test_the_environment_chooses_the_backend(monkeypatch) -> None:
    monkeypatch.setenv("JITSEQ_BACKEND", "numba")
    compiled = js.trace(layers(), X)
    assert compiled.backend == "numba"
    assert compiled.explain().backend == "numba"
    assert "backend 'numba'" in str(compiled.explain())


def test_forms_of_source() -> None:
    model = layers()
    compiled = js.jit(model, backend="numba")
    text = compiled.source(X)
    assert text == compiled.source(X, form="numba")
    assert "@kernel\ndef k1_conv2d_relu_max_pool2d(" in text
    assert text == js.jit(model).source(X, form="numba")
    assert js.jit(model).source(X) == js.jit(model).source(X, form="llvm")
    llvm = compiled.source(X, form="llvm")
    assert "define void @jitseq_run" in llvm and "alloca" not in llvm
    assert "jitseq_run" in compiled.source(X, form="assembly")
    assert compiled.source(X, form="program") == js.jit(model).source(X, form="program")


def test_the_source_runs_as_plain_python() -> None:
    compiled = js.jit(nn.ReLU(), backend="numba")
    x = X[:2].reshape(2, -1)
    out = np.full_like(x, np.nan)
    scratch = [np.zeros(64, np.uint8)] * 2
    load_source(compiled.source(x))["run"]([x, out, *scratch], 2)
    np.testing.assert_array_equal(out, compiled(x))


def test_profile_times_every_kernel() -> None:
    compiled = js.jit(layers(), backend="numba")
    profile = compiled.profile(X, repeats=3)
    assert len(profile.kernels) == len(compiled.explain(X).kernels)
    assert all(kernel.seconds > 0 for kernel in profile.kernels)


def test_the_log_shows_the_source(monkeypatch, capsys) -> None:
    monkeypatch.setenv("JITSEQ_LOG", "codegen")
    js.jit(nn.Linear(7, 13), backend="numba")(np.ones((3, 7), np.float32))
    assert "@kernel\ndef k0_linear(" in capsys.readouterr().err


def test_a_kernel_that_numba_refuses_is_named(monkeypatch) -> None:
    real = numba_compile.kernel_source

    def broken(kernel):
        return real(kernel) + "\n    unheard_of(images)\n"

    monkeypatch.setattr(numba_compile, "kernel_source", broken)
    with pytest.raises(CodegenError, match="kernel k0_elu") as caught:
        js.jit(nn.ELU(0.37), backend="numba")(X)
    source = Path(str(caught.value.facts["source"]))
    try:
        assert "unheard_of(images)" in source.read_text(encoding="utf-8")
        assert "unheard_of" in str(caught.value)
    finally:
        source.unlink()


def test_equal_kernels_are_translated_once(monkeypatch) -> None:
    js.jit(nn.Linear(9, 14), backend="numba")(np.ones((3, 9), np.float32))
    before = numba_compile._text_of.cache_info()
    model = nn.Sequential(nn.Linear(9, 14))
    compiled = js.jit(model, backend="numba", disable_passes=("segment",))
    compiled(np.ones((3, 9), np.float32))
    after = numba_compile._text_of.cache_info()
    assert compiled.cache_info().compilations == 1
    assert after.misses == before.misses and after.hits > before.hits
    assert after.currsize <= numba_compile.KERNELS


SCRIPT = """
import sys
import numpy as np
import jitseq as js
from jitseq import nn
js.manual_seed(0)
compiled = js.jit(nn.Sequential(nn.Linear(4, 5), nn.Tanh()).eval(), backend=sys.argv[1])
x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
result = compiled(x)
info = compiled.cache_info()
print(info.compilations, info.disk_hits, result.tobytes().hex(), "numba" in sys.modules)
"""


def test_a_second_process_does_not_import_numba(tmp_path) -> None:
    def run(backend: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, backend],
            capture_output=True, text=True, timeout=120, check=True,
            env=os.environ | {"JITSEQ_CACHE_DIR": str(tmp_path)},
        ).stdout.split()  # fmt: skip

    first, second, other = run("numba"), run("numba"), run("cpu")
    assert first[:2] == ["1", "0"] and first[3] == "True"
    assert second[:2] == ["0", "1"] and second[3] == "False"
    assert other[:2] == ["1", "0"], "another backend is another entry"
    assert first[2] == second[2] == other[2]

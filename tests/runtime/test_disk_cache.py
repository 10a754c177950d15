"""Programs on disk, seen from `jit`: whatever is wrong there, results are right.

The unit tests of the files themselves are in test_cache.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.runtime import cache

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())
    return tmp_path / "cache"


def compiled_result() -> tuple[np.ndarray, js.Compiled]:
    """A model of its own each time, so that its code is never in memory."""
    js.manual_seed(0)
    compiled = js.jit(nn.Sequential(nn.Linear(4, 5), nn.Tanh()).eval())
    return compiled(X), compiled


def expected() -> np.ndarray:
    js.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh()).eval()(X)


def check(warnings_wanted: int, compilations: int = 1) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            result, compiled = compiled_result()
            np.testing.assert_allclose(result, expected(), rtol=1e-5)
            count = compiled.cache_info().compilations
            del compiled
            assert count == compilations or count == 0
    assert len([w for w in caught if w.category is RuntimeWarning]) == warnings_wanted


def entries(directory):
    return sorted(directory.glob("*.jitseq"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: b"",
        lambda blob: b"garbage",
        lambda blob: blob[: len(blob) // 2],
        lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]),
        lambda blob: blob[:200] + b"\0" * 50 + blob[250:],
        lambda blob: blob * 2,
    ],
    ids=["empty", "garbage", "half", "last bit", "zeros", "twice"],
)
def test_damaged_entries(directory, damage):
    compiled_result()
    for path in entries(directory):
        path.write_bytes(damage(path.read_bytes()))
    check(warnings_wanted=1)
    _, compiled = compiled_result()
    assert compiled.cache_info().disk_hits == 1  # it was written anew


@pytest.mark.parametrize(
    ("manifest", "code"), [({}, None), (None, b"not object code"), (None, b"")]
)
def test_entries_that_are_whole_but_make_no_sense(directory, manifest, code):
    compiled_result()
    for path in entries(directory):
        entry = cache.load(path.stem)
        if "kernels" in entry.manifest:
            kept = entry.manifest if manifest is None else manifest
            new = cache.Entry(kept, entry.code if code is None else code)
            cache.store(path.stem, new)
    check(warnings_wanted=1)


def test_a_file_in_place_of_the_directory(directory):
    directory.write_text("")
    check(warnings_wanted=1)


def test_a_directory_that_cannot_be_made(monkeypatch):
    monkeypatch.setenv("JITSEQ_CACHE_DIR", "/dev/null/cache")
    check(warnings_wanted=1)


def test_a_directory_of_somebody_else(directory, monkeypatch):
    compiled_result()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(directory).st_uid + 1)
    check(warnings_wanted=1)


def test_a_read_only_directory(directory, monkeypatch):
    directory.mkdir(mode=0o700)
    opened = os.open

    def refuse(path, flags, *rest, **options):  # root may write whatever the mode is
        if flags & os.O_CREAT and str(path).startswith(str(directory)):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    check(warnings_wanted=1)
    assert list(directory.iterdir()) == []


def test_a_full_disk(directory, monkeypatch):
    def fail(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    check(warnings_wanted=1)
    assert list(directory.iterdir()) == []


SCRIPT = """
import sys
import numpy as np
import jitseq as js
from jitseq import nn
js.manual_seed(0)
compiled = js.jit(nn.Sequential(nn.Linear(4, 5), nn.Tanh()).eval())
x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
result = compiled(x)
compiled(x)
info = compiled.cache_info()
print(info.compilations, info.disk_hits, result.tobytes().hex())
print("numba" in sys.modules, "jitseq.codegen.llvm.render" in sys.modules)
"""


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def output(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()


def test_a_second_process_compiles_nothing_and_imports_no_compiler():
    first, second = output(start()), output(start())
    assert first[:2] == ["1", "0"] and second[:2] == ["0", "1"]
    assert first[2] == second[2]
    assert first[3] == "False" and second[3:] == ["False", "False"]


def test_processes_that_write_the_same_entry_at_once(directory):
    results = [output(process) for process in [start() for _ in range(4)]]
    assert len({result[2] for result in results}) == 1
    assert not list(directory.glob("*.tmp"))
    assert output(start())[:2] == ["0", "1"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_processes_that_are_killed_at_any_moment(directory):
    for delay in (0.15, 0.25, 0.35):
        process = start()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert output(start())[2] == output(start())[2]
    assert output(start())[:2] == ["0", "1"]


def test_importing_the_package_loads_no_compiler():
    code = (
        "import sys, jitseq; print([m for m in ('llvmlite', 'numba', 'platformdirs', "
        "'jitseq.passes', 'jitseq.codegen') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert found.stdout.strip() == "[]", found.stderr

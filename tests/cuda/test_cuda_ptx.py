"""What numba makes of the kernels: PTX for three generations, without a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from jitseq.codegen.numba_cuda import shim

ROOT = Path(__file__).parents[2]
SURVEYS = {
    "inference": ("zoo", "cnn32", "autoencoder", "mobilenet_v1", "8.0"),
    "a step": ("steps", "cnn32", "8.0"),
    "Turing": ("zoo", "lenet5", "7.5"),
    "Hopper": ("zoo", "lenet5", "9.0"),
}

pytestmark = pytest.mark.skipif(
    shim.package() is None or not any(map(find_spec, ("nvidia", "cuda.bindings"))),
    reason="needs numba-cuda with its compiler",
)


@cache
def survey(name: str) -> list[dict[str, Any]]:
    """Facts of each kernel, from a process that has not imported the simulator."""
    folders = (ROOT, ROOT / "tests", ROOT / "tests/ir")
    environment = {
        **os.environ,
        "NUMBA_ENABLE_CUDASIM": "0",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    script = Path(__file__).parent / "ptx_survey.py"
    done = subprocess.run(
        [sys.executable, str(script), *SURVEYS[name]],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", SURVEYS)
def test_every_kernel_has_an_entry_with_its_arguments(name: str) -> None:
    found = survey(name)
    assert len(found) >= 4
    for kernel in found:
        assert kernel["entry"], kernel
        assert kernel["arguments"] == kernel["buffers"] + 1, kernel


@pytest.mark.parametrize("name", SURVEYS)
def test_float32_stays_float32(name: str) -> None:
    assert [k["name"] for k in survey(name) if k["doubles"]] == []


@pytest.mark.parametrize("name", SURVEYS)
def test_values_stay_in_registers(name: str) -> None:
    """No local memory, no calls of functions, no division in 64 bits."""
    for kernel in survey(name):
        costs = {key: kernel[key] for key in ("local", "calls", "divisions")}
        assert not any(costs.values()), kernel

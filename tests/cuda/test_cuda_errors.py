"""What is said where backend "cuda" cannot run: no package, no driver, no device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import jitseq as js
from jitseq import nn, optim
from jitseq.cli.info import system_facts
from jitseq.codegen.numba_cuda import shim
from jitseq.errors import DeviceError
from jitseq.runtime.cuda import device


class Missing(Exception):
    """As the packages raise them."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the shim finds: ``machine(package=…, devices=…, capability=…)``."""

    def found(
        package: str | None = "numba-cuda 0.30.4",
        devices: Any = 1,
        capability: tuple[int, int] = (8, 0),
    ) -> None:
        def count() -> int:
            if isinstance(devices, Exception):
                raise shim.driver_error(devices) from devices
            return int(devices)

        monkeypatch.setattr(shim, "simulated", lambda: False)
        monkeypatch.setattr(shim, "package", lambda: package)
        monkeypatch.setattr(shim, "device_count", count)
        monkeypatch.setattr(shim, "capability", lambda: capability)

    return found


CASES = {
    "package": ({"package": None}, "needs the numba-cuda package", "cuda12"),
    "driver": (
        {"devices": Missing("libcuda.so.1: cannot open shared object file")},
        "no CUDA driver that works",
        "nvidia-smi",
    ),
    "no libcuda": (
        {"devices": ImportError("cannot load libcuda")},
        "no CUDA driver that works",
        "NUMBA_ENABLE_CUDASIM=1",
    ),
    "bindings": (
        {"devices": ImportError("No module named 'cuda.core'")},
        "packages are incomplete",
        "pip install",
    ),
    "old driver": (
        {"devices": Missing("CUDA driver version is insufficient for CUDA runtime")},
        "driver is too old",
        "newer driver",
    ),
    "device": ({"devices": 0}, "shows no CUDA device", "nvidia-smi"),
    "hidden": (
        {"devices": Missing("CUDA_ERROR_NO_DEVICE: no CUDA-capable device")},
        "shows no CUDA device",
        "nvidia-smi",
    ),
    "old device": ({"capability": (5, 2)}, "device is too old", 'backend="cpu"'),
}


@pytest.mark.parametrize("case", CASES)
def test_jit_and_train_step_say_what_is_missing(machine: Any, case: str) -> None:
    """At once, not at the first call; info says the same in one line."""
    facts, message, hint = CASES[case]
    machine(**facts)
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), 0.1)
    for make in (
        lambda: js.jit(model, backend="cuda"),
        lambda: js.train_step(model, nn.MSELoss(), optimizer, backend="cuda"),
    ):
        with pytest.raises(DeviceError, match=message) as raised:
            make()
        assert hint in str(raised.value)
    assert message in shim.describe()


def test_other_backends_need_nothing(machine: Any) -> None:
    machine(package=None)
    js.jit(nn.Linear(2, 2), backend="cpu")


def test_info_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim, "describe", lambda: "a device")
    assert system_facts()["cuda"] == "a device"


def test_a_forked_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_made", {})
    monkeypatch.setattr(device, "_forked", [True])
    with pytest.raises(DeviceError, match="forked"):
        device.current_device()


def test_an_unknown_backend() -> None:
    with pytest.raises(js.UnsupportedError, match="no backend 'gpu'") as raised:
        js.jit(np.tanh, backend="gpu")
    assert "'cuda'" in str(raised.value)

"""The one place that asks which CUDA there is: a package, a driver, a device, or none.

Nothing enters but the environment; leaves `numba.cuda` (the ``numba-cuda`` package
where it is installed, else the one built into numba, which serves the simulator only),
the capability of the device, and the `GridTarget` to schedule for. Invariant: what is
missing is a `DeviceError` that says what to install or do, never an error of the
driver's own.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jitseq.errors import DeviceError
from jitseq.ir.target import GridTarget

INSTALL = "pip install 'jitseq[cuda12]' (or jitseq[cuda13], for drivers from 580 on)"
SIMULATOR = "NUMBA_ENABLE_CUDASIM=1, set before Python starts, runs a slow simulator"

SIMULATED_TARGET = GridTarget(
    warp=4, threads=8, items=8, tile=(16, 4), thread_tile=(4, 2), depth=8, splits=2
)
"""Few threads with much work each: the simulator pays for every thread."""

LEAST_CAPABILITY = (7, 0)
"""Exchanges between the threads of a warp need independent threads."""


def cuda_module() -> Any:
    """`numba.cuda`, or its simulator."""
    from numba import cuda

    return cuda


def numba_types() -> Any:
    """The types of values in kernels."""
    from numba.cuda import types

    return types


def simulated() -> bool:
    """Whether `numba.cuda` is its simulator, or will be when it is imported.

    Programs that come from disk need no numba, so it is not imported to look.
    """
    if "numba.cuda" in sys.modules:
        return cuda_module().compile_ptx is None
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "").strip() not in ("", "0")


def package() -> str | None:
    """Name and version of the package that compiles for devices; None without one."""
    try:
        return f"numba-cuda {version('numba-cuda')}"
    except PackageNotFoundError:
        return None


def selected_grid_target() -> GridTarget:
    """What grids are scheduled for: the device, or the simulator."""
    return SIMULATED_TARGET if simulated() else GridTarget()


def device_count() -> int:
    """Devices that the driver shows.

    Raises:
        DeviceError: there is no driver, or it is too old for the package.
    """
    try:
        from cuda.core import Device

        return len(Device.get_all_devices())
    except Exception as error:  # the package has errors of many kinds
        raise driver_error(error) from None


def capability() -> tuple[int, int]:
    """The compute capability of the current device."""
    from cuda.core import Device

    major, minor = Device().compute_capability
    return int(major), int(minor)


def require_device() -> None:
    """Return where kernels can run, on a device or in the simulator.

    Raises:
        DeviceError: a package, a driver or a device is missing or too old.
    """
    if simulated():
        return
    if package() is None:
        raise DeviceError(
            'backend "cuda" needs the numba-cuda package',
            hint=f"{INSTALL}; {SIMULATOR}",
        )
    if device_count() == 0:
        raise no_device()
    found = capability()
    if found < LEAST_CAPABILITY:
        raise DeviceError(
            "the device is too old",
            facts={"compute capability": "{}.{}".format(*found)},
            hint='7.0 (Volta) is the oldest; use backend="cpu"',
        )


def no_device() -> DeviceError:
    """What to say where the driver works and shows nothing."""
    return DeviceError(
        "the driver shows no CUDA device",
        facts={"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")},
        hint=f"look at nvidia-smi; {SIMULATOR}",
    )


def driver_error(error: BaseException) -> DeviceError:
    """What an error at the first look at the driver means."""
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    facts = {"the package says": text}
    lower = text.lower()
    if "no_device" in lower or "no cuda-capable device" in lower:
        return no_device()
    if "insufficient" in lower or "older than" in lower or "too old" in lower:
        return DeviceError(
            "the CUDA driver is too old for the installed package",
            facts=facts,
            hint="install a newer driver, or jitseq[cuda12] instead of jitseq[cuda13]",
        )
    if isinstance(error, ImportError) and "libcuda" not in lower:
        return DeviceError(
            "the CUDA packages are incomplete", facts=facts, hint=INSTALL
        )
    return DeviceError(
        "there is no CUDA driver that works",
        facts=facts,
        hint=f"install NVIDIA's driver (nvidia-smi must run); {SIMULATOR}",
    )


def describe() -> str:
    """One line for ``jitseq info``: package, driver and device, or what is missing."""
    if simulated():
        return f"{package() or 'numba'}, simulator (NUMBA_ENABLE_CUDASIM)"
    try:
        require_device()
    except DeviceError as error:
        return f"{package() or 'no numba-cuda'}: {error.message}"
    from cuda.core import Device, system

    device = Device()
    major, minor = capability()
    return (
        f"{package()}, driver {system.get_user_mode_driver_version()}, {device.name}, "
        f"compute capability {major}.{minor}"
    )

"""Rendered kernels as machine code: Python source, numba's front end, PTX, cubin.

A Program of grids and a compute capability enter; an `ObjectKernel` for each kernel
leaves. Invariant: neither a driver nor a device is needed, and what leaves needs no
numba to be loaded again, so the disk cache holds it as it is. For the simulator the
code is the Python source itself.
"""

from __future__ import annotations

import hashlib
import linecache
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from jitseq.codegen.numba_cuda.functions import namespace
from jitseq.codegen.numba_cuda.render import render
from jitseq.codegen.numba_cuda.shim import cuda_module, numba_types, simulated
from jitseq.errors import DeviceError
from jitseq.ir.program import Kernel, Program

ENTRY = re.compile(r"\.visible \.entry (\w+)\(")


@dataclass(frozen=True)
class ObjectKernel:
    """The code of one kernel and the name of its entry point there."""

    name: str
    entry: str
    code: bytes


def compile_grids(program: Program, capability: tuple[int, int]) -> list[ObjectKernel]:
    """Code for a device of this capability, in order of the program's kernels.

    Raises:
        DeviceError: the package cannot compile for this capability.
    """
    if simulated():
        source = render(program).encode()
        return [ObjectKernel(k.name, k.name, source) for k in program.kernels]
    found = []
    for kernel, text in zip(program.kernels, ptx(program, capability), strict=True):
        matched = ENTRY.search(text)
        assert matched is not None, f"{kernel.name}: no entry in its PTX"
        code = _cubin(text, capability)
        found.append(ObjectKernel(kernel.name, matched.group(1), code))
    return found


def ptx(program: Program, capability: tuple[int, int]) -> list[str]:
    """The PTX of each kernel, for blocks as large as the program's calls have."""
    functions = python_functions(render(program, aligned=True))
    threads = _threads(program)
    cuda, texts = cuda_module(), []
    for index, kernel in enumerate(program.kernels):
        bounds = {"launch_bounds": threads[index]} if index in threads else {}
        text, _ = cuda.compile_ptx(
            functions[kernel.name], _signature(kernel), cc=capability, **bounds
        )
        texts.append(text)
    return texts


def python_functions(source: str) -> dict[str, FunctionType]:
    """Run rendered source; its kernels by name. Tracebacks show its lines."""
    name = f"<jitseq cuda {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    found = namespace()
    known = set(found)
    exec(compile(source, name, "exec"), found)
    return {
        name: value.py_func
        for name, value in found.items()
        if name not in known and hasattr(value, "py_func")
    }


def simulated_kernels(source: str) -> Mapping[str, Any]:
    """Kernels of rendered source for numba's simulator, by name."""
    cuda = cuda_module()
    return {
        name: cuda.jit(_quiet(function))
        for name, function in python_functions(source).items()
    }


def _quiet(function: FunctionType) -> Callable[..., None]:
    """The same without NumPy's warnings; its globals are those of the kernel, where
    the simulator exchanges `numba.cuda`."""
    errstate = np.errstate

    def run(*arguments: Any) -> None:
        with errstate(all="ignore"):
            function(*arguments)

    scope = function.__globals__
    return FunctionType(run.__code__, scope, function.__name__, None, run.__closure__)


def _threads(program: Program) -> dict[int, int]:
    """The largest block of each kernel that is called."""
    found: dict[int, int] = {}
    for segment in program.segments:
        for call in segment.calls:
            assert call.launch is not None
            found[call.kernel] = max(found.get(call.kernel, 0), call.launch.threads)
    return found


def _signature(kernel: Kernel) -> Any:
    types = numba_types()
    elements = {
        "f32": types.float32,
        "f64": types.float64,
        "i64": types.int64,
        "i32": types.int32,
        "u32": types.uint32,
        "u8": types.uint8,
    }
    pointers = [types.CPointer(elements[buffer.element]) for buffer in kernel.buffers]
    return types.void(*pointers, types.int64)


def _cubin(text: str, capability: tuple[int, int]) -> bytes:
    """Machine code of one module, by nvJitLink, or by the driver where that lacks."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    major, minor = capability
    options = LinkerOptions(arch=f"sm_{major}{minor}")
    try:
        linked = Linker(ObjectCode.from_ptx(text.encode()), options=options)
        return bytes(linked.link("cubin").code)
    except Exception as error:  # errors of several libraries, with no common base
        raise DeviceError(
            f"kernels cannot be compiled for compute capability {major}.{minor}",
            facts={"the linker says": str(error).split("\n")[0]},
            hint="a newer device needs newer packages: pip install -U numba-cuda",
        ) from error

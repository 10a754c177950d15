"""Imports go downward only, and compilers are loaded when something is compiled."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jitseq

PACKAGE = Path(jitseq.__file__).parent
FOUNDATION = {"errors", "config"}
IR = {"ir", *FOUNDATION}
RUNTIME = {"codegen", "passes", "nn", "optim", *IR}
API = {"runtime", "interop", "datasets", "display", "compare", *RUNTIME}
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "ir": FOUNDATION,
    "nn": IR,
    "optim": IR,
    "passes": IR,
    "codegen": IR,
    "datasets": FOUNDATION,
    "runtime": RUNTIME,
    "interop": {"nn", *IR},
    "display": {"runtime", *RUNTIME},
    "compare": {"runtime", "display", *RUNTIME},
    "api": API,
    "comparisons": {"api", *API},
    "cli": {"api", "jitseq", *API},
    "__main__": {"cli"},
    "jitseq": {"api", "comparisons", *API},
}
"""What each part of the package may import; ``jitseq`` is the package itself."""

SHOWN = (
    "ir.graph", "runtime.compiled", "runtime.history", "runtime.inspect",
    "runtime.report", "runtime.training",
)  # fmt: skip
"""What shows itself imports its display when it is shown."""

EXCEPTIONS = {
    ("jitseq.ir.tracer", "nn"),
    ("jitseq.runtime.history", "matplotlib"),
    ("jitseq.compare.timings", "matplotlib"),
    ("jitseq.compare.contestants", "torch"),
    ("jitseq.runtime.progress", "tqdm"),
    *((f"jitseq.{shown}", "display") for shown in SHOWN),
}
"""The methods of a traced array are the functional forms, imported when called; plots
and progress bars import what they are drawn with when they are drawn, benchmarks the
libraries that they time."""

RELATIVE = "<relative>"
COMPILERS = {"llvmlite", "numba"}
OPTIONAL = {
    "torch", "onnx", "onnxruntime", "openvino", "matplotlib", "safetensors",
    "tqdm",
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = ("jitseq", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def part_of(module: str) -> str:
    """``jitseq.ir.op`` is in ``ir``; the package itself is ``jitseq``."""
    return module.split(".")[1] if "." in module else "jitseq"


def imported(source: str) -> Iterator[str]:
    """Every module that a source imports, at any depth, as an absolute name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield RELATIVE
        elif isinstance(node, ast.ImportFrom) and node.module == "jitseq":
            yield from (submodule(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def submodule(name: str) -> str:
    """``from jitseq import nn`` imports jitseq.nn; other names are the package's."""
    return f"jitseq.{name}" if name in ALLOWED else "jitseq"


def violations(module: str, source: str) -> list[str]:
    """The imports of ``module`` that its place in the house forbids."""
    return [target for target in imported(source) if not may_import(module, target)]


def may_import(module: str, target: str) -> bool:
    part, top = part_of(module), target.split(".")[0]
    if top in COMPILERS:
        return part in ("codegen", "runtime")
    if top in OPTIONAL:
        return part == "interop" or (module, top) in EXCEPTIONS
    if top != "jitseq":
        return top != RELATIVE
    wanted = part_of(target)
    return wanted in ALLOWED[part] | {part} or (module, wanted) in EXCEPTIONS


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: module_name(path)
)
def test_imports_go_downward(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jitseq.ir.graph", "from jitseq import nn"),
        ("jitseq.ir.graph", "def f():\n    import jitseq.passes.fuse"),
        ("jitseq.passes.fuse", "from jitseq.codegen.llvm.host import host_target"),
        ("jitseq.codegen.llvm.render", "from jitseq.passes.fuse import fuse"),
        ("jitseq.nn.linear", "import jitseq"),
        ("jitseq.nn.linear", "import numba"),
        ("jitseq.runtime.cache", "import torch"),
        ("jitseq.ir.graph", "from .types import TensorType"),
    ],
)
def test_forbidden_imports_are_found(module: str, source: str) -> None:
    assert violations(module, source)


def test_import_loads_no_compiler() -> None:
    program = (
        "import sys, jitseq, jitseq.nn, jitseq.datasets, jitseq.cli\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "numpy" in loaded
    assert loaded & (COMPILERS | OPTIONAL) == set()

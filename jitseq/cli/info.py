"""``jitseq info``: versions, target, cache, threads, and peers, one line each."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jitseq import config

NEEDED = ("numpy", "llvmlite", "numba", "platformdirs")
PEERS = ("torch", "onnx", "onnxruntime", "openvino", "jax")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("info", help="versions, processor, cache, threads")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    facts = system_facts()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def system_facts() -> dict[str, str]:
    """What a bug report should say, by name."""
    import jitseq
    from jitseq.codegen.llvm.host import selected_target
    from jitseq.codegen.numba_cuda import shim
    from jitseq.runtime.cache import cache_directory, entries
    from jitseq.runtime.threads import get_num_threads

    target = selected_target()
    files = entries()
    size = sum(file.size for file in files)
    set_here = {name: config.setting(name) for name in config.VARIABLES}
    return {
        "jitseq": jitseq.__version__,
        "python": f"{platform.python_version()} ({platform.platform()})",
        **{name: installed_version(name) for name in NEEDED},
        "target": target.cpu,
        "vectors": f"{target.vector_bytes * 8} bits, {target.registers} registers",
        "cuda": shim.describe(),
        "threads": str(get_num_threads()),
        "cache": f"{cache_directory() or 'not used'} "
        f"({len(files)} programs, {size / 1024:.0f} KiB)",
        **{name: value for name, value in set_here.items() if value},
        "peers": ", ".join(f"{name} {installed_version(name)}" for name in PEERS),
    }


def installed_version(package: str) -> str:
    """The version of an installed distribution, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

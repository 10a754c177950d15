"""``jitseq bench``: hands its options to ``benchmarks.bench``, which is optional."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from jitseq.errors import JitseqError


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="time the model zoo beside the installed peers",
        add_help=False,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        bench = importlib.import_module("benchmarks.bench")
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", "benchmarks.bench"):
            raise
        raise JitseqError(
            "the benchmarks are not installed beside jitseq",
            hint="run this command in a checkout of the repository",
        ) from None
    status: int = bench.main(options.rest)
    return status

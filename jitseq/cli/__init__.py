"""The command line: ``python -m jitseq COMMAND``, also installed as ``jitseq``.

Arguments enter, text on stdout and an exit status leave. One file per command, each
with ``add_parser`` and ``run``. Invariant: an error that jitseq raises on purpose is
printed on stderr without a traceback, and the status is then 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jitseq.cli import bench, cache, demo, explain, info
from jitseq.errors import JitseqError

COMMANDS = (demo, bench, explain, info, cache)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 after a `JitseqError`."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "bench":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        status: int = options.run(options)
    except JitseqError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return status


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitseq",
        description="Compile Sequential models to fused native kernels.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser

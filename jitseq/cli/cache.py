"""``jitseq cache info|clear``: the compiled programs kept on disk."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("cache", help="list or remove compiled programs")
    parser.add_argument("action", choices=("info", "clear"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return print_entries() if options.action == "info" else remove_entries()


def print_entries() -> int:
    from jitseq.runtime.cache import cache_directory, entries

    print(f"directory  {cache_directory() or 'not used'}")
    files = entries()
    print(f"programs   {len(files)}")
    print(f"size       {sum(file.size for file in files) / 1024:.1f} KiB")
    for file in files:
        print(f"  {file.size / 1024:8.1f} KiB  {file.path.name}")
    return 0


def remove_entries() -> int:
    from jitseq.runtime.cache import clear

    print(f"removed {clear()} programs")
    return 0

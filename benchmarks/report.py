"""The files that a benchmark writes: JSON, a chart, a page.

Options and results enter; files leave. Invariant: whatever keeps a file from being
written is found while the options are read, before anything is measured.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.util import find_spec
from pathlib import Path

from benchmarks.results import Results

PLOTS = (".png", ".svg")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options ``--json``, ``--plot`` and ``--html``."""
    option = parser.add_argument
    option("--json", type=output, metavar="FILE", help="write the measurements too")
    option(
        "--plot", type=plot_output, metavar="FILE",
        help="draw the ratios, as PNG or SVG; needs matplotlib",
    )  # fmt: skip
    option("--html", type=output, metavar="FILE", help="write a page of all of it")


def outputs_of(options: argparse.Namespace) -> list[str]:
    """The options among them that were given."""
    given = (name for name in ("json", "plot", "html") if getattr(options, name))
    return [f"--{name}" for name in given]


def output(given: str) -> Path:
    """A file that can be written; raises `argparse.ArgumentTypeError` otherwise."""
    path = Path(given)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    return path


def plot_output(given: str) -> Path:
    """As `output`, for a chart, whose format is that of the file's name."""
    if Path(given).suffix.lower() not in PLOTS:
        raise argparse.ArgumentTypeError(f"{given} ends in neither .png nor .svg")
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError(
            'a chart needs matplotlib: pip install "jitseq[plot]"'
        )
    return output(given)


def write_outputs(options: argparse.Namespace, results: Results) -> None:
    """Write the files that the options ask for, and say so."""
    if options.json:
        text = json.dumps(results.record(), indent=1) + "\n"
        options.json.write_text(text, encoding="utf-8")
    if options.plot:
        from benchmarks.report_plot import figure

        figure(results).savefig(options.plot)
    if options.html:
        from benchmarks.report_page import page

        options.html.write_text(page(results), encoding="utf-8")
    for name in outputs_of(options):
        print(f"wrote {getattr(options, name.removeprefix('--'))}")

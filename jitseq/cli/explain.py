"""``jitseq explain FILE:MODEL --input 1x3x32x32``: what jitseq makes of a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from jitseq.errors import JitseqError

DTYPES = ("float32", "float64")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="layers, graph, kernels, and what was not fused",
        description="Compile a model in eval mode and print its layers, its graph, "
        "the fused kernels, and the reason for each pair that was not fused.",
    )
    parser.add_argument(
        "model",
        metavar="FILE:MODEL",
        help="a file (net.py) or module (package.net), and a Module in it or a "
        "function that returns one",
    )
    parser.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="SHAPE",
        help="shape of an input with its batch, as 1x3x32x32; once for each input",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="write a page with summary, drawing, profile and memory instead",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import jitseq as js
    from jitseq.cli.load import load_model, sample_input

    model = load_model(options.model).to(options.dtype).eval()
    samples = [sample_input(shape, options.dtype) for shape in options.input]
    compiled = js.jit(model)
    if options.html is not None:
        return write_page(compiled, samples, options)
    graph = compiled.graph(*samples)
    print(layer_table(model, graph))
    print(f"\n{graph}\n")
    print(compiled.explain(*samples))
    return 0


def write_page(compiled: Any, samples: Any, options: argparse.Namespace) -> int:
    """Write one self-contained page; returns the exit status."""
    from jitseq.display.page import page

    title = f"{options.model}, input {', '.join(options.input)}"
    content = page(compiled, samples, title)
    try:
        options.html.write_text(content, encoding="utf-8")
    except OSError as error:
        raise JitseqError(f"cannot write {options.html}: {error.strerror}") from None
    print(f"wrote {options.html} ({len(content) / 1e3:.0f} KB)")
    return 0


def layer_table(model: Any, graph: Any) -> str:
    """One line per leaf layer: name, layer, output type, parameters; then their sum."""
    rows = [("layer", "", "output", "parameters")]
    for name, layer in model.named_modules():
        if next(layer.children(), None) is not None:
            continue
        value = graph.layer_outputs.get(name)
        output = "" if value is None else str(value.type)
        rows.append((name, repr(layer), output, f"{parameter_count(layer):,}"))
    rows.append(("total", "", "", f"{parameter_count(model):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}"
        f"  {row[3]:>10}"
        for row in rows
    )


def parameter_count(module: Any) -> int:
    return sum(int(np.prod(parameter.shape)) for parameter in module.parameters())

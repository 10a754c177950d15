"""Parts of the documentation that the code itself prints.

Nothing enters; `GENERATED` maps the name of a block in a page to the function that
makes its Markdown. Invariant: the text is the same on every machine, because programs
are scheduled for a fixed target and weights are never printed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from benchmarks.zoo import ZOO
from jitseq import config, errors, nn
from jitseq.codegen.llvm.host import LEVELS
from jitseq.codegen.llvm.math import ULP_BOUND
from jitseq.codegen.llvm.render import render
from jitseq.ir.op import Op
from jitseq.ir.program_text import kernel_text, program_text
from jitseq.ir.trace import Traced, trace
from jitseq.ir.types import TensorType
from jitseq.passes.pipeline import Scheduled, optimise, schedule

MODEL, SHAPE = "cnn32", (64, 3, 32, 32)
TARGET = LEVELS["x86-64-v4"]
KERNEL = "k1_"
"""The first convolution of the worked example, by the start of its name."""


@cache
def example() -> Traced:
    return trace(ZOO[MODEL].build(), [TensorType("float32", SHAPE)])


@cache
def scheduled() -> Scheduled:
    return schedule(optimise(example().graph), TARGET)


def fenced(text: str, language: str = "text") -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```{language}\n{lines}\n```\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def kernel_excerpt() -> str:
    """The loops, the first instructions of the reduction, and one pooled output."""
    kernel = next(
        k for k in scheduled().planned.program.kernels if k.name.startswith(KERNEL)
    )
    lines = kernel_text(kernel).splitlines()
    first = next(i for i, line in enumerate(lines) if "carry" in line)
    end = next(i for i, line in enumerate(lines) if i > first and "yield" in line)
    stored = next(i for i, line in enumerate(lines) if i > end and "] = %" in line)
    parts = [
        [f"kernel {kernel.name}{lines[0]}", "  …"],
        lines[first - 4 : first + 9],
        ["          …"],
        lines[end : stored + 1],
        ["        …"],
    ]
    return fenced("\n".join(line for part in parts for line in part))


def llvm_excerpt() -> str:
    """The reduction loop's head and first multiply-adds of the same kernel."""
    text = render(scheduled().planned.program, TARGET)
    lines = text[text.index(f"@{KERNEL}") :].splitlines()
    phi = next(i for i, line in enumerate(lines) if "phi <16 x float>" in line)
    asm = next(i for i, line in enumerate(lines) if i > phi and "asm" in line)
    used = next(i for i, line in enumerate(lines) if i > asm and "fmuladd" in line)
    parts = [lines[phi - 2 : phi + 2], ["  …"], lines[asm - 3 : used + 1], ["  …"]]
    return fenced("\n".join(line for part in parts for line in part), "llvm")


def segments() -> str:
    text = program_text(scheduled().planned.program)
    return fenced(text[text.index("segment 0") :])


def signature(function: Any) -> str:
    """Parameter names and defaults, without annotations."""
    parameters = inspect.signature(function).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(plain))


def about(value: Any) -> str:
    """The first paragraph of a docstring, as the cell of a table."""
    first = (inspect.getdoc(value) or "").split("\n\n")[0]
    return first.replace("\n", " ").replace("|", "\\|")


def entry(name: str, value: Any) -> tuple[str, str]:
    return f"`{name}{signature(value)}`", about(value)


def layers() -> str:
    found = [(name, getattr(nn, name)) for name in sorted(nn.__all__)]
    described = (nn.Module, nn.Sequential)
    rows = [entry(*item) for item in found if is_a(item[1], nn.Module, described)]
    return table(("layer", "what it computes"), rows)


def nn_errors() -> str:
    found = [(name, getattr(nn, name)) for name in sorted(nn.__all__)]
    kinds = [item for item in found if is_a(item[1], errors.JitseqError)]
    return errors_table((f"nn.{name}", kind) for name, kind in kinds)


def is_a(value: Any, base: type, but: tuple[type, ...] = ()) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value not in but


def functions() -> str:
    names = nn.functional.__all__
    rows = [entry(name, getattr(nn.functional, name)) for name in names]
    return table(("function", "what it computes"), rows)


def error_classes() -> str:
    kinds = [errors.JitseqError, *errors.JitseqError.__subclasses__()]
    own = [kind for kind in kinds if kind.__module__ == errors.__name__]
    return errors_table((kind.__name__, kind) for kind in own)


def errors_table(kinds: Iterable[tuple[str, type]]) -> str:
    rows = []
    for name, kind in kinds:
        bases = [b.__name__ for b in kind.__bases__ if b is not errors.JitseqError]
        rows.append((f"`{name}`", ", ".join(bases), about(kind)))
    return table(("error", "also a", "raised for"), rows)


def variables() -> str:
    rows = [(f"`{name}`", about) for name, about in config.VARIABLES.items()]
    return table(("variable", "meaning"), rows)


def ulp_bounds() -> str:
    names = dict.fromkeys(name for name, _ in ULP_BOUND)
    rows = [
        (f"`{name}`", str(ULP_BOUND[name, "float"]), str(ULP_BOUND[name, "double"]))
        for name in names
    ]
    return table(("function", "float32", "float64"), rows)


def shape_error() -> str:
    """What a user reads who gives grey images to a model of coloured ones."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
    try:
        trace(model.eval(), [TensorType("float32", (64, 1, 32, 32))])
    except errors.ShapeError as error:
        return fenced(f"ShapeError: {error}")
    raise AssertionError("grey images were accepted")


GENERATED: dict[str, Callable[[], str]] = {
    "traced": lambda: fenced(str(example().graph)),
    "passes": lambda: fenced(str(scheduled().fused.graph)),
    "fused": lambda: fenced(str(scheduled().fused)),
    "segments": segments,
    "program": kernel_excerpt,
    "llvm": llvm_excerpt,
    "shape_error": shape_error,
    "op": lambda: fenced(inspect.getdoc(Op) or ""),
    "layers": layers,
    "nn_errors": nn_errors,
    "functions": functions,
    "errors": error_classes,
    "variables": variables,
    "ulp": ulp_bounds,
}

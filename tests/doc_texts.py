"""Parts of the documentation that the code itself prints.

Nothing enters; `GENERATED` maps the name of a block in a page to the function that
makes its Markdown. Invariant: the text is the same on every machine, because programs
are scheduled for a fixed target and weights are never printed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import doc_backends
import doc_reference
import numpy as np

from benchmarks.zoo import ZOO
from jitseq import config, errors, nn, optim
from jitseq.codegen.llvm.host import LEVELS
from jitseq.codegen.llvm.math import ULP_BOUND
from jitseq.codegen.llvm.render import render
from jitseq.ir.op import Op
from jitseq.ir.program_text import kernel_text, program_text
from jitseq.ir.trace import Traced, trace
from jitseq.ir.types import TensorType
from jitseq.passes.pipeline import Scheduled, optimise, schedule
from jitseq.runtime.step_program import Plan, Planner
from jitseq.runtime.training_checks import composed, trace_loss, trained

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


def step_model() -> nn.Sequential:
    """The worked example of a training step."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


@cache
def step_plan() -> Plan:
    model, loss = step_model(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arrays = [np.zeros((64, 1, 8, 8), np.float32), np.zeros(64, np.int64)]
    traced = trace_loss(composed(model, loss), arrays, dynamic_batch=True)
    planner = Planner(traced, optimizer, trained(model, loss, optimizer))
    return planner.plan(share=False, updates=True, waiting={}, clip_norm=None)


@cache
def step_scheduled() -> Scheduled:
    return schedule(optimise(step_plan().graph), TARGET)


def nodes_only(text: str) -> str:
    """A graph's text without the list of params, attributes and layers."""
    lines = [
        re.sub(r" \{[^{}]*\}|\s+# \S+$", "", line) for line in text.splitlines()[1:]
    ]
    kept = [line for line in lines if not line.startswith("  param ")]
    return "\n".join(["graph(…) {", *kept])


def step_groups() -> str:
    """All kernels, and the first pair that stays apart for each reason."""
    fused = step_scheduled().fused
    reasons = {refusal.reason: refusal for refusal in reversed(fused.refusals)}
    shown = set(map(id, reasons.values()))
    text = str(fused).splitlines()[: len(fused.groups)]
    text += [f"apart  {one}" for one in fused.refusals if id(one) in shown]
    return fenced("\n".join(text).replace("crossentropyloss", "loss"))


def step_segments() -> str:
    text = program_text(step_scheduled().planned.program)
    return fenced(text[text.index("segment 0") :])


def step_kernel() -> str:
    """The convolution's weight gradient: a row of pixels, and the end of a tile."""
    kernels = step_scheduled().planned.program.kernels
    kernel = next(k for k in kernels if "conv2d_weight_grad" in k.name)
    lines = kernel_text(kernel).splitlines()
    loops = [i for i, line in enumerate(lines) if " for " in line]
    end = next(i for i, line in enumerate(lines) if i > loops[-1] and "yield" in line)
    stored = next(
        i for i, line in enumerate(lines) if "out2[" in line and "= %" in line
    )
    parts = [
        [f"kernel {kernel.name}{lines[0]}", "  …"],
        lines[loops[-1] : loops[-1] + 6],
        ["          …"],
        lines[end - 1 : end + 1],
        ["  …"],
        lines[stored - 2 : stored + 1],
        ["    …"],
        lines[-3:],
    ]
    return fenced("\n".join(line for part in parts for line in part))


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
    "step_loss": lambda: fenced(nodes_only(str(step_plan().traced.graph))),
    "step_graph": lambda: fenced(nodes_only(str(step_plan().graph))),
    "step_groups": step_groups,
    "step_segments": step_segments,
    "step_kernel": step_kernel,
    "shape_error": shape_error,
    "op": lambda: fenced(inspect.getdoc(Op) or ""),
    "layers": layers,
    "nn_errors": nn_errors,
    "functions": functions,
    "errors": error_classes,
    "variables": variables,
    "ulp": ulp_bounds,
    **doc_backends.GENERATED,
    **doc_reference.GENERATED,
}

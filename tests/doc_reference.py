"""The API reference: every public name with its signature and docstring, as Markdown.

Nothing enters; `GENERATED` maps the name of a block in ``docs/reference.md`` to the
function that makes its Markdown. Invariant: the text has no addresses, paths or times,
so it is the same on every machine.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from doc_arguments import MEANINGS

import jitseq as js
from jitseq import datasets, errors, nn, optim
from jitseq.compare.difference import Difference
from jitseq.compare.timings import Benchmark
from jitseq.display.memory_plan import MemoryPlan
from jitseq.display.summary import Summary
from jitseq.ir.graph import Graph
from jitseq.optim import lr_scheduler
from jitseq.runtime.report import Profile, Report

WIDTH = 80
SHOWN = ("__call__",)
"""Methods with underscores whose arguments users give."""

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$")
CODE = re.compile(r"``[^`]+``|`[^`]+`")
LISTED = re.compile(r"^ *(\w+(?:, \w+)*)(?::| {2,}\w)", re.M)
HEADS = {"Args": "Arguments"}

FUNCTIONS = {
    "Compiling": ("jit", "trace", "elementwise", "summary"),
    "Training": ("train_step", "fit"),
    "Gradients": ("vjp", "value_and_grad"),
    "Comparing": ("diff", "benchmark"),
    "Settings": ("manual_seed", "get_num_threads", "set_num_threads"),
}

CLASSES: dict[str, tuple[type, ...]] = {
    "Compiled callables": (js.Compiled, js.TrainStep),
    "What they show": (js.History, Report, Profile, Summary, MemoryPlan, Graph),
    "What comparisons show": (Difference, Benchmark),
    "Modules": (nn.Module, nn.Sequential),
    "Optimisers": tuple(
        sorted(
            (x for x in vars(optim).values() if inspect.isclass(x)),
            key=lambda kind: (kind is not optim.Optimizer, kind.__name__),
        )
    ),
    "Schedules": tuple(
        getattr(lr_scheduler, name)
        for name in sorted(
            lr_scheduler.__all__, key=lambda name: (name != "LRScheduler", name)
        )
    ),
    "Errors": (
        errors.JitseqError,
        *(getattr(js, n) for n in js.__all__ if n.endswith("Error") and n[0] != "J"),
    ),
}


class Entry(NamedTuple):
    """``name`` is the heading, ``key`` the entry's name in `MEANINGS`."""

    name: str
    key: str
    value: Any
    document: str
    level: int


def entries() -> dict[str, list[Entry]]:
    """All public names, by group."""
    found: dict[str, list[Entry]] = {}
    for group, names in FUNCTIONS.items():
        found[group] = [entry(f"js.{n}", n, getattr(js, n)) for n in names]
    found["Data sets"] = [
        entry(f"js.datasets.{name}", name, value)
        for name, value in vars(datasets).items()
        if getattr(value, "__module__", "") == datasets.__name__ and name[0].islower()
    ]
    for group, kinds in CLASSES.items():
        found[group] = [e for kind in kinds for e in of_class(kind)]
    return found


def entry(name: str, key: str, value: Any, level: int = 3) -> Entry:
    return Entry(name, key, value, inspect.getdoc(value) or "", level)


def of_class(kind: type) -> Iterator[Entry]:
    """A class, then the members that it defines or takes from an undocumented base."""
    name = next((n for n in js.__all__ if getattr(js, n) is kind), None)
    shown = f"js.{name}" if name else f"{prefix_of(kind)}{kind.__name__}"
    own = inspect.cleandoc(vars(kind).get("__doc__") or "")
    yield Entry(shown, kind.__name__, kind, own, 3)
    for member, value in sorted(members(kind).items()):
        key = f"{kind.__name__}.{member}"
        yield entry(key, key, value, 4)


def prefix_of(kind: type) -> str:
    parts = kind.__module__.split(".")[1:]
    if parts[0] == "nn":
        return "nn."
    if parts[0] == "optim":
        return "optim.lr_scheduler." if "lr_scheduler" in parts else "optim."
    return ""


def members(kind: type) -> dict[str, Any]:
    """Public methods and properties, those of documented bases left out."""
    documented = {known for kinds in CLASSES.values() for known in kinds}
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        ours = base.__module__.startswith("jitseq.")
        if not ours or (base is not kind and base in documented):
            continue
        fields = {f.name for f in dataclasses.fields(base)} if is_record(base) else ()
        for name, value in vars(base).items():
            public = not name.startswith("_") or name in SHOWN
            if public and name not in fields and is_member(value):
                found[name] = value.__func__ if is_static(value) else value
    inherited = {n for b in kind.__mro__[1:] if b in documented for n in vars(b)}
    return {n: v for n, v in found.items() if v.__doc__ or n not in inherited}


def is_static(value: Any) -> bool:
    return isinstance(value, staticmethod | classmethod)


def is_member(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, property) or is_static(value)


def is_record(kind: Any) -> bool:
    return inspect.isclass(kind) and dataclasses.is_dataclass(kind)


def is_made_like_its_base(value: Any) -> bool:
    """Whether a class has no arguments of its own."""
    bases = value.__mro__ if inspect.isclass(value) else ()
    maker = next((base for base in bases if "__init__" in vars(base)), value)
    return maker is not value


def parameters(value: Any) -> list[inspect.Parameter]:
    """What a caller gives; none of a property, or of a class made like its base."""
    if isinstance(value, property) or is_made_like_its_base(value):
        return []
    found = inspect.signature(value).parameters.values()
    return [p for p in found if p.name not in ("self", "cls")]


def unexplained(one: Entry) -> list[str]:
    """Parameters that the docstring names neither in code nor in a list."""
    code = CODE.findall(one.document) + LISTED.findall(one.document)
    named = set(re.findall(r"\w+", " ".join(code)))
    return [p.name for p in parameters(one.value) if p.name not in named]


def meaning_key(one: Entry, name: str) -> str | None:
    """Where `MEANINGS` has the argument."""
    keys = (f"{one.key}.{name}", name)
    return next((key for key in keys if key in MEANINGS), None)


# Markdown


class Text:
    """Prints as it stands, where a signature would print a value."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(one: Entry) -> str:
    """As Python writes it, one parameter a line where it is long."""
    if is_made_like_its_base(one.value):
        return f"class {one.name}({', '.join(b.__name__ for b in one.value.__bases__)})"
    if isinstance(one.value, property):
        returned = inspect.signature(one.value.fget).return_annotation
        return f"{one.name}: {returned}"
    returned = inspect.signature(one.value).return_annotation
    if inspect.isclass(one.value):
        returned = inspect.Signature.empty
    given = [as_written(parameter) for parameter in parameters(one.value)]
    text = str(inspect.Signature(given, return_annotation=written(returned)))
    if len(one.name + text) <= WIDTH:
        return one.name + text
    end = closing(text)
    lines = "".join(f"    {part},\n" for part in separated(text[1:end]))
    return f"{one.name}(\n{lines}){text[end + 1 :]}"


def as_written(parameter: inspect.Parameter) -> inspect.Parameter:
    """Annotations and defaults as in the source; functions and objects as dots."""
    default = parameter.default
    if default is not inspect.Parameter.empty:
        dots = callable(default) or "<" in repr(default)
        default = Text("…" if dots else repr(default).replace("'", '"'))
    return parameter.replace(default=default, annotation=written(parameter.annotation))


def written(annotation: Any) -> Any:
    return Text(annotation) if isinstance(annotation, str) else annotation


def closing(text: str) -> int:
    """Where the bracket at the start is closed."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if not depth:
            return index
    raise ValueError(text)


def separated(text: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    found, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found]


def markdown(document: str) -> str:
    """A docstring: sections become lists, sessions of Python become code."""
    blocks = re.split(r"\n\s*\n", document)
    return "\n\n".join(part for block in blocks for part in block_parts(block))


def block_parts(block: str) -> Iterator[str]:
    head, _, rest = block.partition("\n")
    section = SECTION.match(head)
    if block.startswith(">>> "):
        yield f"```pycon\n{block}\n```"
    elif re.match(r"\w+ {2,}\w", block):
        yield f"```text\n{block}\n```"
    elif section and section[1] == "Returns":
        yield f"**Returns:** {textwrap.dedent(rest)}"
    elif section:
        yield f"**{HEADS.get(section[1], section[1])}:**"
        yield "\n".join(items(textwrap.dedent(rest)))
    else:
        yield re.sub(r"::$", ":", block)


def items(text: str) -> Iterator[str]:
    """``name: meaning`` over several lines, as items of a list."""
    for line in text.splitlines():
        if line.startswith(" "):
            yield f"  {line.strip()}"
        else:
            name, colon, meaning = line.partition(":")
            yield f"- `{name}`{colon}{meaning}"


def described(one: Entry) -> str:
    """One entry of the page."""
    parts = [f"{'#' * one.level} {one.name}", f"```py\n{signature(one)}\n```"]
    parts.append(markdown(one.document))
    more = [
        f"- `{name}`: {MEANINGS[key]}."
        for name in unexplained(one)
        if (key := meaning_key(one, name))
    ]
    if more:
        parts.append(f"**{'Fields' if is_record(one.value) else 'Arguments'}:**")
        parts.append("\n".join(more))
    return "\n\n".join(part for part in parts if part)


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")


def contents(groups: dict[str, list[Entry]]) -> str:
    def links(found: Iterable[Entry]) -> str:
        names = (one.name for one in found if one.level == 3)
        return ", ".join(f"[`{name}`](#{anchor(name)})" for name in names)

    rows = [f"- [{g}](#{anchor(g)}): {links(found)}" for g, found in groups.items()]
    return "\n".join(rows)


def reference() -> str:
    groups = entries()
    parts = [contents(groups)]
    for group, found in groups.items():
        parts += [f"## {group}", *map(described, found)]
    lines = "\n\n".join(parts).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


GENERATED: dict[str, Callable[[], str]] = {"reference": reference}

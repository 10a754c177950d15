"""The syntax tree of a Python function, from its source.

A function enters, defined by ``def`` or ``lambda`` in a file or a notebook cell; leaves
its parsed form with the line where it stands. Invariant: what is returned compiles to
the function's own operations, so a file that was edited after its import is noticed.
"""

from __future__ import annotations

import ast
import copy
import dis
import inspect
import linecache
import textwrap
from dataclasses import dataclass
from types import CodeType, FunctionType

from jitseq.errors import UnsupportedError

ELSEWHERE = ("RESUME", "COPY_FREE_VARS", "MAKE_CELL", "RETURN_VALUE")
"""Instructions whose positions are not those of a part of the body."""


@dataclass(frozen=True)
class Source:
    """A function's body as statements; ``first`` is the line number of line 1."""

    function: FunctionType
    name: str
    statements: tuple[ast.stmt, ...]
    first: int

    def line(self, node: ast.AST) -> str:
        """``file:line`` of a part of the body."""
        number = self.first + getattr(node, "lineno", 1) - 1
        return f"{self.function.__code__.co_filename}:{number}"


def source_of(function: FunctionType, name: str) -> Source:
    """The parsed source.

    Raises `UnsupportedError` where there is none, or where it is not what was compiled.
    """
    is_lambda = function.__name__ == "<lambda>"
    try:
        parsed, first = _lambda(function) if is_lambda else _definition(function)
    except (OSError, SyntaxError, ValueError) as error:
        raise UnsupportedError(
            f"elementwise {name}: there is no source to read ({error})",
            facts={"line": _place(function)},
            hint="write it with def, in a file or a notebook cell",
        ) from None
    if not _compiles_to(parsed, function.__code__):
        raise UnsupportedError(
            f"elementwise {name}: the source is not that of the function",
            facts={"line": _place(function)},
            hint="import the file again after editing it; other decorators do not mix",
        )
    if isinstance(parsed, ast.Lambda):
        returned = ast.copy_location(ast.Return(parsed.body), parsed.body)
        return Source(function, name, (returned,), first)
    return Source(function, name, tuple(parsed.body), first)


def _place(function: FunctionType) -> str:
    """``file:line`` of the function's first line."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _definition(function: FunctionType) -> tuple[ast.FunctionDef, int]:
    lines, first = inspect.getsourcelines(function)
    (parsed,) = ast.parse(textwrap.dedent("".join(lines))).body
    if not isinstance(parsed, ast.FunctionDef):
        raise ValueError(f"it is not a def but a {type(parsed).__name__}")
    return parsed, first


def _lambda(function: FunctionType) -> tuple[ast.Lambda, int]:
    """The body from the positions that its bytecode has; inspect knows only lines."""
    code = function.__code__
    items = (i for i in dis.get_instructions(code) if i.opname not in ELSEWHERE)
    spans = [item.positions for item in items]
    starts = [(p.lineno, p.col_offset) for p in spans if p is not None]
    ends = [(p.end_lineno, p.end_col_offset) for p in spans if p is not None]
    if any(None in place for place in (*starts, *ends)):
        raise ValueError("a lambda's position is not recorded")
    first, start = min(starts)
    last, end = max(ends)
    assert first is not None and last is not None
    lines = [linecache.getline(code.co_filename, n) for n in range(first, last + 1)]
    if not all(lines):
        raise ValueError(f"no lines {first} to {last} in {code.co_filename}")
    encoded = [line.encode() for line in lines]
    encoded[-1] = encoded[-1][:end]
    encoded[0] = encoded[0][start:]
    body = b"".join(encoded).decode()
    header = f"lambda {', '.join(_parameters(function))}: (\n"
    parsed = ast.parse(f"{header}{body}\n)", mode="eval").body
    if not isinstance(parsed, ast.Lambda):
        raise ValueError("a lambda's source is not where its bytecode says")
    return parsed, first - 1


def _parameters(function: FunctionType) -> list[str]:
    parts: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(str(parameter.replace(default=parameter.empty)))
    return parts


def _compiles_to(parsed: ast.FunctionDef | ast.Lambda, code: CodeType) -> bool:
    """Whether the source means ``code``; closure names are globals in isolation."""
    alone: ast.stmt
    if isinstance(parsed, ast.Lambda):
        alone = ast.Expr(parsed)
    else:
        alone = copy.copy(parsed)
        alone.decorator_list = []
    module = ast.fix_missing_locations(ast.Module([alone], []))
    codes = _codes(compile(module, "<elementwise>", "exec"))
    made = next((item for item in codes if item.co_name == code.co_name), None)
    return made is not None and _operations(made) == _operations(code)


def _operations(code: CodeType) -> list[tuple[str, object]]:
    """Names, constants and operators in order; closures and globals look the same."""
    found: list[tuple[str, object]] = []
    for item in dis.get_instructions(code):
        if item.opname.startswith(("LOAD_", "STORE_")):
            if not isinstance(item.argval, CodeType):
                found.append(("name", repr(item.argval)))  # 0 is not -0
        elif item.opname.startswith(("BINARY", "COMPARE", "UNARY", "POP_JUMP")):
            found.append((item.opname, item.argrepr.split(" ")[0]))
    return found


def _codes(code: CodeType) -> list[CodeType]:
    """Code objects among the constants, outermost first."""
    inner = [item for item in code.co_consts if isinstance(item, CodeType)]
    return inner + [deeper for item in inner for deeper in _codes(item)]

"""The source of a kernel → a Python function that numba can take.

Enters text in which calls give literals as keywords and indices are sums of multiples;
leaves a function in which each call is one of a `Specialised` value, with run-time
arguments only. Invariant: lines keep their numbers, and every meaning stays: numba has
no tuples of literals, and takes its time for each node of an expression.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from math import inf, nan
from typing import Any, NamedTuple

LITERALS = {"range": range, "float": float}
"""What literals may be written with, beside numbers, strings and tuples."""


class Specialised(NamedTuple):
    """One of `FUNCTIONS` with its literals: what a call in a kernel means."""

    name: str
    literals: Mapping[str, Any]


def function(source: str, name: str) -> Any:
    """The Python function ``name``, its calls replaced by `Specialised` ones.

    Keyword arguments are evaluated with the constants that the source assigns before.
    """
    tree = ast.parse(source)
    constants: dict[str, Any] = {"inf": inf, "nan": nan}
    calls = _Calls(constants)
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            assert isinstance(target, ast.Name)
            constants[target.id] = _literal(statement.value, constants)
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            statement.decorator_list = []
            kernel = calls.visit(statement)
    namespace: dict[str, Any] = dict(calls.namespace)
    module = ast.Module([kernel], type_ignores=[])
    code = compile(ast.fix_missing_locations(module), file_name(name), "exec")
    exec(code, namespace)
    return namespace[name]


def file_name(name: str) -> str:
    """What stands for a file in errors of the kernel ``name``."""
    return f"<jitseq numba {name}>"


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    code = compile(ast.Expression(node), "<literal>", "eval")
    value = eval(code, {"__builtins__": LITERALS}, dict(constants))
    return tuple(value) if isinstance(value, range) else value


class _Calls(ast.NodeTransformer):
    """Replaces calls by name with calls of values that carry the literals."""

    def __init__(self, constants: Mapping[str, Any]) -> None:
        self.constants = constants
        self.namespace: dict[str, Specialised] = {}
        self._names: dict[str, str] = {}

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.args = [self.visit(argument) for argument in node.args]
        called = node.func
        assert isinstance(called, ast.Name)
        if called.id == "range":
            return node
        literals = {
            keyword.arg: _literal(keyword.value, self.constants)
            for keyword in node.keywords
            if keyword.arg is not None
        }
        node.func = self._function(called.id, literals, called)
        node.keywords = []
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """A sum of multiples becomes one call: numba takes its time for each node."""
        terms = _terms(node)
        const = terms.pop("", 0)
        literals = {"coefficients": tuple(terms.values()), "const": const}
        names: list[ast.expr] = [ast.Name(name, ast.Load()) for name in terms]
        call = ast.Call(self._function("affine", literals, node), names, [])
        return ast.copy_location(call, node)

    def _function(
        self, name: str, literals: Mapping[str, Any], place: ast.AST
    ) -> ast.Name:
        key = repr((name, sorted(literals.items())))
        unique = self._names.setdefault(key, f"{name}_{len(self._names)}")
        self.namespace[unique] = Specialised(name, literals)
        return ast.copy_location(ast.Name(unique, ast.Load()), place)


def _terms(node: ast.expr) -> dict[str, int]:
    """Coefficients by name, that of the empty name being the constant.

    Raises:
        TypeError: the expression is not a sum of multiples.
    """
    match node:
        case ast.Constant(value=int(value)):
            return {"": value}
        case ast.Name(id=name):
            return {name: 1}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return {name: -c for name, c in _terms(operand).items()}
        case ast.BinOp(op=ast.Add() | ast.Sub() as op, left=left, right=right):
            found = _terms(left)
            sign = 1 if isinstance(op, ast.Add) else -1
            for name, c in _terms(right).items():
                found[name] = found.get(name, 0) + sign * c
            return found
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            a, b = _terms(left), _terms(right)
            if a.keys() == {""} or b.keys() == {""}:
                factor, rest = (a[""], b) if a.keys() == {""} else (b[""], a)
                return {name: factor * c for name, c in rest.items()}
    raise TypeError(f"not a sum of multiples: {ast.unparse(node)}")

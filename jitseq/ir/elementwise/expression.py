"""The value of a Python expression on terms.

A syntax tree and the local names enter; leaves a term, or for a condition a function
that chooses between two terms. Names from outside of the function, such as constants
and other elementwise functions, have the meaning that they have at that moment.
Invariant: whatever has no form in kernels raises `UnsupportedError`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from jitseq.errors import UnsupportedError
from jitseq.ir.elementwise.calls import FUNCTIONS, KNOWN, known_name
from jitseq.ir.elementwise.definition import Definition, place_of
from jitseq.ir.elementwise.source import Source
from jitseq.ir.elementwise.term import Term, const, is_const, make

Condition = Callable[[Term, Term], Term]
"""Chooses the first term where it holds and the second elsewhere."""
Bound = Term | Condition

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div",
}  # fmt: skip
COMPARISONS: dict[type[ast.AST], str] = {
    ast.Lt: "lt", ast.Gt: "gt", ast.LtE: "le", ast.GtE: "ge",
}  # fmt: skip
LARGEST_POWER = 64
INSTEAD: dict[type[ast.AST], str] = {
    ast.For: "write the terms out, or compute on arrays in a function under js.jit",
    ast.While: "write the terms out, or compute on arrays in a function under js.jit",
    ast.Subscript: "give each array an argument of its own",
    ast.Raise: "return float('nan') as math.nan for what has no value",
    ast.Try: "nothing raises: results that do not exist are NaN",
    ast.FunctionDef: "define it outside and decorate it with js.elementwise",
    ast.Lambda: "define it outside and decorate it with js.elementwise",
    ast.NamedExpr: "assign in a statement of its own",
    ast.Tuple: "return one number; write a function for each result",
}


class Expressions:
    """Evaluates the expressions of one function."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.outside = _outside(source)

    def refuse(self, node: ast.AST, what: str, hint: str) -> NoReturn:
        text = ast.unparse(node).split("\n")[0]
        raise UnsupportedError(
            f"elementwise {self.source.name}: {what}",
            facts={"line": f"{self.source.line(node)}: {text}"},
            hint=hint,
        )

    def bound(self, node: ast.expr, names: dict[str, Bound]) -> Bound:
        """The value of an assignment: a number or a condition."""
        if isinstance(node, ast.Compare | ast.BoolOp) or _is_not(node):
            return self.condition(node, names)
        return self.number(node, names)

    def number(self, node: ast.expr, names: dict[str, Bound]) -> Term:
        if isinstance(node, ast.Constant | ast.Attribute):
            return self.constant(node, self.static(node))
        if isinstance(node, ast.Name):
            return self.named(node, names)
        if isinstance(node, ast.BinOp):
            return self.binary(node, names)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return make("neg", self.number(node.operand, names))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd):
            return self.number(node.operand, names)
        if isinstance(node, ast.IfExp):
            choose = self.condition(node.test, names)
            sides = (self.number(side, names) for side in (node.body, node.orelse))
            return choose(*sides)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        if isinstance(node, ast.Compare | ast.BoolOp) or _is_not(node):
            self.refuse(node, "uses a condition as a number", "write 1.0 if … else 0.0")
        self.no_form(node, "numbers, arithmetic, conditions and functions are")

    def no_form(self, node: ast.AST, otherwise: str) -> NoReturn:
        what = f"a {type(node).__name__} has no form in kernels"
        self.refuse(node, what, INSTEAD.get(type(node), otherwise))

    def named(self, node: ast.Name, names: dict[str, Bound]) -> Term:
        known = names.get(node.id)
        if isinstance(known, Term):
            return known
        if known is not None:
            self.refuse(node, "uses a condition as a number", "write 1.0 if … else 0.0")
        return self.constant(node, self.static(node))

    def constant(self, node: ast.expr, value: Any) -> Term:
        number = isinstance(value, (int, float, np.integer, np.floating))
        if not number or isinstance(value, bool):
            self.refuse(
                node,
                f"a {type(value).__name__} is not a number",
                "numbers from outside are ints or floats; arrays are arguments",
            )
        try:
            return const(float(value))
        except OverflowError:
            self.refuse(node, "a number is too large", "numbers are float64 at most")

    def static(self, node: ast.expr) -> Any:
        """The object that a name, or an attribute of a module, stands for now."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            if node.id in self.outside:
                return self.outside[node.id]
            self.refuse(
                node,
                f"{node.id} is not known here",
                "assign it on every way to this line, or before the function",
            )
        if isinstance(node, ast.Attribute):
            owner = self.static(node.value)
            if isinstance(owner, ModuleType) and hasattr(owner, node.attr):
                return getattr(owner, node.attr)
            self.refuse(node, "reads an attribute", "pass it as an argument")
        self.no_form(node, "numbers, arithmetic, conditions and functions are")

    def binary(self, node: ast.BinOp, names: dict[str, Bound]) -> Term:
        left = self.number(node.left, names)
        right = self.number(node.right, names)
        if isinstance(node.op, ast.Pow):
            return self.power(node, left, right)
        op = OPERATORS.get(type(node.op))
        if op is None:
            hint = "use + - * / and ** with an integer"
            self.refuse(node, f"{type(node.op).__name__} has no form in kernels", hint)
        return make(op, left, right)

    def power(self, node: ast.BinOp, base: Term, exponent: Term) -> Term:
        if is_const(base) and is_const(exponent):
            power = _static_power(base.value, exponent.value)
            if power is None:
                self.refuse(node, "is no real number", "the largest is about 1.8e308")
            return const(power)
        number = float(exponent.value or 0) if is_const(exponent) else 0.5
        if not number.is_integer() or abs(number) > LARGEST_POWER:
            self.refuse(
                node,
                f"an exponent is an integer constant up to {LARGEST_POWER}",
                "use math.sqrt(x) for x ** 0.5, math.exp(y * math.log(x)) for x ** y",
            )
        result = _integer_power(base, int(abs(number)))
        return make("div", const(1.0), result) if number < 0 else result

    # conditions

    def condition(self, node: ast.expr, names: dict[str, Bound]) -> Condition:
        if isinstance(node, ast.Compare):
            return self.comparison(node, names)
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(value, names) for value in node.values]
            return _all(parts) if isinstance(node.op, ast.And) else _any(parts)
        if _is_not(node):
            inner = self.condition(node.operand, names)  # type: ignore[attr-defined]
            return lambda yes, no: inner(no, yes)
        if isinstance(node, ast.Name) and node.id in names:
            known = names[node.id]
            if not isinstance(known, Term):
                return known
        elif isinstance(node, ast.Call):
            if known_name(self.static(node.func)) == "isnan":
                (x,) = self.operands(node, names, 1)
                return _mask(make("isnan", x))
        elif isinstance(node, ast.Constant | ast.Name | ast.Attribute):
            value = self.static(node)
            if isinstance(value, bool):
                return _mask(const(value))
        self.refuse(node, "uses a number as a condition", "compare it: x != 0")

    def comparison(self, node: ast.Compare, names: dict[str, Bound]) -> Condition:
        values = [self.number(item, names) for item in (node.left, *node.comparators)]
        parts = []
        for op, a, b in zip(node.ops, values, values[1:]):
            if isinstance(op, ast.Eq | ast.NotEq):
                equal = _all([_mask(make("le", a, b)), _mask(make("ge", a, b))])
                parts.append(_opposite(equal) if isinstance(op, ast.NotEq) else equal)
            elif type(op) in COMPARISONS:
                parts.append(_mask(make(COMPARISONS[type(op)], a, b)))
            else:
                self.no_form(node, "numbers are compared with < <= > >= == !=")
        return _all(parts)

    # calls

    def call(self, node: ast.Call, names: dict[str, Bound]) -> Term:
        if isinstance(node.func, ast.Name) and node.func.id in names:
            self.refuse(node, "calls an argument", "call functions by their own name")
        function = self.static(node.func)
        definition = getattr(function, "definition", None)
        if isinstance(definition, Definition):
            return self.inline(node, definition, names)
        name = known_name(function)
        if name is None or name == "isnan":
            what = f"calls {ast.unparse(node.func)}, which has no form in kernels"
            hint = f"known are {KNOWN}, and functions under js.elementwise"
            self.refuse(node, what, hint)
        if name == "where":
            return self.chosen(node, names)
        count, build = FUNCTIONS[name]
        return build(*self.operands(node, names, count))

    def chosen(self, node: ast.Call, names: dict[str, Bound]) -> Term:
        if len(node.args) != 3 or node.keywords:
            self.refuse(node, "np.where takes 3 arguments", "np.where(condition, a, b)")
        choose = self.condition(node.args[0], names)
        return choose(*(self.number(item, names) for item in node.args[1:]))

    def operands(
        self, node: ast.Call, names: dict[str, Bound], count: int | None
    ) -> list[Term]:
        """As many numbers as the function takes; None is two or more."""
        given = len(node.args)
        fits = given >= 2 if count is None else given == count
        if node.keywords or not fits:
            wanted = "2 or more" if count is None else count
            self.refuse(node, f"takes {wanted} numbers", "give them by position")
        return [self.number(item, names) for item in node.args]

    def inline(
        self, node: ast.Call, definition: Definition, names: dict[str, Bound]
    ) -> Term:
        """The body of another elementwise function, for these arguments."""
        if definition.place == place_of(self.source.function):
            self.refuse(node, "calls itself", "recursion has no form in kernels")
        unknown = "unpacks arguments", "give each argument by name or position"
        if any(isinstance(item, ast.Starred) for item in node.args):
            self.refuse(node, *unknown)
        named = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                self.refuse(node, *unknown)
            named[keyword.arg] = self.number(keyword.value, names)
        inputs = [self.number(item, names) for item in node.args]
        try:
            return definition.at(inputs, named)
        except TypeError as error:
            self.refuse(node, str(error), f"its signature is {definition.signature}")


def _outside(source: Source) -> dict[str, Any]:
    """What names that are not local stand for."""
    function = source.function
    code = function.__code__
    found = {**vars(builtins), **function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        found.pop(name, None)
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # assigned after the decorator
    for name in code.co_varnames:
        found.pop(name, None)
    return found


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _static_power(base: Any, exponent: Any) -> float | None:
    """A power of numbers; None where Python has no real one."""
    try:
        power = base**exponent
    except (OverflowError, ZeroDivisionError):
        return None
    return power if isinstance(power, float) else None


def _integer_power(base: Term, exponent: int) -> Term:
    """By squaring; 1 for the exponent 0."""
    if exponent < 2:
        return base if exponent else const(1.0)
    half = _integer_power(base, exponent // 2)
    square = make("mul", half, half)
    return make("mul", square, base) if exponent % 2 else square


def _mask(term: Term) -> Condition:
    return lambda yes, no: make("where", term, yes, no)


def _opposite(condition: Condition) -> Condition:
    return lambda yes, no: condition(no, yes)


def _all(parts: Iterable[Condition]) -> Condition:
    first, *others = parts
    if not others:
        return first
    rest = _all(others)
    return lambda yes, no: first(rest(yes, no), no)


def _any(parts: Iterable[Condition]) -> Condition:
    first, *others = parts
    if not others:
        return first
    rest = _any(others)
    return lambda yes, no: first(yes, rest(yes, no))

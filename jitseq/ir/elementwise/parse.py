"""From a Python function of scalars to terms.

The body is executed once on terms, by its syntax tree: names are bound to terms or
conditions, an ``if`` is executed on both sides. Leaves a term for each returned number.
Invariant: a construct that has no form in kernels is refused with its line and with
what would work, when the function is decorated.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import FunctionType

from jitseq.ir.elementwise.expression import Bound, Expressions
from jitseq.ir.elementwise.source import Source, source_of
from jitseq.ir.elementwise.term import Term

Results = tuple[Term, ...]

MOST_SPLITS = 1000
"""What follows an ``if`` that returns is executed twice."""


def parse(
    function: FunctionType, name: str, leaves: dict[str, Term], several: bool = False
) -> Results:
    """What the function returns for ``leaves``, by parameter names.

    ``several`` allows a tuple of numbers. Raises `UnsupportedError`.
    """
    return _Body(source_of(function, name), several).results(leaves)


class _Body(Expressions):
    """Executes statements; ``several`` allows a tuple of results."""

    def __init__(self, source: Source, several: bool) -> None:
        super().__init__(source)
        self.several = several
        self.splits = 0

    def results(self, leaves: dict[str, Term]) -> Results:
        results = self.run(self.source.statements, dict(leaves))
        if results is None:
            last = self.source.statements[-1]
            self.refuse(last, "may end without a result", "end with a return")
        return results

    def run(
        self, statements: Sequence[ast.stmt], names: dict[str, Bound]
    ) -> Results | None:
        """Execute; the results once it has returned, else None and new ``names``."""
        for i, statement in enumerate(statements):
            if isinstance(statement, ast.Return):
                return self.returned(statement, names)
            if isinstance(statement, ast.If) and _returns(statement):
                return self.split(statement, statements[i + 1 :], names)
            self.step(statement, names)
        return None

    def step(self, statement: ast.stmt, names: dict[str, Bound]) -> None:
        if isinstance(statement, ast.If):
            self.merge(statement, names)
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self.assign(statement.targets[0], statement.value, names)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self.assign(statement.target, statement.value, names)
        elif isinstance(statement, ast.AugAssign):
            self.augment(statement, names)
        elif not _does_nothing(statement):
            self.no_form(statement, "assignments, if and return are understood")

    def assign(
        self, target: ast.expr, value: ast.expr, names: dict[str, Bound]
    ) -> None:
        if not isinstance(target, ast.Name):
            self.refuse(target, "assigns to more than a name", "assign one name a line")
        names[target.id] = self.bound(value, names)

    def augment(self, statement: ast.AugAssign, names: dict[str, Bound]) -> None:
        if not isinstance(statement.target, ast.Name):
            self.refuse(statement, "assigns to more than a name", "assign to a name")
        read = ast.copy_location(
            ast.Name(statement.target.id, ast.Load()), statement.target
        )
        sum_ = ast.BinOp(read, statement.op, statement.value)
        value = ast.copy_location(sum_, statement)
        names[statement.target.id] = self.number(value, names)

    def returned(self, statement: ast.Return, names: dict[str, Bound]) -> Results:
        value = statement.value
        if value is None:
            self.refuse(statement, "returns nothing", "return a number")
        if self.several and isinstance(value, ast.Tuple):
            return tuple(self.number(item, names) for item in value.elts)
        return (self.number(value, names),)

    def split(
        self, branch: ast.If, rest: Sequence[ast.stmt], names: dict[str, Bound]
    ) -> Results:
        """An ``if`` that returns on a side; what follows belongs to the other."""
        self.splits += 1
        if self.splits > MOST_SPLITS:
            hint = "assign on both sides, and return behind"
            self.refuse(branch, "returns on too many ways", hint)
        choose = self.condition(branch.test, names)
        sides = []
        for body in (branch.body, branch.orelse):
            results = self.run([*body, *rest], dict(names))
            if results is None:
                self.refuse(branch, "may end without a result", "return on each side")
            sides.append(results)
        if len(sides[0]) != len(sides[1]):
            self.refuse(branch, "returns tuples of different length", "make them equal")
        return tuple(choose(yes, no) for yes, no in zip(*sides))

    def merge(self, branch: ast.If, names: dict[str, Bound]) -> None:
        """An ``if`` that assigns; a name that one side leaves unset is unset."""
        choose = self.condition(branch.test, names)
        yes, no = dict(names), dict(names)
        self.run(branch.body, yes)
        self.run(branch.orelse, no)
        names.clear()
        for name in yes.keys() & no.keys():
            a, b = yes[name], no[name]
            if isinstance(a, Term) and isinstance(b, Term):
                names[name] = choose(a, b)
            elif a is b:
                names[name] = a


def _does_nothing(statement: ast.stmt) -> bool:
    """``pass``, a docstring, or a name that is declared without a value."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass | ast.AnnAssign)


def _returns(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Return) for node in ast.walk(statement))

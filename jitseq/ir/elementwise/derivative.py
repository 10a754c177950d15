"""Derivatives of scalar terms, as terms.

A term and the name of an input enter; leaves the partial derivative, with zeros and
ones folded away. Conventions are PyTorch's: a conditional has the derivative of the
side that is taken, |x| has 0 at 0, and where maxima or minima tie each side gets half,
as in `jitseq.ir.ops.arithmetic`. Invariant: a side that is not taken never makes the
derivative NaN, because products with a conditional zero are that zero.
"""

from __future__ import annotations

import math

from jitseq.ir.elementwise.term import Term, const, is_const, make

ZERO, ONE = const(0.0), const(1.0)
DOMINANT = 1e30
"""From here on e / (c + e) rounds to 1, and e may overflow; float32 holds it."""
LARGEST_ADDEND = 1e9


def derivative(term: Term, name: str) -> Term:
    """∂term/∂name, for an input ``name``."""
    return _Tangents(name).of(term)


def times(a: Term, b: Term) -> Term:
    """a · b, where a conditional 0 stays 0 whatever the other factor is."""
    if is_const(a, 0) or is_const(b, 0):
        return ZERO
    if is_const(a, 1) or is_const(b, 1):
        return b if is_const(a, 1) else a
    for factor, other in ((a, b), (b, a)):
        if _may_be_zero(factor):
            mask, yes, no = factor.args
            return make("where", mask, times(yes, other), times(no, other))
    return make("mul", a, b)


def _may_be_zero(term: Term) -> bool:
    """Whether a side of a conditional is the number 0."""
    if term.op != "where":
        return False
    return any(is_const(side, 0) or _may_be_zero(side) for side in term.args[1:])


def _plus(a: Term, b: Term) -> Term:
    if is_const(a, 0):
        return b
    return a if is_const(b, 0) else make("add", a, b)


def _minus(a: Term, b: Term) -> Term:
    if is_const(a, 0):
        return _negative(b)
    return a if is_const(b, 0) else make("sub", a, b)


def _negative(a: Term) -> Term:
    if _may_be_zero(a):
        mask, yes, no = a.args
        return make("where", mask, _negative(yes), _negative(no))
    if a.op == "neg":
        return a.args[0]
    return ZERO if is_const(a, 0) else make("neg", a)


def _over(a: Term, b: Term) -> Term:
    if _may_be_zero(a):
        mask, yes, no = a.args
        return make("where", mask, _over(yes, b), _over(no, b))
    return ZERO if is_const(a, 0) else make("div", a, b)


class _Tangents:
    """The derivative of each term to one input; each is built once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: dict[Term, Term] = {}

    def of(self, term: Term) -> Term:
        if term not in self.known:
            self.known[term] = self._made(term)
        return self.known[term]

    def _made(self, y: Term) -> Term:
        if y.op == "input":
            return ONE if y.value == self.name else ZERO
        if y.op in ("const", "attribute"):
            return ZERO
        if y.op == "custom":
            return self._chain(y)
        if y.op == "where":
            mask, yes, no = y.args
            return make("where", mask, self.of(yes), self.of(no))
        if len(y.args) == 2:
            return self._binary(y, *y.args)
        return self._unary(y, *y.args)

    def _chain(self, y: Term) -> Term:
        """Σ ∂f/∂uᵢ u'ᵢ, with the partial derivatives that f's author gave."""
        count = len(y.args) // 2
        total = ZERO
        for argument, partial in zip(y.args[1 : 1 + count], y.args[1 + count :]):
            total = _plus(total, times(partial, self.of(argument)))
        return total

    def _binary(self, y: Term, a: Term, b: Term) -> Term:
        da, db = self.of(a), self.of(b)
        if y.op == "add":
            return _plus(da, db)
        if y.op == "sub":
            return _minus(da, db)
        if y.op == "mul":
            return _plus(times(da, b), times(a, db))
        if y.op == "div":
            return self._quotient(y, a, b)
        first, second = ("gt", "lt") if y.op == "maximum" else ("lt", "gt")
        return _selected(first, second, a, b, da, db)

    def _quotient(self, y: Term, a: Term, b: Term) -> Term:
        """(a' - y b') / b; with an exponential in b it is a'/b - y (log b)'."""
        da, db = self.of(a), self.of(b)
        if is_const(db, 0) or _exponential(b) is None:
            return _over(_minus(da, times(y, db)), b)
        return _minus(_over(da, b), times(y, self._log(b)))

    def _log(self, a: Term) -> Term:
        """(log a)' = a' / a; finite also where a = c + exp(v) overflows."""
        da, e = self.of(a), _exponential(a)
        if e is None:
            return _over(da, a)
        dv = self.of(e.args[0])
        return times(dv, ONE if e is a else _share(e, a))

    def _unary(self, y: Term, a: Term) -> Term:
        da = self.of(a)
        if is_const(da, 0):
            return ZERO
        if y.op == "log":
            return self._log(a)
        if y.op == "log1p" and a.op == "exp":
            return times(self.of(a.args[0]), _share(a, make("add", a, ONE)))
        if y.op == "log1p":
            return _over(da, make("add", a, ONE))
        if y.op == "sqrt":
            return _over(da, make("mul", y, const(2.0)))
        if y.op == "abs":
            below = make("where", make("lt", a, ZERO), _negative(da), ZERO)
            return make("where", make("gt", a, ZERO), da, below)
        return _negative(da) if y.op == "neg" else times(_slope(y, a), da)


def _slope(y: Term, a: Term) -> Term:
    """f'(a), where it is a factor; ``y`` is f(a)."""
    if y.op == "exp":
        return y
    if y.op == "expm1":
        return make("add", y, ONE)
    if y.op == "tanh":
        return make("sub", ONE, make("mul", y, y))
    assert y.op == "erf", y.op
    density = make("exp", make("neg", make("mul", a, a)))
    return make("mul", density, const(2 / math.sqrt(math.pi)))


def _selected(first: str, second: str, a: Term, b: Term, da: Term, db: Term) -> Term:
    """a' where ``first(a, b)``, b' where ``second(a, b)``; both where one is NaN."""
    both = _plus(da, db)
    tie = times(const(0.5), both)
    reverse = "le" if first == "gt" else "ge"
    otherwise = make("where", make(second, a, b), db, tie)
    unordered = da if is_const(db, 0) else make("where", make(first, a, b), da, both)
    return make("where", make(reverse, a, b), otherwise, unordered)


def _exponential(a: Term) -> Term | None:
    """The term exp(v) of exp(v) or c + exp(v), c not so large as to matter."""
    if a.op == "exp":
        return a
    if a.op != "add":
        return None
    for c, e in (a.args, a.args[::-1]):
        if e.op == "exp" and is_const(c) and abs(float(c.value or 0)) < LARGEST_ADDEND:
            return e
    return None


def _share(e: Term, a: Term) -> Term:
    """e / a, where a is e and a small number; 1 where e is so large that both may be
    infinite."""
    return make("where", make("gt", e, const(DOMINANT)), ONE, make("div", e, a))

"""What `jitseq.elementwise` refuses: function, line and a way out are named."""

from __future__ import annotations

import functools
import inspect
import linecache
import math
import re

import numpy as np
import pytest
from elementwise_functions import mish, registry_as_before, softplus

import jitseq as js

__all__ = ["registry_as_before"]
WORD, TABLE, HUGE = "relu", [1.0, 2.0], 10**400


def loops(x):
    for _ in range(3):
        x = x * x
    return x


def repeats(x):
    while x > 1:
        x = x / 2
    return x


def calls_another(x):
    return math.gamma(x)


def calls_python(x):
    return loops(x)


def calls_itself(x):
    return x if x < 1 else calls_itself(x - 1)


def text(x):
    return x if WORD == "relu" else -x


def constant_text(x):
    return "x"


def subscript(x):
    return x * TABLE[0]


def attribute(x):
    return x.real


def two_results(x):
    return x, -x


def unpacks(x, y):
    a, b = y, x
    return a - b


def general_power(x, y):
    return x**y


def half_power(x):
    return x**0.5


def remainder(x):
    return x % 2


def whole_division(x):
    return x // 2


def condition_as_number(x):
    return x * (x > 0)


def number_as_condition(x):
    return x if x else 1


def no_result(x):
    x = x + 1


def sometimes_no_result(x):
    if x > 0:
        return x


def returns_nothing(x):
    return


def unset_on_one_side(x):
    if x > 0:
        y = x
    return y


def unknown_name(x):
    return x * undefined  # noqa: F821


def lists(x):
    return sum([x, x])


def nested(x):
    def inner(z):
        return z

    return inner(x)


def raises(x):
    if x < 0:
        raise ValueError
    return x


def prints(x):
    print(x)
    return x


def wrong_count(x):
    return math.exp(x, x)


def wrong_call_of_another(x):
    return softplus(x, gamma=1.0)


def unpacked_call(x):
    return mish(*(x,))


def calls_argument(x, y):
    return x(y)


def any_number(*x):
    return 1.0


def only_numbers(*, k=1.0):
    return k


def flag_default(x, y=True):
    return x * y


def huge_default(x, *, y=10**400):
    return x * y


def bad_default(x, y="a"):
    return x


def is_none(x):
    return 0.0 if x is None else x


def huge(x):
    return x * HUGE


def huge_power(x):
    return x * 10**400


def complex_power(x):
    return x * (-8) ** 0.5


REFUSED = [
    (loops, "a For has no form", "write the terms out"),
    (repeats, "a While has no form", "write the terms out"),
    (calls_another, r"calls math\.gamma", r"known are abs, min, max, math\.erf"),
    (calls_python, "calls loops", r"functions under js\.elementwise"),
    (text, "a str is not a number", "numbers from outside"),
    (constant_text, "a str is not a number", "numbers from outside"),
    (subscript, "a Subscript has no form", "an argument of its own"),
    (attribute, "x is not known here|reads an attribute", "argument|before"),
    (two_results, "a Tuple has no form", "return one number"),
    (unpacks, "assigns to more than a name", "one name a line"),
    (general_power, "an exponent is an integer", r"math\.exp\(y \* math\.log"),
    (half_power, "an exponent is an integer", r"math\.sqrt"),
    (remainder, "Mod has no form", r"use \+ - \* /"),
    (whole_division, "FloorDiv has no form", r"use \+ - \* /"),
    (condition_as_number, "a condition as a number", "1.0 if … else 0.0"),
    (number_as_condition, "a number as a condition", "x != 0"),
    (no_result, "may end without a result", "end with a return"),
    (sometimes_no_result, "may end without a result", "return on each side"),
    (returns_nothing, "returns nothing", "return a number"),
    (unset_on_one_side, "y is not known here", "on every way"),
    (unknown_name, "undefined is not known here", "before the function"),
    (lists, "calls sum", "known are"),
    (nested, "a FunctionDef has no form", "define it outside"),
    (raises, "a Raise has no form", r"math\.nan"),
    (prints, "a Expr has no form", "assignments, if and return"),
    (wrong_count, "takes 1 numbers", "by position"),
    (wrong_call_of_another, "unexpected keyword argument 'gamma'", "its signature is"),
    (unpacked_call, "unpacks arguments", "by name or position"),
    (calls_argument, "calls an argument", "their own name"),
    (is_none, "a NoneType is not a number|has no form", "compared|numbers"),
    (huge, "a number is too large", "float64"),
    (huge_power, "is no real number", "the largest"),
    (complex_power, "is no real number", "the largest"),
]


@pytest.mark.parametrize(
    "function, what, hint", REFUSED, ids=[case[0].__name__ for case in REFUSED]
)
def test_refused_constructs(function, what, hint) -> None:
    with pytest.raises(js.UnsupportedError, match=what) as caught:
        js.elementwise(function)
    assert caught.value.message.startswith(f"elementwise {function.__name__}: ")
    file, number, code = caught.value.facts["line"].split(":", 2)
    lines, first = inspect.getsourcelines(function)
    assert file == __file__ and first <= int(number) < first + len(lines)
    assert code.split()[0].strip("()[]*'") in lines[int(number) - first]
    assert re.search(hint, caught.value.hint)


@pytest.mark.parametrize(
    "function, what",
    [
        (any_number, "takes any number of arguments"),
        (only_numbers, "no argument for an array"),
        (bad_default, "the default of y is no number"),
        (flag_default, "the default of y is no number"),
        (huge_default, "the default of y is no number"),
    ],
)
def test_refused_signatures(function, what) -> None:
    with pytest.raises(js.UnsupportedError, match=what):
        js.elementwise(function)


def test_recursion(tmp_path) -> None:
    """In a notebook the name is still bound to what the cell defined before."""
    names = {"js": js}
    for result, error in (("x", None), ("f(x - 1) if x > 1 else x", "calls itself")):
        file = tmp_path / f"{error}.py"
        file.write_text(f"@js.elementwise\ndef f(x):\n    return {result}\n")
        code = compile(file.read_text(), str(file), "exec")
        if error is None:
            exec(code, names)
            continue
        with pytest.raises(js.UnsupportedError, match=error):
            exec(code, names)


def test_no_source() -> None:
    names = {"math": math}
    exec("def hidden(x):\n    return math.exp(x)", names)
    with pytest.raises(js.UnsupportedError, match="there is no source to read"):
        js.elementwise(names["hidden"])


def test_edited_source(tmp_path) -> None:
    """The file says something else than what was imported from it."""
    file, names = tmp_path / "edited.py", {}
    file.write_text("def f(x):\n    return x + 1\n")
    exec(compile(file.read_text(), str(file), "exec"), names)
    assert js.elementwise(names["f"])(np.float32(1)) == 2
    for changed in ("x - 1", "x + 2", "x + x", "x + 1.0"):
        file.write_text(f"def f(x):\n    return {changed}  # longer than it was\n")
        with pytest.raises(js.UnsupportedError, match="not that of the function"):
            js.elementwise(names["f"])


def test_too_many_ways_to_a_return(tmp_path) -> None:
    """What is behind such an ``if`` is read on both sides, which doubles each time."""
    branch = "    if x > {0}:\n        if x > -{0}:\n            return x\n"
    text = "".join(branch.format(k) for k in range(40))
    file, names = tmp_path / "ways.py", {}
    file.write_text(f"def ways(x):\n{text}    return -x\n")
    exec(compile(file.read_text(), str(file), "exec"), names)
    with pytest.raises(js.UnsupportedError, match="too many ways") as caught:
        js.elementwise(names["ways"])
    assert "ways.py:" in caught.value.facts["line"]


def test_other_objects() -> None:
    for bad in (math.exp, np.vectorize(loops), 3.0, functools.partial(loops, 1)):
        with pytest.raises(js.JitseqError, match="is not a Python function"):
            js.elementwise(bad)


def test_depth() -> None:
    deep = "\n".join(["def deep(x):", *["    x = x + 1.5 / x"] * 3000, "    return x"])
    linecache.cache["<deep>"] = (len(deep), None, deep.splitlines(True), "<deep>")
    names: dict[str, object] = {}
    exec(compile(deep, "<deep>", "exec"), names)
    with pytest.raises(js.UnsupportedError, match="nested too deeply"):
        js.elementwise(names["deep"])


def test_a_number_beyond_float64() -> None:
    scaled = js.elementwise(lambda x, *, by=1.0: x * by)
    with pytest.raises(js.JitseqError, match="too large"):
        scaled(np.float32(1), by=10**400)

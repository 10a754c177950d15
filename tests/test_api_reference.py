"""The API reference has every public name, and says of every argument what it is.

Docstrings are the reference's text. An argument that one leaves to convention has its
meaning in ``doc_arguments.py``, and so on the page; nothing has neither.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter

import doc_reference
from doc_arguments import MEANINGS
from doc_reference import Entry, anchor, entries, meaning_key, unexplained

import jitseq as js
from jitseq import datasets, nn, optim
from jitseq.optim import lr_scheduler

ENTRIES = [one for group in entries().values() for one in group]
NAMES = {one.name for one in ENTRIES}


def test_every_public_name_has_an_entry() -> None:
    modules = {"datasets", "nn", "optim"}
    assert {n for n in js.__all__ if inspect.ismodule(getattr(js, n))} == modules
    assert {f"js.{n}" for n in set(js.__all__) - modules} <= NAMES
    assert {f"optim.{n}" for n in set(optim.__all__) - {"lr_scheduler"}} <= NAMES
    assert {f"optim.lr_scheduler.{n}" for n in lr_scheduler.__all__} <= NAMES
    assert all(module.__doc__ for module in (datasets, nn, optim, lr_scheduler))


def test_every_method_has_an_entry() -> None:
    kinds = [js.Compiled, js.TrainStep, js.History, nn.Module, optim.Optimizer]
    for kind in kinds:
        methods = {name for name in vars(kind) if not name.startswith("_")}
        functions = {n for n in methods if callable(vars(kind)[n])}
        assert {f"{kind.__name__}.{name}" for name in functions} <= NAMES


def test_every_entry_has_a_docstring() -> None:
    assert {one.name for one in ENTRIES if not one.document} == set()


def test_every_argument_is_explained() -> None:
    missing = [
        f"{one.name}: {name}"
        for one in ENTRIES
        for name in unexplained(one)
        if meaning_key(one, name) is None
    ]
    assert missing == []


def test_every_meaning_is_needed() -> None:
    """What a docstring names by now is said there alone."""
    used = {meaning_key(one, name) for one in ENTRIES for name in unexplained(one)}
    assert set(MEANINGS) - used == set()


def test_words_of_prose_explain_no_argument() -> None:
    def function(rate: float, *, size: int, kept: int, left: int = 0) -> None:
        """At this rate, of ``size`` elements.

        Args:
            kept, left: how many.
        """

    document = inspect.getdoc(function) or ""
    one = Entry("function", "function", function, document, 3)
    assert unexplained(one) == ["rate"]
    text = doc_reference.described(one)
    assert "function(rate: float, *, size: int, kept: int, left: int = 0)" in text
    assert "**Arguments:**\n\n- `kept, left`: how many." in text


def test_anchors_are_unique() -> None:
    titles = [*entries(), *(one.name for one in ENTRIES)]
    assert [t for t, n in Counter(map(anchor, titles)).items() if n > 1] == []


def test_the_page_is_the_same_on_every_machine() -> None:
    text = doc_reference.reference()
    assert not re.search(r"0x[0-9a-f]{6}|<function|<lambda>|<object", text)
    assert f"{js.__file__.rsplit('/', 2)[0]}/" not in text

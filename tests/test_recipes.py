"""The recipes of ``docs/adding.md``, followed in a copy of the package.

A section of the page enters. Its files and edits are applied to a copy, the files that
then differ are counted, and its other blocks run there, in a process of their own.
Invariant: the package under test is never changed, and nothing but what the page shows
is applied.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/adding.md"
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.M | re.S)
NAMED = re.compile(r"# (jitseq/[\w/]+\.py)\n")
TOUCHED = re.compile(r"^Files touched: (\d+)\.", re.M)
EDITED = re.compile(r"^--- (\S+)\n", re.M)


class Recipe(NamedTuple):
    """``check`` is Python that uses what the recipe has made."""

    files: list[tuple[str, str]]
    diffs: list[str]
    check: str
    promised: int


def recipes() -> dict[str, Recipe]:
    """By the headings of the page."""
    sections = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return {
        title: parsed(text)
        for title, text in zip(sections[1::2], sections[2::2], strict=True)
    }


def parsed(text: str) -> Recipe:
    files, diffs, checks = [], [], []
    for kind, body in BLOCK.findall(text):
        name = NAMED.match(body)
        if kind == "diff":
            diffs.append(body)
        elif name:
            files.append((name[1], body[name.end() :]))
        else:
            checks.append(body)
    (promised,) = TOUCHED.findall(text)
    return Recipe(files, diffs, "\n".join(checks), int(promised))


def follow(recipe: Recipe, copy: Path) -> None:
    """Write the files, or add to them, and make the edits."""
    for name, body in recipe.files:
        path = copy / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(before + body, encoding="utf-8")
    for diff in recipe.diffs:
        _, *parts = EDITED.split(diff)
        for name, hunks in zip(parts[::2], parts[1::2], strict=True):
            path = copy / name
            text = path.read_text(encoding="utf-8")
            for hunk in hunks.split("@@\n"):
                text = edited(text, hunk, name)
            path.write_text(text, encoding="utf-8")


def edited(text: str, hunk: str, name: str) -> str:
    """``text`` with the one place that the hunk describes replaced."""
    lines = hunk.splitlines(keepends=True)
    assert {line[0] for line in lines} <= set(" +-"), hunk
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    found = f"\n{text}".count(f"\n{old}")
    assert found == 1, f"{found} places of {name} have\n{old}"
    return f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]


def copied(to: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jitseq", to / "jitseq", ignore=ignored)
    return to


def changed_files(copy: Path) -> set[str]:
    """Files of the copy that the package lacks or has otherwise."""
    names = (str(path.relative_to(copy)) for path in copy.rglob("*.py"))
    return {
        name
        for name in names
        if not (ROOT / name).exists()
        or not filecmp.cmp(ROOT / name, copy / name, shallow=False)
    }


def python(copy: Path, source: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run a source with the copy in front of every other jitseq."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("JITSEQ_")},
        "PYTHONPATH": str(copy),
        "JITSEQ_CACHE_DIR": str(cache),
    }
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=copy, env=environment, capture_output=True, text=True,
    )  # fmt: skip


RECIPES = recipes()


def test_the_page_has_its_recipes() -> None:
    assert list(RECIPES) == ["A layer", "An optimiser", "A pass", "A backend"]
    assert all(recipe.check for recipe in RECIPES.values())


@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title: str, tmp_path: Path) -> None:
    """It works as shown, in as many files as it says, and is needed for its check."""
    recipe, copy = RECIPES[title], copied(tmp_path / "copy")
    first = python(copy, recipe.check, tmp_path / "before")
    assert first.returncode != 0, "the check passes without the recipe"
    follow(recipe, copy)
    touched = changed_files(copy)
    assert len(touched) == recipe.promised, sorted(touched)
    where = f"import jitseq\nassert jitseq.__file__.startswith({str(copy)!r})\n"
    done = python(copy, where + recipe.check, tmp_path / "after")
    assert done.returncode == 0, done.stderr


def test_edits_that_fit_nowhere_are_refused() -> None:
    assert edited("a\nb\n", " a\n+c\n", "f") == "a\nc\nb\n"
    with pytest.raises(AssertionError, match="0 places of f"):
        edited("ab\n", "-b\n+c\n", "f")
    with pytest.raises(AssertionError, match="2 places of f"):
        edited("a\nb\na\n", "-a\n+c\n", "f")

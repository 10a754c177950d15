"""The documentation is true: links lead somewhere, code runs, printed text is current.

``pytest tests/test_docs.py --update-golden`` writes the blocks between
``<!-- generated: NAME -->`` and ``<!-- end -->`` again. Python blocks of a page run in
order, in one namespace; a block marked ``python torch`` runs where torch is installed.
"""

from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from doc_texts import GENERATED

import jitseq as js
from jitseq import nn
from jitseq.ir.op import REGISTRY

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
PYTHON = re.compile(r"^```python( torch)?\n(.*?)^```$", re.M | re.S)
GENERATED_BLOCK = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", re.S)
REPOSITORY_PATH = re.compile(
    r"`((?:jitseq|tests|benchmarks|docs|passes|codegen|runtime|ir|nn|cli|interop)"
    r"/[\w/.]*)`"
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have on the web."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    words = (re.sub(r"[^\w\- ]", "", title).strip().lower() for title in titles)
    return {text.replace(" ", "-") for text in words}


def broken_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, fragment = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (fragment and fragment not in anchors(there)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page) -> None:
    assert list(broken_links(page)) == []


def test_broken_links_are_found(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](other.md) [c](#no-title)\n")
    assert list(broken_links(page)) == ["other.md", "#no-title"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page) -> None:
    """Paths in backticks, from the root or from the package."""
    names = REPOSITORY_PATH.findall(prose(page))
    places = (ROOT, ROOT / "jitseq")
    assert [n for n in names if not any((at / n).exists() for at in places)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_generated_blocks_are_current(page, request) -> None:
    text = page.read_text(encoding="utf-8")

    def current(block: re.Match[str]) -> str:
        body = GENERATED[block[1]]()
        return f"<!-- generated: {block[1]} -->\n{body}<!-- end -->"

    made = GENERATED_BLOCK.sub(current, text)
    if request.config.getoption("--update-golden"):
        page.write_text(made, encoding="utf-8")
        return
    assert text == made, "run pytest tests/test_docs.py --update-golden"


def test_every_generated_text_is_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {block[1] for block in GENERATED_BLOCK.finditer(text)} == set(GENERATED)


@pytest.fixture
def namespace(tmp_path, monkeypatch) -> Iterator[dict[str, object]]:
    """An empty cache, and ops that go away again."""
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path / "cache"))
    known = dict(REGISTRY)
    yield {"__name__": "page"}
    REGISTRY.clear()
    REGISTRY.update(known)


def run_blocks(page: Path, namespace: dict[str, object]) -> None:
    """Execute a page's Python; lines of an error are lines of the page."""
    text = page.read_text(encoding="utf-8")
    for block in PYTHON.finditer(text):
        if block[1] and find_spec("torch") is None:
            continue
        above = "\n" * text.count("\n", 0, block.start(2))
        exec(compile(above + block[2], str(page), "exec"), namespace)


RECIPES = ROOT / "docs/adding.md"
"""Run by ``test_recipes.py``, in a copy of the package."""

RUNNABLE = [
    page
    for page in PAGES
    if page != RECIPES and PYTHON.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_python_runs(page, namespace, capsys) -> None:
    run_blocks(page, namespace)


def test_public_names_are_documented() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names = {*js.__all__, *nn.__all__, *nn.functional.__all__}
    names |= {name for name in vars(js.Compiled) if not name.startswith("_")}
    names |= {f"JITSEQ_{name}" for name in ("BACKEND", "TARGET", "LOG", "DISABLE")}
    assert [n for n in sorted(names) if not re.search(rf"\b{n}\b", text)] == []


DOCTESTED = sorted(
    path
    for path in (ROOT / "jitseq").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", DOCTESTED, ids=name_of)
def test_docstrings(path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if "torch" in path.stem:
        pytest.importorskip("torch")
    module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed

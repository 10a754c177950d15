"""The notebooks run from start to end, and are stored as they were executed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from notebooks.execute import digest, executed, foreign_paths, notebooks  # noqa: E402

PATHS = notebooks()
MAY_RAISE = "raises-exception"
LARGEST = 2 << 20
"""Bytes of all notebooks together."""

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def stored(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def errors(cell):
    return [o for o in cell.outputs if o.output_type == "error"]


def test_there_are_six() -> None:
    assert [path.stem[:2] for path in PATHS] == ["01", "02", "03", "04", "05", "06"]
    assert sum(path.stat().st_size for path in PATHS) < LARGEST


@each
def test_outputs_belong_to_the_sources(path) -> None:
    """All code cells were executed, in order, and none was edited since."""
    notebook = stored(path)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook.metadata.jitseq.sources == digest(notebook), "run make notebooks"
    assert sum(bool(cell.outputs) for cell in code_cells(notebook)) > len(counts) / 2


@each
def test_nothing_of_the_machine_is_stored(path) -> None:
    notebook = stored(path)
    assert foreign_paths(notebook) == []
    assert set(notebook.metadata) == {"kernelspec", "language_info", "jitseq"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@each
def test_errors_are_deliberate(path) -> None:
    for cell in code_cells(stored(path)):
        deliberate = MAY_RAISE in cell.metadata.get("tags", ())
        assert bool(errors(cell)) == deliberate


@each
def test_displays_have_text(path) -> None:
    for cell in code_cells(stored(path)):
        for output in cell.outputs:
            if "data" in output:
                assert output.data["text/plain"]


@each
def test_prose_stands_before_code(path) -> None:
    """A title and what is to be learnt first, where to go next last, sound links."""
    cells = stored(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert cells[-1].source.startswith("## Where to go next")
    kinds = [cell.cell_type for cell in cells]
    assert all({*pair} != {"code"} for pair in pairwise(kinds))
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    targets = [part.split(")")[0] for part in texts.split("](")[1:]]
    local = [t.split("#")[0] for t in targets if not t.startswith("http")]
    assert local and all((path.parent / target).exists() for target in local)


@each
def test_it_runs(path, monkeypatch, tmp_path) -> None:
    """From start to end in a new kernel, where the caller's settings do not count."""
    monkeypatch.setenv("JITSEQ_BACKEND", "eager")
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))
    notebook = executed(path)
    assert list(tmp_path.iterdir()) == []
    for before, after in zip(code_cells(stored(path)), code_cells(notebook)):
        assert [e.ename for e in errors(after)] == [e.ename for e in errors(before)]


def failing(tmp_path: Path, source: str) -> Path:
    path = tmp_path / "wrong.ipynb"
    cell = nbformat.v4.new_code_cell(source)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_a_cell_that_fails_is_an_error(tmp_path) -> None:
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(failing(tmp_path, "1 / 0"))


def test_a_path_in_an_output_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="names /home/me/data"):
        executed(failing(tmp_path, "print('/home/' + 'me/data')"))


def test_the_last_state_of_a_bar_is_kept(tmp_path) -> None:
    source = "import sys\nsys.stderr.write('a 1%\\ra 50%\\ra 99%\\nb 1%\\rb 99%\\n');"
    (cell,) = executed(failing(tmp_path, source)).cells
    assert "".join(o.text for o in cell.outputs) == "a 99%\nb 99%\n"

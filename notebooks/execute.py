"""Execute notebooks from start to end and write them with their outputs.

Paths of notebooks enter, by default all beside this file; the same files leave, with
outputs. Invariants: each runs in a new kernel, in an empty cache of programs, with none
of the caller's settings; what is written names no folder of this machine and no moment,
and has a digest of the sources that the outputs belong to. A cell may raise only where
its tag is ``raises-exception``.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
SECONDS_A_CELL = 240

FOREIGN = ("JITSEQ_", "NUMBA_", "MPLBACKEND")
"""Settings of the caller that a kernel does not get: prefixes of names."""

PLACES = re.compile(r"(?<![^\s'\"(=,:>])(?:/[\w.+-]+){2,}|\b[A-Z]:\\\\?\w+")
"""Absolute paths, of folders that only this machine has."""

OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")
"""The states of a progress bar but its last one."""


def notebooks() -> list[Path]:
    """All notebooks, in their order."""
    return sorted(HERE.glob("*.ipynb"))


def executed(path: Path) -> NotebookNode:
    """The notebook with new outputs, ready to be written.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised that should not.
        ValueError: an output names a folder of this machine.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS_A_CELL,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=_environment(folder))
    _clean(notebook)
    found = foreign_paths(notebook)
    if found:
        raise ValueError(f"{path.name}: an output names {found[0]}")
    return notebook


def digest(notebook: NotebookNode) -> str:
    """SHA-256 of the code cells' sources, in order."""
    sources = "\0".join(c.source for c in notebook.cells if c.cell_type == "code")
    return hashlib.sha256(sources.encode()).hexdigest()


def foreign_paths(notebook: NotebookNode) -> list[str]:
    """Absolute paths of somebody's machine in the outputs."""
    return [found for text in _texts(notebook) for found in PLACES.findall(text)]


def _environment(folder: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    # tqdm draws its bars as text, and would advise to install widgets instead.
    kept["PYTHONWARNINGS"] = "ignore:IProgress not found"
    kept["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), kept.get("PYTHONPATH", "")])
    return kept | {"JITSEQ_CACHE_DIR": os.path.join(folder, "cache")}


def _clean(notebook: NotebookNode) -> None:
    """Keep sources, tags, counts and outputs; nothing of this machine or moment."""
    notebook.metadata = NotebookNode(
        kernelspec={
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        language_info={"name": "python"},
        jitseq={"sources": digest(notebook)},
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Pieces of one stream as one output, each line as it stood in the end."""
    result: list[NotebookNode] = []
    for output in outputs:
        stream = output.output_type == "stream"
        last = result[-1] if result else None
        if stream and last is not None and last.get("name") == output.name:
            last.text += output.text
        else:
            result.append(output)
    for output in result:
        if output.output_type == "stream":
            output.text = OVERWRITTEN.sub("", output.text)
    return result


def _texts(notebook: NotebookNode) -> Iterator[str]:
    """Every piece of text in the outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            pieces: list[Any] = [output.get("text", ""), *output.get("traceback", ())]
            data = output.get("data", {})
            pieces += [
                v for mime, v in data.items() if not mime.startswith("image/png")
            ]
            yield from ("".join(piece) for piece in pieces)


def main(arguments: Sequence[str]) -> None:
    for path in [Path(a) for a in arguments] or notebooks():
        begun = time.perf_counter()
        notebook = executed(path)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1024
        seconds = time.perf_counter() - begun
        print(f"{path.name:28} {seconds:5.1f} s  {size:6.0f} KiB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

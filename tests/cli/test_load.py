"""FILE:MODEL and SHAPE as users type them, right and wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jitseq.cli.load import load_model, sample_input
from jitseq.errors import JitseqError

SOURCE = """
from jitseq import nn
import layer_sizes

net = nn.Sequential(nn.Linear(layer_sizes.WIDTH, 3), nn.ReLU())

def build():
    return nn.Sequential(nn.Linear(2, 2))

class Holder:
    inner = nn.Tanh()

number = 3
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "layer_sizes.py").write_text("WIDTH = 4\n")
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    return str(path)


@pytest.mark.parametrize(
    ("name", "kind", "layers"),
    [("net", "Sequential", 2), ("build", "Sequential", 1), ("Holder.inner", "Tanh", 0)],
)
def test_models_are_found(source: str, name: str, kind: str, layers: int) -> None:
    model = load_model(f"{source}:{name}")
    assert type(model).__name__ == kind
    assert len(list(model.children())) == layers


def test_module_by_dotted_name(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(source).parent)
    assert len(list(load_model("source:net").children())) == 2


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("net.py", "does not name a model"),
        ("missing.py:net", "there is no file"),
        ("no_such_package.models:net", "there is no module"),
        ("SOURCE:nothing", "it has net"),
        ("SOURCE:number", "is not a model"),
    ],
)
def test_mistakes_are_explained(source: str, reference: str, message: str) -> None:
    with pytest.raises(JitseqError, match=message):
        load_model(reference.replace("SOURCE", source))


def test_error_inside_of_the_file_keeps_its_type(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_model(f"{path}:net")


def test_sample_input() -> None:
    x = sample_input("2x3x4", "float64")
    assert x.shape == (2, 3, 4)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, sample_input("2X3X4", "float64"))


@pytest.mark.parametrize("shape", ["", "2x", "axb", "2,3", "-1x3"])
def test_malformed_shape_is_refused(shape: str) -> None:
    with pytest.raises(JitseqError, match="is not a shape"):
        sample_input(shape)

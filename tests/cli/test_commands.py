"""The commands as a shell sees them: what they print, and their exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jitseq
from jitseq.cli import main

MODEL = """
from jitseq import nn
net = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(64, 3),
)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(directory))
    return directory


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "jitseq", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("demo", "bench", "explain", "info", "cache"):
        assert name in result.stdout


def test_info(capsys: pytest.CaptureFixture[str], own_cache: Path) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert jitseq.__version__ in text
    assert np.__version__ in text
    assert str(own_cache) in text
    assert "bits" in text


def test_cache_info_and_clear(
    capsys: pytest.CaptureFixture[str], own_cache: Path, model_file: str
) -> None:
    main(["explain", f"{model_file}:net", "--input", "1x1x8x8"])
    stored = sorted(path.name for path in own_cache.iterdir())
    assert stored
    capsys.readouterr()
    assert main(["cache", "info"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in stored)
    assert main(["cache", "clear"]) == 0
    assert f"removed {len(stored)} programs" in capsys.readouterr().out
    assert list(own_cache.iterdir()) == []


def test_explain(capsys: pytest.CaptureFixture[str], model_file: str) -> None:
    assert main(["explain", f"{model_file}:net", "--input", "2x1x8x8"]) == 0
    text = capsys.readouterr().out
    assert "Linear(in_features=64, out_features=3, bias=True)" in text
    assert "195" in text  # parameters of the linear layer
    assert "conv2d" in text
    assert "max_pool2d" in text


def test_user_errors_exit_with_2(
    capsys: pytest.CaptureFixture[str], model_file: str
) -> None:
    assert main(["explain", f"{model_file}:net", "--input", "2x3x8x8"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ShapeError: conv2d")
    assert "Traceback" not in captured.err


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["info", "--colour"])
    assert exit.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    text = capsys.readouterr().out
    accuracies = [float(word[:-1]) for word in text.split() if word.endswith("%")]
    assert len(accuracies) == 2
    assert min(accuracies) >= 98.5
    assert float(text.split("largest difference ")[1].split()[0]) < 1e-4
    assert text.count("times faster") == 3


def test_demo_repeats_its_losses(capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for seed in ("3", "3", "4"):
        assert main(["demo", "--epochs", "1", "--seed", seed]) == 0
        text = capsys.readouterr().out
        losses.append(text.split("loss of the last epoch ")[1].split()[0])
    assert losses[0] == losses[1] != losses[2]


def test_demo_refuses_no_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--epochs", "0"]) == 2
    assert "at least 1, but got 0" in capsys.readouterr().err

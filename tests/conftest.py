"""Fixtures that every part of the tests may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# Before anything imports numba: the cuda backend runs in its simulator, unless
# `make test-gpu` asks for the device.
os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true",
        help="write the golden texts again instead of comparing with them",
    )  # fmt: skip


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` compares with ``tests/golden/<name>.txt``."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / f"{name}.txt"
        text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
        if request.config.getoption("--update-golden"):
            file.write_text(text)
        assert file.exists(), f"{file.name} is missing: run make golden"
        assert text == file.read_text(), "run make golden, then review with git diff"

    return compare

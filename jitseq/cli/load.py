"""Finds the model that ``FILE:MODEL`` names, and makes sample inputs for it.

Text from the command line enters; a `Module`, or float32/float64 arrays, leave.
Invariant: a mistake in the text is a `JitseqError` that says what was looked for; an
error inside of the user's own file is left as it is, with its traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from jitseq.errors import JitseqError
from jitseq.nn import Module


def load_model(reference: str) -> Module:
    """The model at ``path/to/file.py:MODEL`` or ``package.module:MODEL``.

    MODEL is an attribute, dotted if need be: a `Module`, or a function without
    arguments (or a `Module` class) that returns one.
    """
    location, colon, name = reference.rpartition(":")
    if not colon or not location or not name:
        raise JitseqError(
            f"{reference!r} does not name a model",
            hint="write FILE:MODEL, for example model.py:net",
        )
    source = load_module(location)
    found: object = source
    for part in name.split("."):
        if not hasattr(found, part):
            raise JitseqError(f"{location} has no {name!r}", hint=_candidates(source))
        found = getattr(found, part)
    model = found if isinstance(found, Module) or not callable(found) else found()
    if not isinstance(model, Module):
        raise JitseqError(
            f"{reference} is not a model",
            facts={"got": type(model).__name__, "expected": "a jitseq.nn.Module"},
            hint="name a Module, or a function without arguments that returns one",
        )
    return model


def _candidates(source: ModuleType) -> str:
    names = [name for name, value in vars(source).items() if isinstance(value, Module)]
    return f"it has {', '.join(names)}" if names else "it holds no model"


def load_module(location: str) -> ModuleType:
    """Import a file by its path, or a module by its dotted name."""
    if location.endswith(".py"):
        return _import_file(Path(location))
    sys.path.insert(0, "")
    try:
        return importlib.import_module(location)
    except ModuleNotFoundError as error:
        if error.name is None or not location.startswith(error.name):
            raise
        raise JitseqError(
            f"there is no module {location}", hint="a file's path ends in .py"
        ) from None
    finally:
        sys.path.remove("")


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise JitseqError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    directory = str(path.resolve().parent)
    sys.path.insert(0, directory)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(directory)
    return module


def sample_input(shape: str, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Normally distributed values of a shape such as ``1x3x32x32``."""
    parts = shape.lower().split("x")
    if not all(part.isdecimal() for part in parts):
        raise JitseqError(
            f"{shape!r} is not a shape", hint="write numbers with x, as in 1x3x32x32"
        )
    values = np.random.default_rng(seed).standard_normal([int(part) for part in parts])
    return values.astype(dtype)

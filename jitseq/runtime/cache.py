"""The on-disk cache of compiled programs: one self-describing file per entry.

Enters: a hexadecimal key, a JSON-able manifest and the bytes of an object file.
Leaves: the same `Entry`, in this or any later process. Invariant: `load` returns
exactly what some `store` was given under that key, or None; whatever is wrong with
the directory or a file costs one warning per process and a recompilation, never an
exception.

File format, version 1::

    b"jitseq-cache 1\\n"
    one line of JSON: {"code_size": int, "key": str, "manifest": {...}}
    code_size bytes of code
    32 bytes: SHA-256 of everything before

A file is written under a temporary name in the same directory and renamed, so a
reader sees a whole entry or none, and the last of several writers wins. Entries are
never unpickled. The directory is used only when this user owns it and nobody else
may write to it, because its files are mapped as code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jitseq import config

Made = TypeVar("Made")

MAGIC = b"jitseq-cache 1\n"
SUFFIX = ".jitseq"
TEMPORARY_SUFFIX = ".tmp"
DIGEST_SIZE = 32
SIZE_LIMIT = 512 * 2**20
"""Bytes that all entries may take; the least recently used go first."""

STALE_SECONDS = 3600.0
"""Age at which a temporary file is taken for a killed writer's."""

_HEX = frozenset("0123456789abcdef")
_warned: set[str] = set()


@dataclass(frozen=True)
class Entry:
    """A compiled program: what it is (JSON-able, string keys) and its object code."""

    manifest: dict[str, Any]
    code: bytes


class CacheFile(NamedTuple):
    """An entry's file, as `entries` lists it; size in bytes, used in seconds."""

    path: Path
    size: int
    used: float


def load(key: str) -> Entry | None:
    """The entry stored under ``key`` (lower-case hexadecimal), or None.

    A file that cannot be read or does not check is removed and counts as a miss.
    """
    path = _path(key)
    if path is None:
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            blob = file.read()
        entry = _decode(key, blob)
    except FileNotFoundError:
        _log("miss", key)
        return None
    except (OSError, ValueError) as error:
        discard(key, str(error))
        return None
    with suppress(OSError):
        os.utime(path)
    _log("hit", key)
    return entry


def discard(key: str, reason: str) -> None:
    """Remove an entry that cannot be used; its one warning gives the ``reason``."""
    path = _path(key)
    if path is None:
        return
    _warn("entry", f"ignoring unreadable cache entry {path}: {reason}")
    _removed(path)
    _log("miss (unreadable)", key)


def restored(key: str, made: Callable[[Entry], Made]) -> Made | None:
    """What ``made`` makes of the entry; None where there is none that it can use."""
    entry = load(key)
    if entry is None:
        return None
    try:
        return made(entry)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        discard(key, f"it cannot be loaded ({type(error).__name__}: {error})")
        return None


PRUNINGS = 64
"""A process looks over the directory once for each such part of `SIZE_LIMIT` that it
has written; the first time at its first entry."""

_unchecked = [1 << 62]
"""Bytes written since then."""


def store(key: str, entry: Entry) -> None:
    """Keep ``entry`` under ``key``; a failure to write is one warning, not an error.

    Raises:
        TypeError: the manifest is not JSON-able.
    """
    blob = _encode(key, entry)
    path = _path(key)
    if path is None or len(blob) > SIZE_LIMIT:
        return
    try:
        _write(path, blob)
    except OSError as error:
        _warn("store", f"compiled programs are not kept on disk: {error}")
        return
    _log("store", key)
    _unchecked[0] += len(blob)
    if _unchecked[0] >= SIZE_LIMIT // PRUNINGS:
        _unchecked[0] = 0
        _prune(path)


def cache_directory() -> Path | None:
    """The directory of the cache, created if needed; None when it must not be used.

    ``JITSEQ_CACHE_DIR`` or else the platform's place for caches of this user.
    """
    directory = _chosen_directory()
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        status = os.stat(directory)
    except OSError as error:
        _warn("directory", f"no cache of compiled programs in {directory}: {error}")
        return None
    fault = _fault(status)
    if fault is not None:
        _warn(fault, f"not using the cache directory {directory}: {fault}")
        return None
    return directory


def entries() -> list[CacheFile]:
    """All entries on disk, least recently used first."""
    directory = cache_directory()
    if directory is None:
        return []
    found = [file for file in _scan(directory) if file.path.suffix == SUFFIX]
    return sorted(found, key=lambda file: (file.used, file.path))


def clear() -> int:
    """Remove all entries and stale temporary files; returns the entries removed."""
    directory = cache_directory()
    if directory is None:
        return 0
    _remove_stale(list(_scan(directory)))
    return sum(_removed(file.path) for file in entries())


def _chosen_directory() -> Path:
    chosen = config.setting("JITSEQ_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path  # 2 ms, not needed with the variable set

    return user_cache_path("jitseq", appauthor=False)


def _fault(status: os.stat_result) -> str | None:
    """Why a directory is not safe to load code from; None when it is."""
    if not stat.S_ISDIR(status.st_mode):
        return "not a directory"
    if sys.platform == "win32":
        return None  # neither owners nor mode bits mean anything there
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}, not {os.getuid()}"
    if status.st_mode & 0o022:
        return "its group or others may write to it; chmod 700 allows its use"
    return None


def _path(key: str) -> Path | None:
    assert key and _HEX.issuperset(key), f"not a hexadecimal key: {key!r}"
    directory = cache_directory()
    return None if directory is None else directory / f"{key}{SUFFIX}"


def _encode(key: str, entry: Entry) -> bytes:
    header = {"code_size": len(entry.code), "key": key, "manifest": entry.manifest}
    line = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    body = b"".join((MAGIC, line, b"\n", entry.code))
    return body + hashlib.sha256(body).digest()


def _decode(key: str, blob: bytes) -> Entry:
    """The inverse of `_encode`; raises ValueError for anything else."""
    if not blob.startswith(MAGIC):
        raise ValueError("not a cache entry of this version")
    end = len(blob) - DIGEST_SIZE
    if hashlib.sha256(memoryview(blob)[:end]).digest() != blob[end:]:
        raise ValueError("truncated or damaged (its checksum differs)")
    start = blob.index(b"\n", len(MAGIC)) + 1
    header = json.loads(blob[len(MAGIC) : start])
    if header.get("key") != key:
        raise ValueError(f"it was written for the key {header.get('key')}")
    manifest = header.get("manifest")
    if header.get("code_size") != end - start or not isinstance(manifest, dict):
        raise ValueError("its header does not describe its contents")
    return Entry(manifest, blob[start:end])


def _write(path: Path, blob: bytes) -> None:
    """Write to a temporary name, then rename; nothing is left behind on failure."""
    name = f"{path.stem}.{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"
    temporary = path.with_name(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o600)
    try:
        try:
            _write_all(descriptor, blob)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _write_all(descriptor: int, blob: bytes) -> None:
    rest = memoryview(blob)
    while rest:
        written = os.write(descriptor, rest)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[written:]


def _scan(directory: Path) -> Iterator[CacheFile]:
    """The cache's own files; those that vanish meanwhile are left out."""
    with suppress(OSError), os.scandir(directory) as found:
        for item in found:
            if not item.name.endswith((SUFFIX, TEMPORARY_SUFFIX)):
                continue
            with suppress(OSError):
                status = item.stat(follow_symlinks=False)
                yield CacheFile(Path(item.path), status.st_size, status.st_mtime)


def _prune(newest: Path) -> None:
    """Remove stale temporary files, then old entries until all fit `SIZE_LIMIT`."""
    files = list(_scan(newest.parent))
    _remove_stale(files)
    kept = [file for file in files if file.path.suffix == SUFFIX]
    excess = sum(file.size for file in kept) - SIZE_LIMIT
    if excess <= 0:
        return
    for file in sorted(kept, key=lambda file: (file.used, file.path)):
        if excess <= 0:
            return
        if file.path != newest and _removed(file.path):
            excess -= file.size
            _log("dropped (size limit)", file.path.stem)


def _remove_stale(files: list[CacheFile]) -> None:
    oldest = time.time() - STALE_SECONDS
    for file in files:
        if file.path.suffix == TEMPORARY_SUFFIX and file.used < oldest:
            _removed(file.path)


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _warn(reason: str, message: str) -> None:
    """Warn once per process and reason."""
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _log(event: str, key: str) -> None:
    if config.logs("cache"):
        print(f"[jitseq cache] {event} {key}", file=sys.stderr)

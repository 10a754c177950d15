"""The disk cache: what is stored comes back, and nothing on disk can hurt."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from jitseq.runtime import cache
from jitseq.runtime.cache import Entry

KEY = "0123abcd"
ENTRY = Entry({"symbols": ["main"], "slots": {"x": 3}}, bytes(range(256)) * 40)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(path))
    monkeypatch.delenv("JITSEQ_LOG", raising=False)
    monkeypatch.setattr(cache, "_warned", set())
    return path


def file_of(directory: Path, key: str = KEY) -> Path:
    return directory / f"{key}.jitseq"


def run_python(source: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", source, *map(str, arguments)]
    root = str(Path(cache.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.Popen(command, env=environment, **options)


def test_an_entry_comes_back_and_an_unknown_key_is_a_silent_miss(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.load(KEY) is None
        cache.store(KEY, ENTRY)
        assert cache.load(KEY) == ENTRY
        assert cache.load("ff") is None
    assert [item.name for item in directory.iterdir()] == [f"{KEY}.jitseq"]


def test_an_empty_entry_and_overwriting():
    cache.store(KEY, Entry({}, b""))
    assert cache.load(KEY) == Entry({}, b"")
    cache.store(KEY, ENTRY)
    assert cache.load(KEY) == ENTRY


def test_the_file_describes_itself(directory):
    cache.store(KEY, ENTRY)
    blob = file_of(directory).read_bytes()
    magic, header, rest = blob.split(b"\n", 2)
    assert magic == b"jitseq-cache 1"
    assert json.loads(header) == {
        "code_size": len(ENTRY.code), "key": KEY, "manifest": ENTRY.manifest,
    }  # fmt: skip
    assert rest == ENTRY.code + hashlib.sha256(blob[:-32]).digest()


def test_a_second_process_reads_the_entry():
    cache.store(KEY, ENTRY)
    source = (
        "import sys; from jitseq.runtime import cache;"
        "sys.stdout.buffer.write(cache.load(sys.argv[1]).code)"
    )
    reader = run_python(source, KEY, stdout=subprocess.PIPE)
    assert reader.communicate(timeout=60)[0] == ENTRY.code


@pytest.mark.parametrize("key", ["", "../x", "ABCD", "12 3", "g"])
def test_a_key_is_lower_case_hexadecimal(key):
    with pytest.raises(AssertionError, match="not a hexadecimal key"):
        cache.load(key)


def damage_truncate(blob: bytes) -> bytes:
    return blob[: len(blob) // 2]


def damage_header_only(blob: bytes) -> bytes:
    return blob[:20]


def damage_flip(blob: bytes) -> bytes:
    middle = len(blob) // 2
    return blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]


def damage_garbage(blob: bytes) -> bytes:
    return os.urandom(len(blob))


def damage_version(blob: bytes) -> bytes:
    return blob.replace(b"jitseq-cache 1", b"jitseq-cache 9", 1)


def signed(blob: bytes) -> bytes:
    return blob + hashlib.sha256(blob).digest()


def damage_size(blob: bytes) -> bytes:
    return signed(blob[:-32] + b"more code than the header says")


def damage_fields(blob: bytes) -> bytes:
    return signed(cache.MAGIC + json.dumps({"key": KEY}).encode() + b"\n")


def damage_json(blob: bytes) -> bytes:
    return signed(cache.MAGIC + b"{\n")


def damage_no_header(blob: bytes) -> bytes:
    return signed(cache.MAGIC)


def damage_everything(blob: bytes) -> bytes:
    return b""


DAMAGES = [value for name, value in globals().items() if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_a_miss_with_one_warning_and_is_removed(directory, damage):
    cache.store(KEY, ENTRY)
    blob = damage(file_of(directory).read_bytes())
    file_of(directory).write_bytes(blob)
    with pytest.warns(RuntimeWarning, match="ignoring unreadable cache entry"):
        assert cache.load(KEY) is None
    assert not file_of(directory).exists()
    file_of(directory).write_bytes(blob)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.load(KEY) is None
    cache.store(KEY, ENTRY)
    assert cache.load(KEY) == ENTRY


def test_an_entry_under_another_key_is_not_used(directory):
    cache.store(KEY, ENTRY)
    file_of(directory).rename(file_of(directory, "ff"))
    with pytest.warns(RuntimeWarning, match=f"written for the key {KEY}"):
        assert cache.load("ff") is None


def test_an_entry_that_cannot_be_read_is_a_miss(directory):
    cache.store("ff", ENTRY)
    file_of(directory).mkdir()
    with pytest.warns(RuntimeWarning, match="unreadable"):
        assert cache.load(KEY) is None
    with pytest.warns(RuntimeWarning, match="not kept on disk"):
        cache.store(KEY, ENTRY)
    assert not list(directory.glob("*.tmp"))


def test_the_directory_is_created_private(directory):
    assert cache.cache_directory() == directory
    assert directory.stat().st_mode & 0o777 == 0o700
    cache.store(KEY, ENTRY)
    assert file_of(directory).stat().st_mode & 0o777 == 0o600


def assert_not_used(directory: Path, reason: str) -> None:
    with pytest.warns(RuntimeWarning, match=reason) as record:
        assert cache.cache_directory() is None
        cache.store(KEY, ENTRY)
        assert cache.load(KEY) is None
        assert cache.entries() == []
        assert cache.clear() == 0
    assert len(record) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o702, 0o777])
def test_a_directory_that_others_may_write_is_not_used(directory, mode):
    cache.store(KEY, ENTRY)
    directory.chmod(mode)
    assert_not_used(directory, "others may write")
    directory.chmod(0o700)
    assert cache.load(KEY) == ENTRY


def test_a_directory_of_another_user_is_not_used(directory, monkeypatch):
    cache.store(KEY, ENTRY)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert_not_used(directory, f"belongs to user {owner}")


def test_a_file_in_place_of_the_directory(directory):
    directory.write_text("")
    assert_not_used(directory, "no cache of compiled programs")


def test_each_reason_warns_once(directory, monkeypatch):
    cache.store(KEY, ENTRY)
    directory.chmod(0o777)
    assert_not_used(directory, "others may write")
    directory.chmod(0o700)
    file_of(directory).write_bytes(b"garbage")
    with pytest.warns(RuntimeWarning, match="unreadable"):
        assert cache.load(KEY) is None


def test_the_default_directory_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("JITSEQ_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if sys.platform != "linux":
        pytest.skip("the variable is Linux's")
    assert cache.cache_directory() == tmp_path / "home" / "jitseq"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_failing_write_is_one_warning_and_leaves_nothing(
    directory, monkeypatch, number
):
    real_write = os.write
    calls = []

    def write(descriptor: int, blob) -> int:
        calls.append(descriptor)
        if len(calls) % 2:
            return real_write(descriptor, bytes(blob[:100]))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    with pytest.warns(RuntimeWarning, match=os.strerror(number)) as record:
        cache.store(KEY, ENTRY)
        cache.store(KEY, ENTRY)
    monkeypatch.undo()
    assert len(record) == 1 and len(calls) == 4
    assert list(directory.iterdir()) == []


def test_short_writes_are_continued(monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, blob: real_write(fd, bytes(blob[:999])))
    cache.store(KEY, ENTRY)
    assert cache.load(KEY) == ENTRY


def test_an_interrupted_write_leaves_nothing(directory, monkeypatch):
    def interrupt(descriptor: int, blob) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.store(KEY, ENTRY)
    assert list(directory.iterdir()) == []


WRITER = """
import sys
from jitseq.runtime import cache
size = 200_000
for turn in range(40):
    fill = bytes([int(sys.argv[2])])
    cache.store(sys.argv[1], cache.Entry({"by": sys.argv[2]}, fill * size))
"""


def test_two_processes_write_the_same_entry_while_a_third_reads(directory):
    writers = [run_python(WRITER, KEY, number) for number in (1, 2)]
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(writer.poll() is None for writer in writers):
            entry = cache.load(KEY)
            if entry is not None:
                seen.add(entry.manifest["by"])
                assert entry.code == bytes([int(entry.manifest["by"])]) * 200_000
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen and seen <= {"1", "2"}
    assert [item.name for item in directory.iterdir()] == [f"{KEY}.jitseq"]


KILLED = """
import os, sys, time
from jitseq.runtime import cache
real_write = os.write
def write(descriptor, blob):
    real_write(descriptor, bytes(blob[:5000]))
    print("half", flush=True)
    time.sleep(60)
os.write = write
cache.store(sys.argv[1], cache.Entry({}, bytes(10_000)))
"""


def test_a_writer_killed_halfway_is_harmless_and_is_cleaned_up_later(
    directory, monkeypatch
):
    monkeypatch.setattr(cache, "PRUNINGS", cache.SIZE_LIMIT)  # look at every store
    cache.store(KEY, ENTRY)
    writer = run_python(KILLED, KEY, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"half\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=60)
    (left,) = directory.glob("*.tmp")
    assert cache.load(KEY) == ENTRY
    cache.store("ff", ENTRY)
    assert left.exists(), "a recent temporary file may still have its writer"
    long_ago = time.time() - 2 * cache.STALE_SECONDS
    os.utime(left, (long_ago, long_ago))
    cache.store("ff", ENTRY)
    assert not left.exists()


def test_entries_and_clear(directory):
    cache.store("aa", ENTRY)
    cache.store("bb", Entry({}, b"x"))
    (directory / "note.txt").write_text("not ours")
    listed = {file.path.stem: file.size for file in cache.entries()}
    assert listed == {key: file_of(directory, key).stat().st_size for key in listed}
    assert sorted(listed) == ["aa", "bb"]
    assert cache.clear() == 2
    assert cache.entries() == [] and cache.load("aa") is None
    assert [item.name for item in directory.iterdir()] == ["note.txt"]


def test_the_least_recently_used_go_when_the_cache_is_full(directory, monkeypatch):
    keys = ["a1", "a2", "a3", "a4"]
    for age, key in enumerate(reversed(keys), start=1):
        cache.store(key, ENTRY)
        then = time.time() - 100 * age
        os.utime(file_of(directory, key), (then, then))
    assert [file.path.stem for file in cache.entries()] == keys
    assert cache.load("a1") == ENTRY  # and is now the most recently used
    size = file_of(directory, "a1").stat().st_size
    monkeypatch.setattr(cache, "SIZE_LIMIT", 3 * size)
    cache.store("a5", ENTRY)
    assert {file.path.stem for file in cache.entries()} == {"a1", "a4", "a5"}
    monkeypatch.setattr(cache, "SIZE_LIMIT", size - 1)
    cache.store("a6", ENTRY)
    assert cache.load("a6") is None, "larger than the whole cache"


def test_the_log_tells_hits_misses_and_stores(monkeypatch, capsys):
    monkeypatch.setenv("JITSEQ_LOG", "passes, cache")
    cache.load(KEY)
    cache.store(KEY, ENTRY)
    cache.load(KEY)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"[jitseq cache] {event} {KEY}" for event in LOGGED]


LOGGED = ("miss", "store", "hit")

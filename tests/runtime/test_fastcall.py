"""The native call path: right results, every refusal, no leaks, any thread."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from jitseq.codegen.llvm.compiler import Library, compile_object
from jitseq.codegen.llvm.host import host_target
from jitseq.ir.variable import EPOCH, advance_epoch
from jitseq.runtime import fastcall, fastcall_layout
from jitseq.runtime.fastcall import ArraySpec, FastCall, SignatureSpec
from jitseq.runtime.fastcall_ir import WORDS, function_text

F32 = np.dtype(np.float32)
SLOTS = ctypes.POINTER(ctypes.c_void_p)
ENTRY = ctypes.CFUNCTYPE(None, SLOTS, ctypes.c_void_p, ctypes.c_int64)

NATIVE = """
; out[r] = 2 * in[10 r], for float32[n, 10] -> float32[n, 1]
define void @double(ptr %ctx, ptr %arena, i64 %n) {
entry:
  %x = load ptr, ptr %ctx
  %y.at = getelementptr ptr, ptr %ctx, i64 1
  %y = load ptr, ptr %y.at
  br label %row
row:
  %r = phi i64 [0, %entry], [%r.next, %row]
  %at = mul i64 %r, 10
  %from = getelementptr float, ptr %x, i64 %at
  %value = load float, ptr %from
  %twice = fmul float %value, 2.0
  %to = getelementptr float, ptr %y, i64 %r
  store float %twice, ptr %to
  %r.next = add i64 %r, 1
  %more = icmp slt i64 %r.next, %n
  br i1 %more, label %row, label %done
done:
  ret void
}

; arena: [0] set to 1 on entry, [1] awaited for at most [2] rounds; out[0] = [1]
define void @await(ptr %ctx, ptr %arena, i64 %n) {
entry:
  %y.at = getelementptr ptr, ptr %ctx, i64 1
  %y = load ptr, ptr %y.at
  %flag = getelementptr i64, ptr %arena, i64 1
  %limit.at = getelementptr i64, ptr %arena, i64 2
  %limit = load i64, ptr %limit.at
  store volatile i64 1, ptr %arena
  br label %round
round:
  %i = phi i64 [0, %entry], [%i.next, %round]
  %seen = load volatile i64, ptr %flag
  %i.next = add i64 %i, 1
  %unset = icmp eq i64 %seen, 0
  %patient = icmp slt i64 %i.next, %limit
  %again = and i1 %unset, %patient
  br i1 %again, label %round, label %done
done:
  %result = sitofp i64 %seen to float
  store float %result, ptr %y
  ret void
}
"""


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))


@cache
def native() -> Library:
    code = compile_object(NATIVE, host_target())
    return Library(code, ("double", "await"))


def batched(*shape: int, dtype: object = F32) -> ArraySpec:
    return ArraySpec(np.dtype(dtype), shape, True)


def fixed(*shape: int, dtype: object = F32) -> ArraySpec:
    return ArraySpec(np.dtype(dtype), shape, False)


def create(inputs, outputs, entry, *, max_batch=64, release_gil=False) -> FastCall:
    """A FastCall around an address or a Python callback (kept alive by the result)."""
    address = entry
    if not isinstance(entry, int):
        address = ctypes.cast(entry, ctypes.c_void_p).value
    slots = len(inputs) + len(outputs) + 2
    spec = SignatureSpec(inputs, outputs, max_batch, address, slots, release_gil)
    call = FastCall.create(spec)
    assert call is not None
    call.kept = entry
    return call


def doubling(**options) -> FastCall:
    address = native().address("double")
    return create((batched(10),), (batched(1),), address, **options)


def kept_function(call: FastCall):
    """``call.function`` for the rest of the test run."""
    KEPT.append(call)
    return call.function


KEPT: list[FastCall] = []


def rows(n: int) -> np.ndarray:
    return np.arange(10 * n, dtype=np.float32).reshape(n, 10) + 1


def view(address: int, shape, dtype=np.float32) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(block, dtype).reshape(shape)


# --- results ---


@pytest.mark.parametrize("release_gil", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_one_input_and_one_output(n, release_gil):
    x = rows(n)
    out = kept_function(doubling(release_gil=release_gil))(x)
    assert type(out) is np.ndarray and out.dtype == F32 and out.flags.c_contiguous
    assert out.flags.owndata and out.flags.writeable
    np.testing.assert_array_equal(out, 2 * x[:, :1])


def test_each_call_returns_a_new_array():
    function = kept_function(doubling())
    first, second = function(rows(2)), function(3 * rows(2))
    np.testing.assert_array_equal(second, 3 * first)


def test_read_only_inputs_are_accepted():
    x = rows(2)
    x.flags.writeable = False
    np.testing.assert_array_equal(kept_function(doubling())(x), 2 * x[:, :1])


def test_many_inputs_and_outputs_of_many_types():
    seen = []

    @ENTRY
    def entry(ctx, arena, n):
        seen.append((n, arena, ctx[5], ctx[6]))
        a, b, c = view(ctx[0], (n, 2, 3)), view(ctx[1], (4,), "i8"), ctx[2]
        view(ctx[3], (n, 2))[...] = a.sum(axis=2)
        view(ctx[4], (), "f8")[...] = b.sum() + view(c, (n,), "u1").sum()

    inputs = (batched(2, 3), fixed(4, dtype="i8"), batched(dtype="u1"))
    call = create(inputs, (batched(2), fixed(dtype="f8")), entry)
    call.set_arena(4096)
    call.ctx[5:7] = 11, 12
    a = np.random.default_rng(0).random((5, 2, 3), np.float32)
    b, c = np.arange(4), np.arange(5, dtype=np.uint8)
    out = call.function(a, b, c)
    assert type(out) is tuple and len(out) == 2
    np.testing.assert_allclose(out[0], a.sum(axis=2), rtol=1e-6)
    assert out[1].shape == () and out[1].dtype == np.float64 and out[1] == 16
    assert seen == [(5, 4096, 11, 12)]


def test_without_a_batch_n_is_one():
    seen = []
    entry = ENTRY(lambda ctx, arena, n: seen.append(n))
    call = create((fixed(3),), (fixed(2, 2),), entry)
    out = call.function(np.zeros(3, F32))
    assert out.shape == (2, 2) and seen == [1]


def test_no_inputs_and_no_outputs():
    seen = []
    entry = ENTRY(lambda ctx, arena, n: seen.append(n))
    call = create((), (), entry)
    assert call.function() == ()
    assert seen == [1]


# --- refusals: None, and nothing is computed ---


class Subclass(np.ndarray):
    pass


def misaligned(n: int) -> np.ndarray:
    return np.zeros(40 * n + 1, np.uint8)[1:].view(np.float32).reshape(n, 10)


REFUSED = {
    "no arguments": (),
    "too many arguments": (rows(2), rows(2)),
    "not an array": ([1.0] * 10,),
    "None": (None,),
    "a scalar": (np.float32(1),),
    "a subclass": (rows(2).view(Subclass),),
    "another dtype": (rows(2).astype(np.float64),),
    "same size, other dtype": (rows(2).astype(np.int32),),
    "another byte order": (rows(2).astype(">f4"),),
    "another dtype object": (rows(2).astype(np.dtype("f4", metadata={"a": 1})),),
    "fewer dimensions": (rows(1)[0],),
    "more dimensions": (rows(2)[None],),
    "another extent": (rows(2)[:, :9].copy(),),
    "not contiguous": (rows(4)[::2],),
    "Fortran order": (np.asfortranarray(rows(2)),),
    "misaligned": (misaligned(2),),
    "an empty batch": (rows(0),),
    "over the largest batch": (rows(65),),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_it_declines(reason):
    seen = []
    entry = ENTRY(lambda ctx, arena, n: seen.append(n))
    call = create((batched(10),), (batched(1),), entry)
    assert call.function(*REFUSED[reason]) is None
    assert seen == [] and not call.busy
    assert call.function(rows(2)).shape == (2, 1) and seen == [2]


def test_it_declines_batches_that_differ():
    seen = []
    entry = ENTRY(lambda ctx, arena, n: seen.append(n))
    call = create((batched(2), fixed(2), batched(3)), (batched(),), entry)
    function = call.function
    a, b, c = (np.zeros(shape, F32) for shape in ((4, 2), (2,), (4, 3)))
    assert function(a, b, c).shape == (4,)
    assert function(a[:3], b, c) is None
    assert function(a, b, c[:3]) is None
    assert function(a, b, c[:0]) is None
    assert function(a[:0], b, c) is None
    assert seen == [4]


def test_it_declines_after_the_epoch_moved():
    call = doubling()
    assert call.function(rows(1)) is not None
    advance_epoch()
    assert call.function(rows(1)) is None
    call.set_epoch(int(EPOCH[0]))
    assert call.function(rows(1)) is not None
    call.set_epoch(int(EPOCH[0]) - 1)
    assert call.function(rows(1)) is None


def test_it_declines_a_call_from_within_and_recovers():
    inner = []
    entry = ENTRY(
        lambda ctx, arena, n: inner.append((call.busy, call.function(rows(1))))
    )
    call = create((batched(10),), (batched(1),), entry)
    assert call.function(rows(3)).shape == (3, 1)
    assert inner == [(True, None)] and not call.busy
    assert call.function(rows(2)).shape == (2, 1)


def test_a_function_that_outlives_its_owner_declines():
    call = doubling()
    function = call.function
    assert function(rows(1)) is not None
    del call
    gc.collect()
    assert function(rows(1)) is None


# --- errors ---


def test_keywords_are_an_error():
    with pytest.raises(TypeError, match="keyword"):
        doubling().function(x=rows(1))


def alive_arrays() -> int:
    """Bytes of array data alive; NumPy also reports allocations that failed."""
    gc.collect()
    only_numpy = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    snapshot = tracemalloc.take_snapshot().filter_traces([only_numpy])
    return sum(trace.size for trace in snapshot.traces if trace.size < 1 << 40)


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("size", [1 << 55, 1 << 62])
def test_an_output_that_cannot_be_allocated(size, traced):
    seen = []
    entry = ENTRY(lambda ctx, arena, n: seen.append(n))
    outputs = (fixed(100_000), fixed(100_000), fixed(size, dtype="u1"))
    call = create((fixed(1),), outputs, entry)
    x = np.zeros(1, F32)
    before = alive_arrays()
    for _ in range(5):
        with pytest.raises((MemoryError, ValueError)):
            call.function(x)
    assert seen == [] and not call.busy
    assert alive_arrays() - before < 100_000


def test_a_tuple_that_cannot_be_allocated(traced):
    fail = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_ssize_t)(lambda size: None)
    entry = ENTRY(lambda ctx, arena, n: None)
    call = create((fixed(1),), (fixed(100_000), fixed(100_000)), entry)
    index = WORDS.index("tuple_new")
    call._state[index] = ctypes.cast(fail, ctypes.c_void_p).value
    x = np.zeros(1, F32)
    before = alive_arrays()
    with pytest.raises(SystemError):
        call.function(x)
    assert not call.busy
    assert alive_arrays() - before < 100_000


# --- references and memory ---


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@needs_proc
def test_a_million_calls_leak_nothing():
    one = kept_function(doubling())
    kept = doubling(), doubling()
    x, wrong = rows(4), rows(4).astype(np.float64)
    two_outputs = create((fixed(1),), (fixed(2), fixed(2)), ENTRY(lambda *_: None))
    two, y = two_outputs.function, np.zeros(1, F32)
    counted = (x, wrong, y, None, F32, np.ndarray, one, tuple, kept)

    def calls(times: int) -> None:
        for _ in range(times):
            one(x)
            one(wrong)

    def pairs(times: int) -> None:
        for _ in range(times):
            two(y)

    calls(1000), pairs(1000)
    before, resident = [sys.getrefcount(item) for item in counted], resident_bytes()
    calls(1_000_000), pairs(50_000)
    after = [sys.getrefcount(item) for item in counted]
    assert max(abs(a - b) for a, b in zip(after, before)) < 100
    assert resident_bytes() - resident < 4 * 2**20


def test_results_have_one_reference():
    call = create((fixed(1),), (fixed(2), fixed(3)), ENTRY(lambda *_: None))
    out, other = call.function(np.zeros(1, F32))
    assert sys.getrefcount(out) == sys.getrefcount(other) == 2
    single = kept_function(doubling())(rows(1))
    assert sys.getrefcount(single) == 2


@needs_proc
def test_creating_and_dropping_leaks_nothing():
    for _ in range(200):
        doubling()
    resident = resident_bytes()
    for _ in range(20_000):
        call = doubling()
        call.function(rows(1))
    assert resident_bytes() - resident < 4 * 2**20


# --- threads ---


@pytest.mark.parametrize("release_gil", [False, True])
def test_eight_threads(release_gil):
    function = kept_function(doubling(release_gil=release_gil))
    wrong, declined = [], []

    def work(number: int) -> None:
        x = rows(16) * number
        wanted = 2 * x[:, :1]
        turns = 500
        while turns:
            out = function(x)
            if out is None:
                declined.append(number)
                time.sleep(0)
                continue
            turns -= 1
            if not np.array_equal(out, wanted):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    if not release_gil:
        assert declined == []


def awaiting(release_gil: bool, rounds: int) -> tuple[FastCall, np.ndarray]:
    arena = np.array([0, 0, rounds])
    address = native().address("await")
    call = create((fixed(1),), (fixed(1),), address, release_gil=release_gil)
    call.set_arena(arena.ctypes.data)
    return call, arena


def test_other_threads_run_while_the_gil_is_released():
    call, arena = awaiting(True, 2**36)
    declined = []

    def other() -> None:
        while not arena[0]:
            time.sleep(0)
        declined.append((call.busy, call.function(np.zeros(1, F32))))
        arena[1] = 1

    thread = threading.Thread(target=other)
    thread.start()
    assert call.function(np.zeros(1, F32)) == 1
    thread.join()
    assert declined == [(True, None)] and not call.busy


def test_no_other_thread_runs_while_the_gil_is_held():
    call, arena = awaiting(False, 50_000_000)

    def other() -> None:
        while not arena[0]:
            time.sleep(0)
        arena[1] = 1

    thread = threading.Thread(target=other)
    thread.start()
    assert call.function(np.zeros(1, F32)) == 0
    thread.join()


# --- set-up ---


def test_the_layout_holds_here_and_a_wrong_one_is_noticed(monkeypatch):
    assert fastcall_layout.layout_holds()
    right = fastcall_layout.ArrayFields._fields_
    for first, second in (("data", "descr"), ("dims", "strides"), ("ndim", "flags")):
        swap = {first: second, second: first}
        fields = [(swap.get(name, name), kind) for name, kind in right]
        wrong = type("Wrong", (ctypes.Structure,), {"_fields_": fields})
        monkeypatch.setattr(fastcall_layout, "ArrayFields", wrong)
        assert not fastcall_layout.layout_holds.__wrapped__()


def test_another_function_table_is_noticed(monkeypatch):
    table = list(fastcall_layout._table())
    table[2] += 8
    monkeypatch.setattr(fastcall_layout, "_table", lambda: table)
    assert not fastcall_layout.layout_holds.__wrapped__()


def test_other_implementations_are_refused(monkeypatch):
    other = type(sys.implementation)(**vars(sys.implementation) | {"name": "pypy"})
    monkeypatch.setattr(sys, "implementation", other)
    assert not fastcall_layout.layout_holds.__wrapped__()


def test_without_a_known_layout_there_is_no_fast_path(monkeypatch, capsys):
    monkeypatch.setattr(fastcall, "_loaded", [])
    monkeypatch.setattr(fastcall, "layout_holds", lambda: False)
    monkeypatch.setenv("JITSEQ_LOG", "codegen")
    spec = SignatureSpec((), (), 1, 0, 1, False)
    assert FastCall.create(spec) is None
    assert "no fast call path" in capsys.readouterr().err


def test_a_failing_compiler_means_no_fast_path(monkeypatch):
    def fail() -> None:
        raise RuntimeError("no target")

    monkeypatch.setattr(fastcall, "_loaded", [])
    monkeypatch.setattr(fastcall, "_library", fail)
    assert FastCall.create(SignatureSpec((), (), 1, 0, 1, False)) is None


def test_the_text_is_deterministic_and_holds_no_address():
    assert function_text() == function_text()
    numbers = [int(number) for number in re.findall(r"\b\d+\b", function_text())]
    assert max(numbers) < 1000


SECOND = """
from jitseq.runtime.fastcall import FastCall, SignatureSpec
assert FastCall.create(SignatureSpec((), (), 1, 0, 1, False)) is not None
"""


def test_a_second_process_compiles_nothing(tmp_path):
    root = str(Path(fastcall.__file__).parents[2])
    settings = {"PYTHONPATH": root, "JITSEQ_LOG": "cache"}

    def events() -> list[str]:
        command = [sys.executable, "-c", SECOND]
        environment = os.environ | settings
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        return [line.split()[2] for line in result.stderr.splitlines()]

    assert events() == ["miss", "store"]
    assert events() == ["hit"]

"""The pool: every participant returns, and nothing can make it hang."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jitseq.errors import JitseqError
from jitseq.runtime import threads
from jitseq.runtime.threads import get_num_threads, run_on_threads, set_num_threads

TIMEOUT = 30
sleep_without_gil = ctypes.CDLL(None).usleep


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.delenv("JITSEQ_NUM_THREADS", raising=False)


class Meeting:
    """A task that ends only when ``count`` threads are in it at the same time."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.present: list[int] = []

    def __call__(self) -> None:
        self.present.append(threading.get_ident())
        self.barrier.wait(TIMEOUT)


def assert_pool_works(count: int = 3) -> None:
    meeting = Meeting(count)
    run_on_threads(meeting, count)
    assert len(set(meeting.present)) == count


# --- the number of threads ---


def test_the_default_is_the_processors_of_this_process():
    assert get_num_threads() == len(os.sched_getaffinity(0))


def test_the_environment_and_the_setter(monkeypatch):
    monkeypatch.setenv("JITSEQ_NUM_THREADS", " 3 ")
    assert get_num_threads() == 3
    set_num_threads(5)
    assert get_num_threads() == 5


@pytest.mark.parametrize("value", [0, -1, 1.0, "2", None, True])
def test_the_setter_refuses(value):
    set_num_threads(4)
    with pytest.raises(JitseqError, match="not a number of threads"):
        set_num_threads(value)
    assert get_num_threads() == 4


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_wrong_environment_is_refused(monkeypatch, value):
    monkeypatch.setenv("JITSEQ_NUM_THREADS", value)
    with pytest.raises(JitseqError, match="JITSEQ_NUM_THREADS"):
        get_num_threads()


# --- running ---


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_all_take_part_at_the_same_time(count):
    meeting = Meeting(count)
    run_on_threads(meeting, count)
    assert len(set(meeting.present)) == count
    assert threading.get_ident() in meeting.present


def test_workers_are_created_when_needed_and_kept():
    pool = threads._pool
    run_on_threads(lambda: None, 1)
    assert pool.workers == []
    assert_pool_works(3)
    assert_pool_works(2)
    assert len(pool.workers) == 2


def test_it_returns_only_when_no_thread_is_in_the_task_any_more():
    inside: list[int] = []
    begun = 0

    def task() -> None:
        nonlocal begun
        begun += 1
        inside.append(1)
        sleep_without_gil(200)
        inside.pop()

    for _ in range(200):
        run_on_threads(task, 3)
        assert inside == []
    assert begun > 200, "no worker ever took part"


def test_a_finished_task_does_not_wait_for_sleeping_workers():
    calls: list[int] = []
    for _ in range(5000):
        before = len(calls)
        run_on_threads(lambda: calls.append(threading.get_ident()), 3)
        assert 1 <= len(calls) - before <= 3
    count = len(calls)
    assert_pool_works(3)
    assert len(calls) == count, "a task ran after its call had returned"


def test_a_nested_call_runs_on_the_calling_thread():
    inner: list[int] = []

    def task() -> None:
        run_on_threads(lambda: inner.append(threading.get_ident()), 4)

    run_on_threads(task, 1)
    meeting = Meeting(2)

    def nested() -> None:
        meeting()
        task()

    del inner[:]
    run_on_threads(nested, 2)
    assert sorted(inner) == sorted(meeting.present)


def test_a_busy_pool_leaves_other_callers_on_their_own_thread():
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(TIMEOUT)

    holder = threading.Thread(target=run_on_threads, args=(hold, 2))
    holder.start()
    assert entered.wait(TIMEOUT)
    ran: list[int] = []
    run_on_threads(lambda: ran.append(threading.get_ident()), 4)
    leave.set()
    holder.join(TIMEOUT)
    assert ran == [threading.get_ident()]
    assert_pool_works()


def test_eight_concurrent_callers():
    done: list[int] = []

    def caller() -> None:
        for _ in range(300):
            taken = iter(range(20))
            sums: list[int] = []

            def task(taken=taken, sums=sums) -> None:
                sums.append(sum(taken))

            run_on_threads(task, 3)
            assert sum(sums) == 190 and len(sums) <= 3
        done.append(1)

    callers = [threading.Thread(target=caller) for _ in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(TIMEOUT)
    assert len(done) == 8
    assert_pool_works()


def test_threads_that_cannot_be_created(monkeypatch):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        ran: list[int] = []
        run_on_threads(lambda: ran.append(threading.get_ident()), 4)
        assert ran == [threading.get_ident()]
    assert_pool_works()


# --- errors ---


@pytest.mark.parametrize("where", ["caller", "worker"])
def test_an_exception_travels_to_the_caller_after_all_have_finished(where):
    main = threading.get_ident()
    meeting = Meeting(3)
    finished: list[int] = []

    def task() -> None:
        meeting()
        if (threading.get_ident() == main) == (where == "caller"):
            raise ValueError(where)
        sleep_without_gil(2000)
        finished.append(1)

    with pytest.raises(ValueError, match=where):
        run_on_threads(task, 3)
    assert len(finished) == (2 if where == "caller" else 1)
    assert_pool_works()


def test_the_callers_own_exception_comes_first():
    main = threading.get_ident()
    meeting = Meeting(2)

    def task() -> None:
        meeting()
        raise ValueError("caller" if threading.get_ident() == main else "worker")

    with pytest.raises(ValueError, match="caller"):
        run_on_threads(task, 2)


def test_an_interrupt_while_waiting_is_raised_after_the_workers_end():
    main = threading.get_ident()
    meeting = Meeting(2)
    finished: list[int] = []

    def task() -> None:
        meeting()
        if threading.get_ident() == main:
            return
        sleep_without_gil(50_000)
        signal.pthread_kill(main, signal.SIGINT)
        sleep_without_gil(50_000)
        finished.append(1)

    with pytest.raises(KeyboardInterrupt):
        run_on_threads(task, 2)
    assert finished == [1]
    assert_pool_works()


# --- fork and exit ---


def exit_code_of_child(action) -> int:
    """Fork; the child runs ``action`` within 20 s and exits 0 unless it raised."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_its_own_pool():
    assert_pool_works()
    assert exit_code_of_child(assert_pool_works) == 0
    assert_pool_works()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_holds_the_pool():
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(TIMEOUT)

    holder = threading.Thread(target=run_on_threads, args=(hold, 3))
    holder.start()
    assert entered.wait(TIMEOUT)
    code = exit_code_of_child(assert_pool_works)
    leave.set()
    holder.join(TIMEOUT)
    assert code == 0


AT_EXIT = """
import atexit, ctypes, threading
from jitseq.runtime.threads import run_on_threads
sleep = ctypes.CDLL(None).usleep
atexit.register(lambda: (run_on_threads(lambda: sleep(100), 4), print("exit")))
run_on_threads(lambda: sleep(1000), 3)
"""

IN_USE = """
def forever():
    while True:
        run_on_threads(lambda: sleep(100), 3)
threading.Thread(target=forever, daemon=True).start()
"""

IN_FINALIZER = """
class Last:
    def __del__(self):
        run_on_threads(lambda: None, 4)
        print("deleted", flush=True)
last = Last()
"""


@pytest.mark.parametrize(
    ("ending", "printed"), [(IN_USE, "exit"), (IN_FINALIZER, "exit deleted")]
)
def test_the_pool_is_used_while_the_interpreter_exits(ending, printed):
    root = str(Path(threads.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", AT_EXIT + ending],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == printed.split()

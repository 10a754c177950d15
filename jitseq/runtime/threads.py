"""The number of threads, and a pool of Python threads around GIL-free kernels.

Enters: a task, in practice a foreign call that releases the GIL and takes blocks
from a shared atomic counter until none is left. Leaves: the task has run to its end
on the calling thread and on up to ``count - 1`` others. Invariant: when
`run_on_threads` returns or raises, no thread is inside the task any more; and it
never waits for a thread that did not begin, so the pool may be busy, slow to wake,
or impossible to create, and costs only speed then.

Each worker sleeps on a raw lock of its own. Measured on a 2-core virtual machine:
12-15 µs from the call to the worker's first instruction, 30 µs when its processor
had gone idle, and 1.5 µs for a task that is over before any worker has woken up.
(`queue.SimpleQueue` measured the same as raw locks, and a short spin of the caller
before it waits gained nothing.)
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import operator
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jitseq import config
from jitseq.errors import JitseqError
from jitseq.ir.variable import ask_again

Task = Callable[[], object]

_chosen: int | None = None


def get_num_threads() -> int:
    """The threads that a compiled program may use, at least 1.

    The last `set_num_threads`, else ``JITSEQ_NUM_THREADS``, else the processors
    that this process may run on.
    """
    if _chosen is not None:
        return _chosen
    text = config.setting("JITSEQ_NUM_THREADS")
    if not text:
        return _available()
    if not text.isdecimal() or int(text) < 1:
        raise JitseqError(
            "JITSEQ_NUM_THREADS is not a number of threads",
            facts={"got": repr(text), "expected": "an integer, 1 or more"},
        )
    return int(text)


def set_num_threads(n: int) -> None:
    """Set the number of threads for every program from its next call on.

    Raises:
        JitseqError: ``n`` is not an integer of 1 or more.
    """
    global _chosen
    _chosen = checked_threads(n, "set_num_threads")
    ask_again()


def checked_threads(n: object, where: str) -> int:
    """``n`` as an int of 1 or more; raises JitseqError, naming ``where``, if not."""
    try:
        number = operator.index(n)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(n, bool):
        raise JitseqError(
            f"{where}: not a number of threads",
            facts={"got": repr(n), "expected": "an integer, 1 or more"},
        )
    return number


def _available() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Handover:
    """Native work that a thread can take without the GIL, right after its last.

    Such work ends only when all of it is done, on whatever threads, and owns what it
    uses: nobody waits for a thread that is late.
    """

    work: Any
    """Has ``post(slot, arena) -> bool`` and ``linger(slot)``; see `bound`."""

    arenas: Sequence[Any]
    """Scratch memory for each helper."""


def run_on_threads(task: Task, count: int, handover: Handover | None = None) -> None:
    """Run ``task`` on this thread and at the same time on up to ``count - 1`` others.

    Fewer take part when another caller uses the pool or when threads cannot be
    created, so the participants must share the work among themselves. Returns when
    all who began have returned; with a ``handover``, when the caller's own part has.

    Raises:
        BaseException: what the task raised, on this thread before on another, after
            all have finished.
    """
    pool = _pool
    if count < 2 or not pool.idle.acquire(False):
        task()
        return
    try:
        pool.run(task, count - 1, handover)
    finally:
        pool.idle.release()


class _Gate:
    """A binary event on one raw lock: any number of `open`s lets one `wait` pass.

    One thread opens and one waits, so that the test and the release need no lock.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def open(self) -> None:
        if self._lock.locked():
            self._lock.release()

    def wait(self) -> None:
        self._lock.acquire()


class _Job:
    """A task for one worker, run by the worker or taken back by the caller.

    Whoever claims it first owns it, for good: ``dict.setdefault`` is atomic, and to
    repeat a claim (after a signal handler raised) gives the same answer.
    """

    __slots__ = ("_claim", "error", "finished", "handover", "task")

    def __init__(self, task: Task, handover: Handover | None) -> None:
        self.task = task
        self.handover = handover
        self.finished = False
        self.error: BaseException | None = None
        self._claim: dict[str, str] = {}

    def claimed_by(self, who: str) -> bool:
        return self._claim.setdefault("owner", who) == who


class _Worker:
    """A sleeping thread, woken for one job at a time."""

    def __init__(self, number: int) -> None:
        self.job: _Job | None = None
        self.slot = (ctypes.c_int64 * 6)()
        self.owned: Any = None
        """What was posted last: the thread may still look at its counters."""
        self.wake = _Gate()
        self.done = _Gate()
        name = f"jitseq-{number}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def begin(self, job: _Job) -> None:
        self.job = job
        self.wake.open()

    def post(self, work: Any, arena: Any) -> bool:
        """Hand over work if the thread lingers, between two tasks.

        Owned first, posted then: an interrupt may come between any two lines, and
        what was posted before may still be looked at while this is refused.
        """
        before = self.owned
        self.owned = before, work, arena
        if work.post(ctypes.addressof(self.slot), arena):
            self.owned = work, arena
            return True
        self.owned = before
        return False

    def end(self, job: _Job) -> None:
        """Take the job back, or wait until it has run; may be called again."""
        if not job.claimed_by("caller"):
            while not job.finished:
                self.done.wait()
        self.job = None

    def _serve(self) -> None:
        while True:
            self.wake.wait()
            job = self.job
            if job is not None and self._work(job) and job.handover is not None:
                job.handover.work.linger(ctypes.addressof(self.slot))
                self.owned = None
            job = None  # a sleeping worker keeps nothing alive

    def _work(self, job: _Job) -> bool:
        """Run the job, unless it is done or taken back; whether it was run."""
        if job.finished or not job.claimed_by("worker"):
            return False
        try:
            job.task()
        except BaseException as error:
            job.error = error
        job.finished = True
        self.done.open()
        return True


def _not_lingering(workers: list[_Worker], handover: Handover) -> list[_Worker]:
    """Hand the work to those that linger; the others are left to be woken."""
    left = []
    for worker, arena in zip(workers, handover.arenas):
        if not worker.post(handover.work, arena):
            left.append(worker)
    return left


class _Pool:
    """Workers, created when first asked for; ``idle`` is held by the one caller."""

    def __init__(self) -> None:
        self.idle = _thread.allocate_lock()
        self.workers: list[_Worker] = []

    def run(self, task: Task, helpers: int, handover: Handover | None) -> None:
        workers = self._hire(helpers)
        if handover is not None:
            workers = _not_lingering(workers, handover)
        pairs = [(worker, _Job(task, handover)) for worker in workers]
        jobs = [job for _, job in pairs]
        errors: list[BaseException] = []
        try:
            for worker, job in pairs:
                worker.begin(job)
            task()
        except BaseException as error:
            errors.append(error)
        if handover is not None and not errors:
            for job in jobs:
                job.claimed_by("caller")
            return
        while pairs:
            try:
                pairs[-1][0].end(pairs[-1][1])
                pairs.pop()
            except BaseException as error:  # Ctrl-C: remember it, and wait on
                errors.append(error)
        errors += [job.error for job in jobs if job.error is not None]
        if errors:
            try:
                raise errors[0]
            finally:
                errors.clear()  # an error must not refer to itself by this frame

    def _hire(self, helpers: int) -> list[_Worker]:
        try:
            while len(self.workers) < helpers:
                self.workers.append(_Worker(len(self.workers) + 1))
        except (RuntimeError, MemoryError):
            pass  # no more threads here; those that there are will do
        return self.workers[:helpers]


_pool = _Pool()


def _forget_pool() -> None:
    """In a forked child: only the forking thread exists, and locks may be held."""
    global _pool
    _pool = _Pool()


def _settle() -> None:
    """At exit: compiled code must not be unloaded under a thread that lingers in it."""
    deadline = time.monotonic() + 0.1
    for worker in _pool.workers:
        while worker.slot[0] and time.monotonic() < deadline:
            time.sleep(0.0002)


atexit.register(_settle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

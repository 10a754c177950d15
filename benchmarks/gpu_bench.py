"""The cuda backend beside PyTorch on the same GPU: calls, training steps, profiles.

Command-line options enter; the table of `benchmarks.table` leaves, in µs, or a table
of kernels for each model. Invariants: inputs lie on the device before the clock
starts, and results stay there; the clock runs from idle device to idle device over
many calls, so that launches overlap with kernels as they do in a program; outputs and
updates are compared with those of jitseq's eager mode on the host first.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import jitseq as js
from benchmarks import bench, train
from benchmarks.gpu_peers import FLOAT32, GPU_PEERS, TF32, GpuPeer, use_tf32
from benchmarks.gpu_profile import profile_text
from benchmarks.peers import installed_version
from benchmarks.report import outputs_of, write_outputs
from benchmarks.results import Results
from benchmarks.table import COMPILED, EAGER, Row, Table, judge, race
from benchmarks.timing import Call, median_seconds, nothing
from benchmarks.train_peers import Stepper, prepare_jitseq
from benchmarks.train_task import Task, make_task
from benchmarks.zoo import ENTRIES, Entry
from jitseq import nn
from jitseq.errors import JitseqError
from jitseq.runtime.report import Profile

BATCHES = (1, 64, 256)
BLOCK = 64
"""Images for which eager mode computes expected outputs at a time."""

STATISTICS_OF_ONE = ("mlp_bn",)
"""Models with a batch-norm that one image gives one value a channel: none train so."""

TF32_TOLERANCE = 2e-2
TF32_TRAIN_TOLERANCE = 2e-1
"""Enough to tell another model; products of TF32 are off by up to 1e-3 each."""

FLOAT32_NAMES = tuple(peer.name for peer in FLOAT32)
TF32_NAMES = tuple(peer.name for peer in TF32)


@dataclass(frozen=True)
class Place:
    """Where the race is run: a torch device, and the backend of jitseq for it."""

    device: str = "cuda"
    backend: str = "cuda"

    def wait(self) -> None:
        """Return when the device has done all that it was given, on every stream."""
        import torch

        torch.cuda.synchronize()

    @property
    def settle(self) -> Call:
        return self.wait if self.device == "cuda" else nothing

    def release(self) -> None:
        """Give the memory of one row's contestants back."""
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()


def refusal() -> str | None:
    """Why nothing can be timed on a GPU here, in one line, or None."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "NUMBA_ENABLE_CUDASIM=1 would time numba's simulator; set it to 0"
    if installed_version("torch") is None:
        return "PyTorch, whose tensors hold the inputs, is not installed"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA; install a CUDA build of it"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU, or no driver for it"
    try:
        js.jit(nn.ReLU(), backend="cuda")
    except JitseqError as error:
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return None


def table_for(training: bool) -> Table:
    """float32 contestants and those with TF32, each group with a ratio of its own."""
    close, far = bench.TOLERANCE, TF32_TOLERANCE
    if training:
        close, far = train.TOLERANCE, TF32_TRAIN_TOLERANCE
    columns = (COMPILED, *FLOAT32_NAMES, *TF32_NAMES)
    tolerances = dict.fromkeys((COMPILED, *FLOAT32_NAMES), close)
    tolerances |= dict.fromkeys(TF32_NAMES, far)
    return Table(columns, {"ratio": FLOAT32_NAMES, "to TF32": TF32_NAMES}, tolerances)


def choose_precision(name: str) -> None:
    """TF32 for the contestants that are named after it, and for no others."""
    use_tf32(name in TF32_NAMES)


def on_host(result: Any, place: Place) -> np.ndarray:
    """A copy of a result.

    Raises:
        JitseqError: it is no torch tensor on the device; its copy would be timed too.
    """
    import torch

    if not isinstance(result, torch.Tensor) or result.device.type != place.device:
        where = getattr(result, "device", "the host")
        raise JitseqError(
            f"a result came back as {type(result).__name__} on {where}",
            hint=f"inputs on {place.device} must give torch tensors there",
        )
    array: np.ndarray = result.detach().cpu().numpy()
    return array


def expected_outputs(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """What eager mode gives, a block of images at a time."""
    starts = range(0, len(x), BLOCK)
    return np.concatenate([np.asarray(model(x[i : i + BLOCK])) for i in starts])


def measure_calls(
    entry: Entry, batch: int, *, peers: Sequence[GpuPeer], rounds: int, place: Place
) -> Row:
    """One row of the table of inference."""
    import torch

    model, x = entry.build(), entry.sample(batch)
    expected = expected_outputs(model, x)
    torch.compiler.reset()  # of a row's compiled functions there is a limit
    compiled = js.jit(model, backend=place.backend)
    calls: dict[str, Call] = {
        COMPILED: partial(compiled, torch.from_numpy(x).to(place.device))
    }
    calls |= {peer.name: peer.infer(model, x, place.device) for peer in peers}
    errors = {}
    for name, call in calls.items():
        choose_precision(name)
        errors[name] = bench.relative_error(on_host(call(), place), expected)
    seconds = timed(calls, rounds, place)
    return Row(entry.name, batch, seconds, errors)


def measure_steps(
    entry: Entry, batch: int, *, peers: Sequence[GpuPeer], rounds: int, place: Place
) -> Row:
    """One row of the table of training steps."""
    import torch

    task = make_task(entry, batch)
    exact = make_task(entry, batch, dropout=False)
    torch.compiler.reset()

    def contestants(task: Task) -> dict[str, Stepper]:
        own = prepare_jitseq(task, None, place.backend, place.device)
        return {COMPILED: own} | {p.name: p.train(task, place.device) for p in peers}

    eager = {EAGER: prepare_jitseq(exact, None, "eager")}
    steppers = contestants(exact)
    errors = train.first_step_errors(eager | steppers, choose_precision)
    if task.is_random:
        steppers.clear()
        place.release()
        steppers = contestants(task)
    calls = {name: stepper.step for name, stepper in steppers.items()}
    seconds = timed(calls, rounds, place)
    return Row(entry.name, batch, seconds, errors)


def timed(calls: dict[str, Call], rounds: int, place: Place) -> dict[str, float]:
    """Median seconds of one call of each contestant, each in its own precision."""
    return median_seconds(calls, rounds, begin=choose_precision, settle=place.settle)


def profile_of(entry: Entry, batch: int, training: bool, place: Place) -> Profile:
    """Measured seconds of each kernel of jitseq's program; no copies are among them."""
    if training:
        stepper = prepare_jitseq(make_task(entry, batch), None, place.backend)
        assert stepper.profile is not None
        return stepper.profile()
    compiled = js.jit(entry.build(), backend=place.backend)
    return compiled.profile(entry.sample(batch))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="jitseq bench --backend cuda",
        allow_abbrev=False,
        description="Time the model zoo on a GPU beside PyTorch: eager, compiled, and "
        "captured as CUDA graphs, in float32 without TF32 and with it; jitseq uses no "
        "TF32. Median µs a call; inputs and results stay on the device. ratio is the "
        "fastest float32 peer's time over jitseq's.",
    )
    bench.add_options(result, GPU_PEERS)
    option = result.add_argument
    option("--batch", type=int, nargs="+", metavar="N", help="default 1 64 256")
    option("--batches", type=train.batch_list, dest="batch", metavar="N,M")
    option("--train", action="store_true", help="time training steps")
    option(
        "--profile", action="store_true",
        help="time jitseq's kernels instead, beside what the device could do",
    )  # fmt: skip
    return result


def races(options: argparse.Namespace) -> list[tuple[Entry, int]]:
    """Models and batch sizes of the rows; prints which are left out."""
    usual = [
        entry.name
        for entry in ENTRIES
        if not (options.train and entry.name in train.ON_REQUEST)
    ]
    models = options.models or (bench.QUICK_MODELS if options.quick else usual)
    rows = []
    for entry in ENTRIES:
        for batch in options.batch or BATCHES:
            if entry.name not in models:
                continue
            if options.train and batch == 1 and entry.name in STATISTICS_OF_ONE:
                print(f"without {entry.name}, batch 1: its batch-norm has one value")
                continue
            rows.append((entry, batch))
    return rows


def print_profiles(options: argparse.Namespace, place: Place) -> None:
    """A table of kernels for each model and batch size."""
    print(f"µs in each kernel of a call, {device_name(place)}")
    for entry, batch in races(options):
        profile = profile_of(entry, batch, options.train, place)
        print(f"\n{entry.name}, batch {batch}")
        print(profile_text(profile), flush=True)
        place.release()


def main(argv: Sequence[str]) -> int:
    """Print the table; 1 if some outputs disagree or there is no GPU, else 0."""
    parsed = parser()
    options = parsed.parse_args(argv)
    if options.profile and outputs_of(options):
        parsed.error(f"{outputs_of(options)[0]}: profiles are printed, not written")
    reason = refusal()
    if reason is not None:
        print(f"bench --backend cuda: {reason}", file=sys.stderr)
        return 1
    if options.profile:
        print_profiles(options, Place())
        return 0
    return run(options, Place(), argv)


def run(options: argparse.Namespace, place: Place, argv: Sequence[str] = ()) -> int:
    """The race itself, and what is printed around it; ``argv`` is for the record."""
    peers = bench.choose_peers(options, GPU_PEERS)
    table = table_for(options.train)
    chosen = races(options)
    unit, what = ("step", "updates") if options.train else ("call", "outputs")
    measure: Callable[..., Row] = measure_steps if options.train else measure_calls
    title = f"median µs a {unit}, {device_name(place)}, {options.rounds} rounds"
    print(title)

    def each(entry: Entry, batch: int) -> Row:
        row = measure(entry, batch, peers=peers, rounds=options.rounds, place=place)
        place.release()
        return row

    rows = race(table, chosen, each)
    packages = {"numba-cuda", *bench.packages_of(GPU_PEERS)}
    facts = {"backend": place.backend, "device": device_name(place)}
    write_outputs(options, Results(title, what, table, rows, packages, facts, argv))
    return judge(table, rows, what)


def device_name(place: Place) -> str:
    if place.device != "cuda":
        return place.device
    import torch

    name: str = torch.cuda.get_device_name()
    return name

"""Whether a device is found, and that the simulator is not taken for one."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from real_device import needs_gpu, needs_torch, why_not

from jitseq.cli import main
from jitseq.codegen.numba_cuda import shim
from jitseq.runtime.cuda.device import current_device


def visible_gpus() -> list[str]:
    """What NVIDIA's own program lists, if it is there."""
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    found = subprocess.run([program, "-L"], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if line.startswith("GPU ")]


def test_a_device_that_others_see_is_found() -> None:
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        pytest.skip("the simulator is on")
    gpus = visible_gpus()
    if not gpus:
        pytest.skip("nvidia-smi lists no GPU")
    assert why_not() is None, gpus


@needs_gpu
def test_info_names_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert not shim.simulated()
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "compute capability" in text and "simulator" not in text


@needs_torch
def test_peaks_are_those_that_pytorch_reports() -> None:
    """Clocks in kHz; 64 or 128 FMAs a clock and multiprocessor, by generation."""
    import torch

    facts = torch.cuda.get_device_properties()
    peaks = current_device().peaks()
    cores = peaks.gflops / (2e-6 * facts.clock_rate * facts.multi_processor_count)
    assert cores == pytest.approx(64, rel=1e-3) or cores == pytest.approx(128, rel=1e-3)
    gbytes = 2e-6 * facts.memory_clock_rate * facts.memory_bus_width / 8
    assert peaks.memory_gbytes == pytest.approx(gbytes, rel=1e-3)


@needs_torch
@pytest.mark.parametrize("training", [[], ["--train"], ["--profile"]])
def test_benchmark(training: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every peer that is installed, captures among them, gives the same results."""
    arguments = ["--backend", "cuda", "--models", "tiny,cnn32", "--batch", "8"]
    assert main(["bench", *arguments, "--rounds", "1", *training]) == 0
    text = capsys.readouterr().out
    assert "cnn32" in text
    assert ("of the roofline" if "--profile" in training else "× TF32") in text

"""Arrays in and out of a device: NumPy's by copies, CUDA tensors where they lie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from real_device import BACKEND, needs_gpu, needs_torch, on_device, on_host

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn, optim

REL = 2e-5


def close(found: Any, expected: Any) -> None:
    """To a part of the largest element that float32 sums of this length keep."""
    expected = np.asarray(expected)
    atol = REL * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(found), expected, rtol=REL, atol=atol)


class Interface:
    """An array of another library: what it tells of itself, and no more."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def __cuda_array_interface__(self) -> Any:
        return self.tensor.__cuda_array_interface__


# NumPy arrays


@needs_gpu
def test_results_are_the_callers_own() -> None:
    """Neither a later call nor a change of its input reaches an earlier result."""
    model = ZOO["cnn32"].build()
    compiled = js.jit(model, backend=BACKEND)
    held = []
    for number, batch in enumerate((4, 64, 4, 1, 64, 4, 4)):
        x = ZOO["cnn32"].sample(batch, seed=number)
        expected = model(x)
        held.append((compiled(x), expected))
        x[...] = np.nan
    for found, expected in held:
        close(found, expected)
    found[...] = 0
    assert np.abs(held[-2][0]).max() > 0


@needs_gpu
def test_strided_and_misaligned_inputs() -> None:
    model = ZOO["mlp"].build()
    compiled = js.jit(model, backend=BACKEND)
    x = np.asfortranarray(ZOO["mlp"].sample(6))
    close(compiled(x), model(x))
    close(compiled(x[::-2]), model(x[::-2]))
    raw = np.zeros(6 * 784 * 4 + 1, np.uint8)[1:].view("float32").reshape(6, 784)
    raw[...] = x
    close(compiled(raw), model(x))


@needs_gpu
def test_calls_of_several_threads() -> None:
    model = ZOO["lenet5"].build()
    compiled = js.jit(model, backend=BACKEND)
    inputs = [ZOO["lenet5"].sample(1 + seed % 5, seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for x, found in zip(inputs, pool.map(compiled, inputs), strict=True):
            close(found, model(x))


@needs_gpu
def test_trained_values_are_seen_everywhere() -> None:
    """Parameters live on the device; the host, other backends and copies follow."""
    models = [ZOO["mlp"].build().train() for _ in range(2)]
    x, y = ZOO["mlp"].sample(8), np.arange(8) % 10
    steps = [
        js.train_step(
            model,
            nn.CrossEntropyLoss(),
            optim.SGD(model.parameters(), 0.05, momentum=0.9),
            backend=backend,
        )
        for model, backend in zip(models, (BACKEND, "eager"), strict=True)
    ]
    own, other = models
    compiled = [js.jit(own, backend=backend) for backend in (BACKEND, "cpu", "eager")]
    for turn in range(4):
        losses = [step(x, y) for step in steps]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for call in compiled:
            close(call(x), other(x))
        if turn == 2:
            for model in models:
                for parameter in model.parameters():
                    parameter[...] = 0.5 * parameter.numpy()
    for name, value in other.state_dict().items():
        close(own.state_dict()[name], value)


# CUDA tensors


@needs_torch
def test_tensors_give_tensors() -> None:
    model = ZOO["cnn32"].build()
    compiled = js.jit(model, backend=BACKEND)
    held = []
    for batch in (2, 64, 2, 2, 2):
        x = ZOO["cnn32"].sample(batch, seed=batch)
        given = on_device(x)
        before = given.clone()
        held.append((compiled(given), model(x)))
        assert bool((given == before).all())
    assert len({found.data_ptr() for found, _ in held}) == len(held)
    for found, expected in held:
        close(on_host(found), expected)


@needs_torch
def test_tensors_are_read_at_every_call() -> None:
    """Where they lie, so that writing into them counts; after a capture too."""
    model = ZOO["mlp"].build()
    compiled = js.jit(model, backend=BACKEND)
    given = on_device(ZOO["mlp"].sample(4))
    for seed in range(5):
        x = ZOO["mlp"].sample(4, seed=seed)
        given.copy_(on_device(x))
        close(on_host(compiled(given)), model(x))


@needs_torch
@pytest.mark.parametrize("other", ["transposed", "sliced", "offset", "expanded"])
def test_tensors_that_are_not_contiguous(other: str) -> None:
    model = ZOO["lenet5"].build()
    compiled = js.jit(model, backend=BACKEND)
    whole = on_device(ZOO["lenet5"].sample(9))
    given = {
        "transposed": whole.transpose(2, 3),
        "sliced": whole[::2],
        "offset": whole[1:],
        "expanded": whole[:1].expand(5, -1, -1, -1),
    }[other]
    expected = model(np.ascontiguousarray(given.cpu().numpy()))
    close(on_host(compiled(given)), expected)


@needs_torch
def test_work_on_other_streams_is_waited_for() -> None:
    """Inputs that a stream still computes, and results that it goes on with."""
    import torch

    model = ZOO["mlp"].build()
    compiled = js.jit(model, backend=BACKEND)
    given = on_device(ZOO["mlp"].sample(4))
    expected = model(2.0 * ZOO["mlp"].sample(4, seed=1))
    values = on_device(ZOO["mlp"].sample(4, seed=1))
    busy = torch.randn(4096, 4096, device="cuda")
    compiled(given)
    torch.cuda.synchronize()
    for _ in range(3):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(20):
                torch.mm(busy, busy)
            torch.mul(values, 2.0, out=given)
            found = compiled(given) * 3.0
            given.zero_()
        torch.cuda.synchronize()
        close(on_host(found), 3.0 * np.asarray(expected))


@needs_torch
def test_arrays_of_other_libraries() -> None:
    import torch

    model = ZOO["cnn32"].build()
    compiled = js.jit(model, backend=BACKEND)
    x = ZOO["cnn32"].sample(3)
    found = compiled(Interface(on_device(x)))
    assert hasattr(found, "__cuda_array_interface__")
    close(on_host(torch.as_tensor(found, device="cuda")), model(x))


@needs_torch
def test_training_on_tensors() -> None:
    """Inputs and labels on the device; the loss is a number."""
    losses = []
    for backend in (BACKEND, "eager"):
        model = ZOO["cnn32"].build().train()
        step = js.train_step(
            model,
            nn.CrossEntropyLoss(),
            optim.Adam(model.parameters(), 1e-3),
            backend=backend,
        )
        found = []
        for seed in range(5):
            x, y = ZOO["cnn32"].sample(16, seed=seed), np.arange(16) % 10
            arrays = (x, y) if backend == "eager" else (on_device(x), on_device(y))
            found.append(float(step(*arrays)))
        losses.append(found)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@needs_torch
def test_an_array_of_another_device_is_refused() -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    compiled = js.jit(ZOO["tiny"].build(), backend=BACKEND)
    compiled(ZOO["tiny"].sample(2))
    with pytest.raises(js.JitseqError, match="device"):
        compiled(on_device(ZOO["tiny"].sample(2)).to("cuda:1"))

"""How many programs there are, and what `cache_info` says of them."""

from __future__ import annotations

import numpy as np
import pytest

import jitseq as js
from jitseq import nn


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))


def conv(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()


def image(n: int, side: int = 6) -> np.ndarray:
    return np.ones((n, 1, side, side), np.float32)


def test_all_batch_sizes_are_one_program():
    compiled = js.jit(conv(4))
    sizes = np.random.default_rng(0).permutation(np.arange(1, 65))
    for n in sizes:
        assert compiled(image(n)).shape == (n, 4, 2, 2)
    info = compiled.cache_info()
    assert (info.hits, info.misses, info.compilations, info.disk_hits) == (63, 1, 1, 0)
    assert info.reasons == (f"first call with f32[{sizes[0]}, 1, 6, 6]",)


def test_each_signature_and_each_structure_is_a_miss_with_its_reason():
    net = conv(4)
    compiled = js.jit(net)
    compiled(image(2)), compiled(image(2, 8)), compiled(image(3)), compiled(image(3, 8))
    assert compiled.cache_info()[:2] == (2, 2)
    net.append(nn.Sigmoid())
    compiled(image(2))
    net[0].weight = nn.Parameter(net[0].weight.numpy())
    compiled(image(2))
    *_, structure, parameters = compiled.cache_info().reasons
    assert structure.startswith("the model or its training flags changed")
    assert parameters.startswith("parameters were replaced")
    info = compiled.cache_info()
    assert (info.misses, info.compilations, info.disk_hits) == (4, 3, 0)


def test_flags_that_change_nothing_keep_the_program():
    net = conv(4)
    compiled = js.jit(net)
    for mode in (True, False, True):
        net.train(mode)
        compiled(image(2))
    assert compiled.cache_info()[:2] == (2, 1)


def test_without_dynamic_batch_each_size_is_a_program():
    compiled = js.jit(conv(4), dynamic_batch=False)
    for n in (1, 2, 1, 2, 1):
        compiled(image(n))
    assert compiled.cache_info()[:4] == (3, 2, 0, 2)
    assert "dynamic_batch is off" in str(compiled.explain(image(1)))


def test_an_equal_model_shares_the_code_in_memory():
    first, second = js.jit(conv(4)), js.jit(conv(4))
    first(image(1)), second(image(2))
    assert first.cache_info().compilations == 1
    assert second.cache_info()[1:4] == (1, 0, 0)
    assert not np.array_equal(first(image(1)), second(image(1)))


def test_code_that_was_dropped_comes_from_disk():
    js.jit(conv(4))(image(1))
    again = js.jit(conv(4))
    again(image(1))
    assert again.cache_info()[1:4] == (1, 1, 0)


def test_identical_layers_are_one_kernel():
    blocks = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    stages = [blocks, blocks, blocks, [nn.MaxPool2d(2)], blocks, blocks]
    net = nn.Sequential(*(layer for stage in stages for layer in stage)).eval()
    compiled = js.jit(net)
    x = np.ones((1, 8, 8, 8), np.float32)
    compiled(x)
    report = compiled.explain(x)
    functions = compiled.source(x, form="program").count("\nkernel ")
    assert len({kernel.name for kernel in report.kernels}) < len(report.kernels)
    assert functions <= len({kernel.name for kernel in report.kernels})


def test_a_program_is_made_once_for_threads_that_arrive_together():
    from concurrent.futures import ThreadPoolExecutor

    compiled = js.jit(conv(5))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: compiled(image(n + 1)), range(8)))
    assert compiled.cache_info().misses == 1

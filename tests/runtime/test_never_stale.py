"""Whatever a program depends on may change; the next call sees it.

Every change below happens after the native path has answered, so that a path that
forgot to look would give the old result.
"""

from __future__ import annotations

import numpy as np
import pytest
from tolerance import assert_close

import jitseq as js
from jitseq import nn


def model() -> nn.Sequential:
    js.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3),
    ).eval()  # fmt: skip


X = np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype(np.float32)


def set_data(net):
    net[0].weight.data = net[0].weight.numpy() * 2


def set_items(net):
    net[6].bias[...] = [1.0, 2.0, 3.0]


def set_one_item(net):
    net[0].bias[2] = 7.0


def load(net):
    net.load_state_dict({k: v * 0.5 + 0.1 for k, v in net.state_dict().items()})


def new_parameter(net):
    net[6].weight = nn.Parameter(np.ones((3, 64), np.float32))


def drop_bias(net):
    net[6].bias = None


def buffer_in_place(net):
    net[1].running_mean[...] = 3.0


def buffer_assigned(net):
    net[1].running_var = np.full(4, 9.0, np.float32)


def replace_layer(net):
    net[2] = nn.Tanh()


def append_layer(net):
    net.append(nn.Softmax(dim=1))


def remove_layer(net):
    del net[2]


def insert_layer(net):
    net.insert(0, nn.ReLU())


def set_kernel(net):
    net[3].kernel_size = 1


def set_eps(net):
    net[1].eps = 0.5


CHANGES = [
    set_data, set_items, set_one_item, load, new_parameter, drop_bias,
    buffer_in_place, buffer_assigned, replace_layer, append_layer, remove_layer,
    insert_layer, set_kernel, set_eps,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_by_the_next_call(change):
    net = model()
    compiled = js.jit(net)
    before = [compiled(X) for _ in range(3)][-1]
    change(net)
    expected = net(X)
    assert not np.allclose(expected, before)
    for _ in range(3):
        assert_close(compiled(X), expected, magnitude=4.0, terms=64)


def test_the_native_path_was_answering():
    compiled = js.jit(model())
    compiled(X)
    assert compiled._fast(X) is not None


def test_every_element_of_every_parameter_counts():
    net = model()
    compiled = js.jit(net)
    compiled(X)
    for name, parameter in net.named_parameters():
        parameter.data = parameter.numpy() + 0.25
        assert_close(compiled(X), net(X), magnitude=8.0, terms=64)
        assert name in dict(net.named_parameters())


def test_replacing_weights_does_not_compile_again():
    net = model()
    compiled = js.jit(net)
    for change in (set_data, set_items, load, buffer_in_place):
        compiled(X)
        change(net)
    compiled(X)
    assert compiled.cache_info()[:2] == (4, 1)


class Doubling(nn.Module):
    """Twice the input while it trains."""

    def forward(self, x):
        return x * 2.0 if self.training else x + 0.0


def test_train_and_eval_are_followed():
    net = nn.Sequential(Doubling())
    compiled, x = js.jit(net), np.ones((2, 4), np.float32)
    for mode in (True, False, True):
        net.train(mode)
        for _ in range(3):
            np.testing.assert_array_equal(compiled(x), x * (1 + mode))
    net[0].training = False
    np.testing.assert_array_equal(compiled(x), x)


def test_another_dtype():
    net = model()
    compiled = js.jit(net)
    compiled(X)
    net.double()
    with pytest.raises(js.DtypeError, match=r"different dtypes(?s:.*)model\.0"):
        compiled(X)
    result = compiled(X.astype(np.float64))
    assert result.dtype == np.float64
    assert_close(result, net(X.astype(np.float64)), magnitude=4.0, terms=64)
    net.float()
    assert compiled(X).dtype == np.float32
    with pytest.raises(js.DtypeError):
        compiled(X.astype(np.float64))


def test_values_are_read_through_read_only_views():
    net = model()
    compiled = js.jit(net)
    before = compiled(X)
    for view in (
        net[0].weight.numpy(), np.asarray(net[0].weight), net[0].weight.data,
        net[0].weight[1:], net[1].running_mean.numpy(),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0.0
    np.testing.assert_array_equal(compiled(X), before)


def test_a_failed_change_changes_nothing():
    net = model()
    compiled = js.jit(net)
    before = compiled(X)
    with pytest.raises(js.ShapeError):
        net[0].weight.data = np.zeros((1, 1, 3, 3))
    with pytest.raises(ValueError):
        net[0].weight[...] = np.zeros(7)
    with pytest.raises(js.JitseqError):
        net.load_state_dict({"0.weight": np.zeros(3)})
    with pytest.raises(TypeError):
        net[0].weight = np.zeros((4, 2, 3, 3))
    np.testing.assert_array_equal(compiled(X), before)


def test_two_programs_on_the_same_weights():
    net = model()
    head = nn.Sequential(*list(net)[:3])
    first, second = js.jit(net), js.jit(head)
    first(X), second(X)
    set_data(net)
    assert_close(first(X), net(X), magnitude=4.0, terms=64)
    assert_close(second(X), head(X), magnitude=4.0, terms=18)
    other = js.jit(net)
    np.testing.assert_array_equal(other(X), first(X))
    assert other.cache_info().compilations == 0  # the code was in memory


def test_a_weight_that_two_layers_share():
    js.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    compiled, x = js.jit(net), np.ones((3, 4), np.float32)
    compiled(x)
    net[0].weight.data = net[0].weight.numpy() * 3
    assert_close(compiled(x), net(x), magnitude=8.0, terms=8)
    net[2].weight = nn.Parameter(np.eye(4, dtype=np.float32))
    assert_close(compiled(x), net(x), magnitude=8.0, terms=8)


def test_functions_follow_the_parameters_that_they_close_over():
    scale = nn.Parameter(np.float32([2.0]))
    layer = nn.ReLU()
    compiled, x = js.jit(lambda x: layer(x) * scale), np.ones((2, 3), np.float32)
    compiled(x)
    scale[...] = 5.0
    np.testing.assert_array_equal(compiled(x), np.full((2, 3), 5.0, np.float32))


def test_a_compiled_callable_inside_of_another_is_traced_through():
    inner = js.jit(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    x = np.ones((2, 3), np.float32)
    inner(x), inner(x)
    constant = np.full((1, 3), 0.5, np.float32)
    outer = js.jit(lambda x: inner(x) + inner(constant))
    for _ in range(2):
        outer(x)
    inner.target[0].weight[...] = 0.25
    assert_close(outer(x), inner.target(x) + inner.target(constant), terms=3)
    assert any("linear" in kernel.ops for kernel in outer.explain(x).kernels)


def test_the_number_of_threads_is_seen(monkeypatch):
    from jitseq.runtime import bound

    used = []

    def run(task, count, handover):
        used.append(count)
        task()

    monkeypatch.setattr(bound, "run_on_threads", run)
    monkeypatch.setattr("jitseq.runtime.shares.THREADING_FLOPS", 1)
    compiled = js.jit(model())
    try:
        for count in (2, 1, 3):
            js.set_num_threads(count)
            compiled(X), compiled(X)
            assert compiled.threads == count
    finally:
        monkeypatch.setattr("jitseq.runtime.threads._chosen", None)
    assert set(used) == {2}  # 3 threads for 2 images are 2; one thread needs no pool
    assert len(used) >= 4

"""`Module`: registration, traversal, modes, dtypes, and the epoch."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from jitseq import nn
from jitseq.ir.variable import EPOCH


class Block(nn.Module):
    """A module with every kind of member."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = nn.Parameter([1.0, 2.0])
        self.register_buffer("offset", np.zeros(2, np.float32))
        self.register_buffer("cache", np.ones(3), persistent=False)
        self.register_parameter("nothing", None)
        self.limit = 3


@pytest.fixture
def block() -> Block:
    return Block()


def test_names(block):
    model = nn.Sequential(block, block)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["0.scale", "0.inner.weight", "0.inner.bias"]
    assert [name for name, _ in model.named_buffers()] == ["0.offset", "0.cache"]
    assert [name for name, _ in model.named_modules()] == ["", "0", "0.inner"]
    assert list(model.children()) == [block]
    twice = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(twice) == 6 and twice[3] == "1.scale"
    assert [name for name, _ in block.named_parameters("b", recurse=False)] == [
        "b.scale"
    ]
    assert model.get_submodule("1.inner") is block.inner
    assert model.get_submodule("") is model
    with pytest.raises(AttributeError):
        model.get_submodule("0.outer")


def test_members_are_attributes(block):
    assert block.nothing is None and block.offset.shape == (2,)
    assert {"scale", "offset", "inner"} <= set(dir(block))
    block.nothing = nn.Parameter(np.ones(1))
    assert "nothing" in dict(block.named_parameters())
    del block.nothing
    with pytest.raises(AttributeError, match="'Block' object has no attribute"):
        _ = block.nothing
    block.inner = None
    assert list(block.children()) == []


def test_assigning_an_array_to_a_buffer_assigns_into_it(block):
    buffer = block.offset
    block.offset = np.array([5, 6])
    assert block.offset is buffer and buffer.dtype == np.float32
    np.testing.assert_array_equal(buffer, [5, 6])
    block.offset = np.zeros(4, np.float32)
    assert block.offset.shape == (4,) and "offset" in block.state_dict()


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda b: setattr(b, "scale", np.ones(2)), TypeError),
        (lambda b: setattr(b, "inner", 3), TypeError),
        (lambda b: b.add_module("scale", nn.ReLU()), KeyError),
        (lambda b: b.add_module("x", 3), TypeError),
        (lambda b: b.add_module(3, nn.ReLU()), TypeError),
        (lambda b: b.register_buffer("a.b", np.ones(1)), KeyError),
        (lambda b: b.register_buffer("scale", np.ones(1)), KeyError),
        (lambda b: b.register_parameter("forward", nn.Parameter(1.0)), KeyError),
        (lambda b: b.register_parameter("x", np.ones(1)), TypeError),
        (lambda b: b.train("yes"), ValueError),
        (lambda b: b.to(np.int32), TypeError),
        (lambda b: b.to("float16"), TypeError),
        (lambda b: b(np.ones(2)), NotImplementedError),
    ],
)
def test_misuse(block, misuse, error):
    before = block.state_dict()
    with pytest.raises(error):
        misuse(block)
    after = block.state_dict()
    assert list(before) == list(after)
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    assert after["scale"].dtype == np.float32


def test_members_need_init():
    class Early(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="before Module"):
        Early()


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "limit", 4),
        lambda b: setattr(b, "scale", nn.Parameter([3.0, 4.0])),
        lambda b: setattr(b, "offset", np.ones(2)),
        lambda b: setattr(b.inner, "bias", None),
        lambda b: delattr(b, "limit"),
        lambda b: delattr(b, "inner"),
        lambda b: b.add_module("more", nn.ReLU()),
        lambda b: b.register_buffer("more", np.ones(1)),
        lambda b: b.register_parameter("more", None),
        lambda b: b.eval(),
        lambda b: b.double(),
        lambda b: b.requires_grad_(False),
        lambda b: b.load_state_dict(b.state_dict()),
        lambda b: b.scale.__setitem__(0, 9.0),
    ],
)
def test_every_change_advances_the_epoch(block, change):
    before = int(EPOCH[0])
    change(block)
    assert EPOCH[0] > before


def test_changing_a_container_advances_the_epoch():
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    for change in (
        lambda: model.append(nn.ELU()),
        lambda: model.insert(0, nn.ELU()),
        lambda: model.pop(0),
        lambda: model.__setitem__(0, nn.SELU()),
        lambda: model.__delitem__(slice(None)),
    ):
        before = int(EPOCH[0])
        change()
        assert EPOCH[0] > before


def test_modes_reach_every_module(block):
    model = nn.Sequential(block)
    assert model.training and model.eval() is model
    assert not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())


def test_dtypes(block):
    block.register_buffer("count", np.zeros((), np.int64))
    block.scale.grad = np.ones(2, np.float32)
    assert block.double() is block
    assert {p.dtype.name for p in block.parameters()} == {"float64"}
    assert block.scale.grad.dtype == np.float64
    assert block.count.dtype == np.int64 and block.offset.dtype == np.float64
    block.float().to("float32").to(np.float32)
    assert {p.dtype.name for p in block.parameters()} == {"float32"}


def test_gradients(block):
    assert all(p.requires_grad for p in block.parameters())
    block.requires_grad_(False)
    assert not any(p.requires_grad for p in block.parameters())
    block.scale.grad = np.ones(2, np.float32)
    block.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(block.scale.grad, [0, 0])
    block.zero_grad()
    assert block.scale.grad is None


def test_apply_visits_children_first(block):
    seen = []
    assert nn.Sequential(block).apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Block", "Sequential"]


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_are_independent(clone):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    other = clone(model)
    before = model[0].weight.numpy().copy()
    other[0].weight[...] = 7
    np.testing.assert_array_equal(model[0].weight, before)
    assert repr(other) == repr(model) and not other[1].training

"""`Sequential`: positions, keys, slices and misuse."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from jitseq import nn


def keys(model: nn.Sequential) -> list[str]:
    return [name for name, _ in model.named_children()]


@pytest.fixture
def layers() -> list[nn.Module]:
    return [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Tanh()]


@pytest.fixture
def model(layers: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*layers)


def test_positions_keys_and_names(model, layers):
    assert len(model) == 4 and list(model) == layers
    assert model[0] is layers[0] and model[-1] is layers[3]
    assert model["2"] is layers[2] is model[np.int64(2)]
    named = nn.Sequential(OrderedDict(first=layers[0], act=layers[1]))
    assert named.first is named["first"] is named[0] is layers[0]
    assert keys(named) == ["first", "act"]


def test_a_slice_shares_layers_and_keeps_keys(model, layers):
    part = model[1:3]
    assert keys(part) == ["1", "2"] and list(part) == layers[1:3]
    assert list(model[::-1]) == layers[::-1]
    assert len(model[4:]) == 0


@pytest.mark.parametrize("grow", ["append", "extend", "iadd", "insert", "imul"])
def test_growing_a_slice_overwrites_nothing(model, layers, grow):
    part, new = model[2:], nn.GELU()
    if grow == "append":
        part.append(new)
    elif grow == "extend":
        part.extend([new])
    elif grow == "iadd":
        part += nn.Sequential(new)
    elif grow == "insert":
        part.insert(2, new)
    else:
        part *= 2
        new = layers[2]
    assert list(part)[:3] == [layers[2], layers[3], new]
    assert len(set(part._modules)) == len(part) == (4 if grow == "imul" else 3)


def test_assignment_replaces_in_place(model, layers):
    model[-1] = new = nn.Sigmoid()
    model["1"] = other = nn.ELU()
    assert list(model) == [layers[0], other, layers[2], new]
    assert keys(model) == ["0", "1", "2", "3"]


def test_deletion_numbers_anew(model, layers):
    del model[1]
    assert list(model) == [layers[0], *layers[2:]] and keys(model) == ["0", "1", "2"]
    del model[::2]
    assert list(model) == [layers[2]] and keys(model) == ["0"]


def test_insert_moves_numbered_layers(model, layers):
    model.insert(-4, first := nn.ELU()).insert(5, last := nn.SELU())
    assert list(model) == [first, *layers, last]
    assert keys(model) == list("012345")


def test_insert_among_names_keeps_them(layers):
    named = nn.Sequential(OrderedDict(a=layers[0], b=layers[1]))
    named.insert(1, layers[2])
    assert list(named) == [layers[0], layers[2], layers[1]]
    assert list(named._modules) == ["a", "1", "b"]


def test_pop(model, layers):
    assert model.pop(-1) is layers[3] and model.pop("0") is layers[0]
    assert list(model.pop(slice(0, 1))) == [layers[1]]
    assert list(model) == [layers[2]] and keys(model) == ["0"]


def test_sums_and_products_share_layers(model, layers):
    both = model + nn.Sequential(layers[1])
    assert list(both) == [*layers, layers[1]] and len(model) == 4
    assert list(model * 2) == list(2 * model) == layers * 2
    same = model
    same += model
    assert same is model and list(model) == layers * 2
    short = nn.Sequential(layers[0])
    short *= 3
    assert list(short) == [layers[0]] * 3
    assert [name for name, _ in short.named_parameters()] == ["0.weight", "0.bias"]


def test_an_empty_container_is_the_identity(rng):
    x = rng.standard_normal((2, 3))
    assert nn.Sequential()(x) is x
    assert nn.Sequential(nn.Sequential(), nn.Identity())(x) is x


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda m: nn.Sequential(3), TypeError),
        (lambda m: nn.Sequential({"a": nn.ReLU()}), TypeError),
        (lambda m: nn.Sequential(nn.ReLU), TypeError),
        (lambda m: m.append("relu"), TypeError),
        (lambda m: m.extend([nn.ReLU(), 1]), TypeError),
        (lambda m: m.insert(0, None), AssertionError),
        (lambda m: m.insert(0, None), TypeError),
        (lambda m: m.insert(9, nn.ReLU()), IndexError),
        (lambda m: m.__setitem__(0, 1), TypeError),
        (lambda m: m.__setitem__(0, None), TypeError),
        (lambda m: m.__setitem__(4, nn.ReLU()), IndexError),
        (lambda m: m.__setitem__("new", nn.ReLU()), KeyError),
        (lambda m: m[4], IndexError),
        (lambda m: m["9"], KeyError),
        (lambda m: m[1.0], TypeError),
        (lambda m: m.__delitem__(-5), IndexError),
        (lambda m: m.__add__([nn.ReLU()]), ValueError),
        (lambda m: m.__iadd__(nn.ReLU()), ValueError),
        (lambda m: m * 1.5, TypeError),
        (lambda m: m * 0, ValueError),
        (lambda m: m.__imul__(-1), ValueError),
        (lambda m: m.nothing, AttributeError),
        (lambda m: nn.Sequential(OrderedDict({"a.b": nn.ReLU()})), KeyError),
        (lambda m: nn.Sequential(OrderedDict({"": nn.ReLU()})), KeyError),
        (lambda m: nn.Sequential(OrderedDict(append=nn.ReLU())), KeyError),
    ],
)
def test_misuse_raises_and_changes_nothing(model, layers, misuse, error):
    with pytest.raises(error):
        misuse(model)
    assert list(model) == layers and keys(model) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_leave_the_keys_that_pytorch_leaves(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ours = nn.Sequential(*(nn.Softplus(i) for i in range(4)))
    theirs = torch.nn.Sequential(*(torch.nn.Softplus(i) for i in range(4)))
    for step in range(4, 16):
        kind = rng.choice(["append", "insert", "set", "delete", "slice", "pop", "add"])
        index = int(rng.integers(-len(ours), len(ours))) if len(ours) else 0
        cut = slice(*sorted(int(i) for i in rng.integers(0, len(ours) + 1, 2)))
        for model, library in ((ours, nn), (theirs, torch.nn)):
            layer = library.Softplus(step)
            if kind == "append" or not len(model):
                model.append(layer)
            elif kind == "insert":
                model.insert(index, layer)
            elif kind == "set":
                model[index] = layer
            elif kind == "delete":
                del model[index]
            elif kind == "slice":
                del model[cut]
            elif kind == "pop":
                model.pop(index)
            else:
                model += library.Sequential(layer, layer)
        assert repr(ours) == repr(theirs)

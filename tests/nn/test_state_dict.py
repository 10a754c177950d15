"""Saving and loading, and that a failed load changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from jitseq import nn
from jitseq.errors import JitseqError, ShapeError


def make() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Linear(4, 2, bias=False)
    )


KEYS = [
    "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
    "1.num_batches_tracked", "2.weight", "3.weight",
]  # fmt: skip


def test_keys_and_copies():
    model = make()
    state = model.state_dict()
    assert list(state) == KEYS
    assert state["1.num_batches_tracked"].dtype == np.int64
    state["0.weight"][...] = 9
    assert not np.any(model[0].weight.numpy() == 9)
    assert next(iter(model[1:2].state_dict(prefix="m."))) == "m.1.weight"


def test_load_copies_and_casts():
    source, target = make().double(), make()
    source[1].running_mean = np.arange(4)
    result = target.load_state_dict(source.state_dict())
    assert result == ([], []) and result.missing_keys == []
    for key, value in target.state_dict().items():
        expected = source.state_dict()[key]
        np.testing.assert_array_equal(value, expected.astype(value.dtype))
        assert value.dtype == make().state_dict()[key].dtype


def changed(**entries: object) -> dict[str, object]:
    state: dict[str, object] = dict(make().state_dict())
    for key, value in entries.items():
        key = key.replace("_", ".", 1).lstrip("k")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


@pytest.mark.parametrize(
    ("state", "strict", "text"),
    [
        (changed(k3_weight=None), True, "missing keys"),
        (changed(k9_weight=np.ones(1)), True, "unexpected keys"),
        (
            changed(k3_weight=np.ones((4, 2))),
            True,
            r"shape \(4, 2\), expected \(2, 4\)",
        ),
        (changed(k3_weight=np.ones(8)), False, "shape"),
        (changed(k2_weight=np.array(list("abcd"))), True, "dtype"),
        (changed(k2_weight=[1, 2, 3, object()]), False, "not an array"),
        (changed(k2_weight=np.ones(4, complex)), True, "dtype complex128"),
    ],
)
def test_a_failed_load_changes_nothing(state, strict, text):
    model = make()
    before = model.state_dict()
    with pytest.raises(RuntimeError, match=text) as caught:
        model.load_state_dict(state, strict=strict)
    assert isinstance(caught.value, JitseqError) and isinstance(
        caught.value, ShapeError
    )
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_not_strict_reports_keys():
    model = make()
    state = {"3.weight": np.ones((2, 4)), "extra": np.ones(1)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == ["extra"]
    assert missing == [
        k for k in KEYS if k not in ("3.weight", "1.num_batches_tracked")
    ]
    np.testing.assert_array_equal(model[3].weight, 1)


def test_a_step_counter_may_be_absent():
    state = make().state_dict()
    del state["1.num_batches_tracked"]
    assert make().load_state_dict(state) == ([], [])


def test_values_may_be_views_of_the_model():
    model = nn.Sequential(nn.PReLU(), nn.PReLU())
    model[0].weight[...] = 1
    model[1].weight[...] = 2
    swapped = {"0.weight": model[1].weight.numpy(), "1.weight": model[0].weight.numpy()}
    model.load_state_dict(swapped)
    assert [float(p[0]) for p in model.parameters()] == [2, 1]


def test_not_a_mapping():
    with pytest.raises(TypeError, match="dict-like"):
        make().load_state_dict([1])


def test_from_and_to_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.PReLU(4),
        torch.nn.Linear(4, 2, bias=False),
    )  # fmt: skip
    ours = make()
    for state in (theirs.state_dict(), dict(theirs.named_parameters())):
        ours.load_state_dict(state, strict=False)
        for key, value in theirs.state_dict().items():
            np.testing.assert_array_equal(ours.state_dict()[key], value.numpy())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    tensors = {key: torch.from_numpy(v) for key, v in make().state_dict().items()}
    theirs.load_state_dict(tensors)

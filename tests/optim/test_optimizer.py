"""Groups, gradients, saved state and refused inputs, common to all optimizers."""

from __future__ import annotations

import numpy as np
import pytest
from optimizer_cases import (
    CASES,
    as_tensors,
    make,
    parameters,
    run,
    run_torch,
    torch_twin,
)

from jitseq import nn, optim
from jitseq.errors import DtypeError, JitseqError, ShapeError


def values(params) -> list[np.ndarray]:
    return [p.numpy().copy() for p in params]


def assert_same(left, right) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def saved(optimizer) -> list:
    """Everything that a step may change, flattened."""
    state = optimizer.state_dict()
    arrays = [
        (number, name, array.tolist())
        for number, entries in state["state"].items()
        for name, array in entries.items()
    ]
    return [arrays, state["param_groups"]]


# Stepping


def test_parameters_without_gradient_are_skipped():
    params = parameters()
    adam = optim.Adam(params)
    before = values(params)
    params[1].grad = np.ones(5)
    adam.step()
    assert_same(values(params)[::2], before[::2])
    assert np.all(params[1].numpy() != before[1])
    assert list(adam.state) == [params[1]] and adam.state[params[1]]["step"] == 1


def test_step_returns_what_the_closure_does():
    (p, *_) = params = parameters()

    def closure():
        p.grad = np.ones(p.shape)
        return 2.5

    before = values(params)
    assert optim.SGD(params, lr=0.5).step(closure) == 2.5
    np.testing.assert_array_equal(p.numpy(), before[0] - 0.5)
    assert optim.SGD(params).step() is None


def test_zero_grad():
    params = parameters()
    sgd = optim.SGD(params)
    params[0].grad = np.ones((3, 4))
    sgd.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(params[0].grad, np.zeros((3, 4)))
    assert params[1].grad is None
    sgd.zero_grad()
    assert params[0].grad is None


def test_a_step_is_seen_by_compiled_programs():
    params = parameters()
    run_once = optim.SGD(params, lr=0.1)
    version = params[0].version
    params[0].grad = np.ones((3, 4))
    run_once.step()
    assert params[0].version > version


def test_learning_rates_change_between_steps():
    p = nn.Parameter(np.zeros(2))
    sgd = optim.SGD([p], lr=1.0)
    for lr, expected in ((1.0, -1.0), (0.5, -1.5), (0.0, -1.5)):
        sgd.param_groups[0]["lr"] = np.float64(lr)
        p.grad = np.ones(2)
        sgd.step()
        np.testing.assert_array_equal(p.numpy(), [expected, expected])


# Groups


def test_groups_have_their_own_options():
    a, b, c = parameters()
    sgd = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.5)
    sgd.add_param_group({"params": [c], "momentum": 0.9})
    assert [g["lr"] for g in sgd.param_groups] == [0.5, 1.0, 0.5]
    assert [g["momentum"] for g in sgd.param_groups] == [0, 0, 0.9]
    before = values((a, b, c))
    for p in (a, b, c):
        p.grad = np.ones(p.shape)
    sgd.step()
    for p, old, lr in zip((a, b, c), before, (0.5, 1.0, 0.5)):
        np.testing.assert_array_equal(p.numpy(), old - lr)
    assert list(sgd.state) == [c]


def test_named_parameters():
    model = nn.Linear(2, 3)
    sgd = optim.SGD(model.named_parameters(), lr=0.1)
    assert sgd.param_groups[0]["param_names"] == ["weight", "bias"]
    model.bias.grad = np.ones(4, np.float32)
    with pytest.raises(ShapeError, match="parameter bias of group 0"):
        sgd.step()
    with pytest.raises(optim.OptimizerError, match="with/without names"):
        sgd.add_param_group({"params": parameters()})


def test_the_given_group_is_not_changed():
    a, b, _ = parameters()
    group = {"params": [a], "betas": [0.5, 0.6]}
    adam = optim.Adam([group])
    adam.add_param_group({"params": [b]})
    assert group == {"params": [a], "betas": [0.5, 0.6]}
    adam.param_groups[0]["betas"][0] = 0.1
    assert group["betas"] == [0.5, 0.6]


def test_repr_is_pytorchs():
    _, theirs = torch_twin("nesterov", parameters())
    ours = repr(make("nesterov", parameters()))
    wanted = repr(theirs).splitlines()
    only_torch = ("foreach", "differentiable", "fused")
    lines = [s for s in wanted if s.strip().split(":")[0] not in only_torch]
    assert ours.splitlines() == lines


# Saved state


@pytest.mark.parametrize("name", CASES)
def test_state_goes_to_pytorch_and_on_from_there(name):
    params = parameters()
    tensors, theirs = torch_twin(name, params)
    ours = make(name, params)
    run(ours, params, 3)
    for p, t in zip(params, tensors):
        t.copy_(t.new_tensor(p.numpy()))
    theirs.load_state_dict(as_tensors(ours.state_dict(), theirs.state_dict()))
    run(ours, params, 5, 3)
    run_torch(theirs, tensors, 5, 3)
    for p, t in zip(params, tensors):
        np.testing.assert_allclose(p.numpy(), t.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_state_comes_from_pytorch(name):
    params = parameters()
    tensors, theirs = torch_twin(name, params)
    run_torch(theirs, tensors, 3)
    for p, t in zip(params, tensors):
        p.data = t.numpy()
    ours = type(make(name, params))(params, lr=0.7)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    state, wanted = ours.state_dict()["state"], theirs.state_dict()["state"]
    for number, entries in state.items():
        assert set(entries) == set(wanted[number])
        for key, array in entries.items():
            np.testing.assert_array_equal(array, wanted[number][key].numpy())
            assert array.dtype == wanted[number][key].numpy().dtype
    run(ours, params, 5, 3)
    run_torch(theirs, tensors, 5, 3)
    for p, t in zip(params, tensors):
        np.testing.assert_allclose(p.numpy(), t.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_state_round_trip(name):
    params = parameters()
    first = make(name, params)
    run(first, params, 3)
    twins = [nn.Parameter(p.numpy()) for p in params]
    second = make(name, twins, lr=0.9)
    state = first.state_dict()
    second.load_state_dict(state)
    run(first, params, 3, 3)
    run(second, twins, 3, 3)
    assert_same(values(params), values(twins))
    third = make(name, parameters())
    third.load_state_dict(state)
    assert saved(third)[0] != saved(first)[0] or not saved(first)[0]


def test_state_is_cast_to_the_parameter():
    wide, narrow = parameters(), parameters("float32")
    first, second = make("adam", wide), make("adam", narrow)
    run(first, wide, 2)
    second.load_state_dict(first.state_dict())
    assert second.state[narrow[0]]["exp_avg"].dtype == np.float32


# Refused inputs


def some_state(**changes):
    params = parameters()
    adam = make("adam", params)
    run(adam, params, 1)
    return {**adam.state_dict(), **changes}


def with_entry(name, value):
    state = some_state()
    state["state"][0][name] = value
    return state


def without_entry(name):
    state = some_state()
    del state["state"][0][name]
    return state


STATES = {
    "keys": {"state": {}},
    "not a dict": 3,
    "groups": some_state(param_groups=[]),
    "size": some_state(param_groups=[{"params": [0]}]),
    "number": some_state(state={7: {}}),
    "lr": some_state(param_groups=[{"params": [0, 1, 2], "lr": -1}]),
    "shape": with_entry("exp_avg", np.zeros(3)),
    "objects": with_entry("exp_avg", "zeros"),
    "unknown": with_entry("momentum_buffer", np.zeros((3, 4))),
    "missing": without_entry("exp_avg_sq"),
    "no step": without_entry("step"),
    "step": with_entry("step", -1),
}


@pytest.mark.parametrize("name", STATES)
def test_a_refused_state_changes_nothing(name):
    params = parameters()
    adam = make("adam", params)
    run(adam, params, 2)
    before = saved(adam)
    with pytest.raises((optim.OptimizerError, ShapeError)):
        adam.load_state_dict(STATES[name])
    assert saved(adam) == before


def spoil_lr(adam, params):
    adam.param_groups[1]["lr"] = float("nan")


def spoil_shape(adam, params):
    params[2].grad = np.zeros(3)


def spoil_dtype(adam, params):
    params[2].grad = np.zeros((), np.float32)


def spoil_beta(adam, params):
    adam.param_groups[1]["betas"] = (0.9, 1.0)


def spoil_gradient(adam, params):
    params[2].grad = [[1.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (spoil_lr, optim.OptimizerError),
        (spoil_shape, ShapeError),
        (spoil_dtype, DtypeError),
        (spoil_beta, optim.OptimizerError),
        (spoil_gradient, JitseqError),
    ],
)
def test_a_failed_step_changes_nothing(spoil, error):
    params = parameters()
    adam = optim.Adam([{"params": params[:2]}, {"params": params[2:]}])
    run(adam, params, 2)
    spoil(adam, params)
    before, state = values(params), saved(adam)[0]
    with pytest.raises(error):
        adam.step()
    assert_same(values(params), before)
    assert saved(adam)[0] == state


P = nn.Parameter(np.zeros(2))
REFUSED = {
    "lr": lambda: optim.SGD([P], lr=-1),
    "infinite": lambda: optim.Adam([P], lr=float("inf")),
    "text": lambda: optim.Adam([P], lr="fast"),
    "momentum": lambda: optim.SGD([P], momentum=-0.1),
    "decay": lambda: optim.SGD([P], weight_decay=-0.1),
    "nesterov": lambda: optim.SGD([P], nesterov=True),
    "damped": lambda: optim.SGD([P], momentum=0.9, nesterov=True, dampening=0.1),
    "beta": lambda: optim.Adam([P], betas=(1.0, 0.9)),
    "betas": lambda: optim.AdamW([P], betas=0.9),
    "eps": lambda: optim.Adam([P], eps=-1),
    "alpha": lambda: optim.RMSprop([P], alpha=-1),
    "lr_decay": lambda: optim.Adagrad([P], lr_decay=-1),
    "sum": lambda: optim.Adagrad([P], initial_accumulator_value=-1),
    "empty": lambda: optim.SGD([]),
    "single": lambda: optim.SGD(P),
    "array": lambda: optim.SGD([np.zeros(2)]),
    "set": lambda: optim.SGD([{"params": {P}}]),
    "twice": lambda: optim.SGD([P, P]),
    "both": lambda: optim.SGD([{"params": [P]}, {"params": [P]}]),
    "half named": lambda: optim.SGD([("p", P), nn.Parameter(np.zeros(2))]),
    "no params": lambda: optim.SGD([{"lr": 1}]),
    "group lr": lambda: optim.SGD([{"params": [P], "lr": -1}]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(optim.OptimizerError) as caught:
        REFUSED[name]()
    assert isinstance(caught.value, ValueError) and isinstance(
        caught.value, JitseqError
    )

"""Update rules: formulas in float64 NumPy, and PyTorch over 50 steps."""

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
from jitseq.ir.scalar import NumpyScalars
from jitseq.ir.variable import Variable


@pytest.mark.parametrize("name", CASES)
def test_50_steps_track_pytorch(name):
    params = parameters()
    tensors, theirs = torch_twin(name, params)
    ours = make(name, params)
    before = [p.numpy().copy() for p in params]
    run(ours, params, 50)
    run_torch(theirs, tensors, 50)
    for p, t, old in zip(params, tensors, before):
        np.testing.assert_allclose(p.numpy(), t.numpy(), rtol=1e-8, atol=1e-10)
        assert np.all(p.numpy() != old)


@pytest.mark.parametrize("name", CASES)
def test_float32_steps_are_within_a_few_ulp(name):
    """From a common state, one step of each."""
    params = parameters("float32")
    tensors, theirs = torch_twin(name, params)
    ours = make(name, params)
    for step in range(5):
        run(ours, params, 1, step)
        run_torch(theirs, tensors, 1, step)
        for p, t in zip(params, tensors):
            assert p.dtype == np.float32
            largest = np.maximum(np.abs(t.numpy()), 0.1)
            assert np.all(np.abs(p.numpy() - t.numpy()) <= 8 * np.spacing(largest))
            t.copy_(type(t)(p.numpy().copy()) if t.ndim else t * 0 + float(p.numpy()))
        theirs.load_state_dict(as_tensors(ours.state_dict(), theirs.state_dict()))


# Without PyTorch: the formulas, and numbers computed from them once


def test_momentum_formula():
    p = nn.Parameter(np.array([1.0, -2.0]))
    sgd = optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)
    value, buffer = p.numpy().copy(), None
    for step in range(10):
        p.grad = np.array([step - 3.0, 0.5])
        g = p.grad + 0.01 * value
        buffer = g if buffer is None else 0.9 * buffer + 0.5 * g
        value = value - 0.1 * buffer
        sgd.step()
    np.testing.assert_allclose(p.numpy(), value, 1e-14)


def test_adam_formula():
    p = nn.Parameter(np.array([1.0, -2.0]))
    adam = optim.AdamW([p], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    value, first, second = p.numpy().copy(), 0.0, 0.0
    for step in range(1, 11):
        p.grad = np.array([np.cos(step), 0.5 * step])
        first = 0.8 * first + 0.2 * p.grad
        second = 0.95 * second + 0.05 * p.grad**2
        unbiased = first / (1 - 0.8**step), second / (1 - 0.95**step)
        value = value * (1 - 0.01 * 0.1)
        value = value - 0.01 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        adam.step()
    np.testing.assert_allclose(p.numpy(), value, 1e-13)


def test_rmsprop_formula():
    p = nn.Parameter(np.array([1.0, -2.0]))
    rms = optim.RMSprop([p], 0.01, 0.9, momentum=0.5, centered=True)
    value, square, mean, buffer = p.numpy().copy(), 0.0, 0.0, 0.0
    for step in range(1, 11):
        p.grad = np.array([np.cos(step), 0.5 * step])
        square = 0.9 * square + 0.1 * p.grad**2
        mean = 0.9 * mean + 0.1 * p.grad
        buffer = 0.5 * buffer + p.grad / (np.sqrt(square - mean**2) + 1e-8)
        value = value - 0.01 * buffer
        rms.step()
    np.testing.assert_allclose(p.numpy(), value, 1e-13)


def test_adagrad_formula():
    p = nn.Parameter(np.array([1.0, -2.0]))
    adagrad = optim.Adagrad([p], 0.1, lr_decay=0.5, initial_accumulator_value=2)
    value, total = p.numpy().copy(), 2.0
    for step in range(1, 11):
        p.grad = np.array([np.cos(step), 0.5 * step])
        total = total + p.grad**2
        value = value - 0.1 / (1 + (step - 1) * 0.5) * p.grad / np.sqrt(total)
        adagrad.step()
    np.testing.assert_allclose(p.numpy(), value, 1e-9)


def test_a_constant_gradient_never_makes_a_centered_variance_negative():
    p = nn.Parameter(np.float32([1.0, 3.0]))
    rms = optim.RMSprop([p], lr=1e-6, alpha=0.5, centered=True)
    for _ in range(200):
        p.grad = np.float32([0.1, 0.7])
        rms.step()
    assert np.isfinite(p.numpy()).all()


@pytest.mark.parametrize("name", CASES)
def test_rules_do_not_hold_run_time_numbers(name):
    """Options that may change between steps enter as numbers, so rules stay equal."""
    params = parameters()
    optimizer = make(name, params)
    group = optimizer.param_groups[0]
    rule = optimizer.rule(group)
    assert len(optimizer.numbers(group, {})) == len(rule.numbers)
    group["lr"] *= 3
    for option in ("momentum", "weight_decay", "eps", "alpha"):
        group[option] = group.get(option, 0) * 0.5
    assert optimizer.rule(group) == rule and hash(optimizer.rule(group)) == hash(rule)


@pytest.mark.parametrize("name", CASES)
def test_rules_work_on_single_elements(name):
    """A compiler evaluates the same expression for one element at a time."""
    params = parameters()
    optimizer = make(name, params)
    run(optimizer, params, 2)
    p, group = params[0], optimizer.param_groups[0]
    state, rule = optimizer.state.get(p, {}), optimizer.rule(optimizer.param_groups[0])
    assert all(isinstance(state[name], Variable) for name in rule.state)
    arrays = [state[name].numpy() for name in rule.state]
    numbers = optimizer.numbers(group, state)
    gradient = np.cos(p.numpy())
    whole = rule.apply(p.numpy(), gradient, arrays, numbers)
    for index in np.ndindex(p.shape):
        elements = [array[index] for array in (p.numpy(), gradient, *arrays)]
        one = rule.update(NumpyScalars, *elements, *numbers, **dict(rule.flags))
        assert [array[index] for array in whole] == list(one)

"""`js.diff` finds planted faults, names the layer, and leaves everything as it was."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jitseq as js
from jitseq import nn
from jitseq.compare.diff import SEED
from jitseq.ir import random as keys
from jitseq.ir.compute import Pointwise
from jitseq.ir.op import REGISTRY, get_op
from jitseq.nn import functional as F
from jitseq.runtime.fed import FedProgram

Plant = Callable[[str, Callable[..., Any]], None]
FAR = 100.0
"""A value that one element of an input has, and no other reaches."""


def small_model() -> nn.Sequential:
    js.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(45, 7),
        nn.Softmax(dim=1),
    )


@pytest.fixture
def images(rng) -> np.ndarray:
    return rng.standard_normal((4, 2, 6, 7), dtype=np.float32)


@pytest.fixture
def plant(monkeypatch, tmp_path) -> Iterator[Plant]:
    """``plant(op, expr)`` makes kernels compute another expression than the op's."""
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))

    def planted(name: str, expr: Callable[..., Any]) -> None:
        wrong = replace(get_op(name), compute=Pointwise(expr))
        monkeypatch.setitem(REGISTRY, name, wrong)

    yield planted
    gc.collect()  # programs with the fault are found no more


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backends", [("eager", "cpu"), ("cpu", "numba")])
def test_backends_agree(training, backends, images) -> None:
    found = js.diff(small_model().train(training), images, backends=backends)
    assert found and found.ok and found.first is None and found.nonfinite is None
    outputs = [x.path for x in found.layers if x.quantity == "output"]
    assert outputs == [*"01234567"] if training else [*"0123467"]
    assert {x.backward for x in found.layers} == {False, True}
    assert 0 < max(x.share for x in found.layers) < 1
    assert all(each.ok for each in found.programs)


def test_a_fault_at_one_place_of_the_forward_pass(plant, rng) -> None:
    plant("tanh", lambda m, x: m.where(m.ge(x, FAR), 0.999, m.tanh(x)))
    model = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(12, 3), nn.Tanh())
    x = rng.standard_normal((5, 3, 4), dtype=np.float32)
    assert js.diff(model, x)
    x[3, 1, 2] = 2 * FAR
    found = js.diff(model, x)
    layer = found.first
    assert not found and layer is not None and layer is found.first_output
    assert (layer.path, layer.ops, layer.quantity) == ("1", ("tanh",), "output")
    assert layer.index == (3, 6)
    assert layer.values == (1.0, float(np.float32(0.999)))
    assert layer.expected == 1.0
    assert layer.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert layer.max_rel == pytest.approx(1e-3, rel=1e-3)
    assert layer.shares[0] < 1 < layer.shares[1]
    assert layer.share == pytest.approx(1e-3 / layer.tolerance, rel=1e-2)
    wrong = [x.path for x in found.layers if not x.ok and not x.backward]
    assert wrong == ["1"]  # a layer that reads wrong values is not at fault
    text = str(found)
    assert "first output that differs: 1 (tanh), output f32[5, 12]" in text
    assert "cpu is farther from float64" in text and "at [3, 6]" in text


def test_a_fault_of_the_gradient_alone(plant, rng) -> None:
    plant("sigmoid_grad", lambda m, g, y: g * y * (1.0001 - y))
    layers = nn.Linear(6, 11), nn.Sigmoid(), nn.Linear(11, 4), nn.Tanh()
    x = rng.standard_normal((5, 6), dtype=np.float32)
    found = js.diff(nn.Sequential(*layers), x)
    assert found.first_output is None
    layer = found.first_gradient
    assert layer is not None and layer is found.first
    assert (layer.path, layer.ops) == ("1", ("sigmoid_grad",))
    assert layer.quantity == "gradient of the output of 0"
    assert [x.path for x in found.layers if not x.ok] == ["1"]
    assert "first gradient that differs: 1 (sigmoid_grad)" in str(found)
    assert js.diff(nn.Sequential(*layers), x, gradients=False)


def test_the_last_layer_of_several_faults_is_first_in_the_backward_pass(
    plant, rng
) -> None:
    plant("tanh_grad", lambda m, g, y: g * (1.001 - y * y))
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh())
    found = js.diff(model, rng.standard_normal((2, 6), dtype=np.float32))
    assert found.first_gradient is not None and found.first_gradient.path == "3"
    assert [x.path for x in found.layers if not x.ok] == ["3", "1"]


def test_a_fault_of_the_fused_program_alone(monkeypatch, images) -> None:
    """No layer is wrong when all outputs are returned: the result says so."""
    run = FedProgram.run

    def wrong(self, *args, **options):
        outputs = run(self, *args, **options)
        if len(outputs) == 1:
            outputs[0][2, 4] += 0.01
        return outputs

    monkeypatch.setattr(FedProgram, "run", wrong)
    found = js.diff(small_model().eval(), images)
    assert not found and found.first is None
    (program,) = [each for each in found.programs if not each.ok]
    assert (program.backend, program.quantity) == ("cpu", "result")
    assert program.difference == pytest.approx(0.01, rel=1e-3)
    assert "no layer differs alone" in str(found)


def test_nan_in_a_weight_names_the_layer_that_reads_it(images) -> None:
    model = small_model().eval()
    weight = np.array(model[6].weight)
    weight[3, 5] = np.nan
    model[6].weight.data = weight
    found = js.diff(model, images)
    assert found.ok  # both backends have it
    place = found.nonfinite
    assert place is not None and place.kind == "NaN"
    assert (place.path, place.index) == ("6", (0, 3))
    assert place.backends == ("eager", "cpu")
    assert place.sources == ("6.weight",)
    assert "from 6.weight, not finite" in str(found)


def test_infinity_from_finite_values(rng) -> None:
    x = rng.standard_normal((3, 4), dtype=np.float32)
    x[1, 2] = 300.0
    found = js.diff(lambda x: F.exp(x) * 2.0, x, gradients=False)
    place = found.nonfinite
    assert found.ok and place is not None and place.kind == "Inf"
    assert (place.ops, place.index, place.sources) == (("exp",), (1, 2), ())
    assert "from finite values" in str(found)


def test_a_nan_of_one_backend_is_a_difference(plant, rng) -> None:
    plant("tanh", lambda m, x: m.where(m.ge(x, FAR), x * np.inf, m.tanh(x)))
    x = rng.standard_normal((3, 13), dtype=np.float32)
    x[2, 1] = 2 * FAR
    found = js.diff(nn.Sequential(nn.Tanh(), nn.Linear(13, 2)), x, gradients=False)
    assert not found and found.nonfinite is not None
    assert found.nonfinite.backends == ("cpu",) and found.nonfinite.sources == ()
    assert found.first is not None and found.first.index == (2, 1)
    assert [x.path for x in found.layers if not x.ok] == ["0"]


def test_own_tolerances(rng) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
    x = rng.standard_normal((8, 64), dtype=np.float32)
    assert js.diff(model, x, rtol=1e-3, atol=1e-5)
    strict = js.diff(model, x, rtol=0.0, atol=0.0)
    assert not strict and strict.first is not None and strict.first.path == "0"
    assert strict.first.share == np.inf


def test_nothing_changes(images) -> None:
    """Training mode: buffers, parameters, versions, random numbers, programs."""
    model = small_model().train()
    compiled = js.jit(model)
    js.manual_seed(11)
    compiled(images)
    state = {k: np.array(v) for k, v in model.state_dict().items()}
    versions = [v.version for v in (*model.parameters(), *model.buffers())]
    js.manual_seed(12)
    expected = keys.draw_key()
    js.manual_seed(12)
    before = compiled.cache_info()
    assert js.diff(compiled, images)
    assert compiled.cache_info() == before
    assert np.array_equal(keys.draw_key(), expected)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    assert versions == [v.version for v in (*model.parameters(), *model.buffers())]
    assert all(module.training for module in model.modules())


def test_runs_are_repeatable(images) -> None:
    model = small_model().train()
    assert js.diff(model, images).layers == js.diff(model, images).layers


def test_functions_have_a_record_for_each_operation(rng) -> None:
    linear = nn.Linear(4, 4)

    def residual(x, scale):
        return {"sum": x + F.relu(linear(x)) * scale, "mean": F.mean(x, dim=1)}

    x = rng.standard_normal((3, 4))
    found = js.diff(residual, x.astype(np.float32), x.astype(np.float32))
    assert found.ok
    outputs = [(x.path, x.ops) for x in found.layers if x.quantity == "output"]
    assert outputs[:2] == [("linear", ("linear",)), ("", ("relu",))]
    quantities = {x.quantity for x in found.layers}
    assert {"gradient of input x", "gradient of input scale"} <= quantities
    assert "gradient of linear.weight" in quantities
    assert found.layers[1].name == "relu"


def test_double_precision_has_tighter_tolerances(rng) -> None:
    model = nn.Sequential(nn.Linear(9, 9), nn.Tanh()).to(np.float64)
    found = js.diff(model, rng.standard_normal((3, 9)))
    assert found.ok and all("f64" in layer.type for layer in found.layers)
    assert max(layer.tolerance for layer in found.layers) < 1e-12


def test_frozen_parameters_and_labels(rng) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    model[0].requires_grad_(False)
    loss = nn.CrossEntropyLoss()
    x = rng.standard_normal((8, 6), dtype=np.float32)
    found = js.diff(lambda x, y: loss(model(x), y), x, rng.integers(0, 4, 8))
    assert found.ok
    quantities = {layer.quantity for layer in found.layers}
    assert "gradient of model.2.weight" in quantities
    assert "gradient of model.0.weight" not in quantities
    with pytest.raises(js.JitseqError, match="out of range"):
        js.diff(lambda x, y: loss(model(x), y), x, np.full(8, 9))


def test_torch_modules_are_followed() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    x = torch.randn(6, 3)
    found = js.diff(module, x)
    assert found.ok and "gradient of 0.weight" in {f.quantity for f in found.layers}
    assert int(module[1].num_batches_tracked) == 0
    with torch.no_grad():
        module[0].weight[1, 1] = float("nan")
    place = js.diff(module, x).nonfinite
    assert place is not None and place.sources == ("0.weight",)


def test_displays_are_narrow_and_well_formed(plant, rng) -> None:
    plant("tanh", lambda m, x: m.tanh(x) * 1.01)
    long = {"a_layer_with_a_name_as_long_as_nobody_would_like_it_to_be": nn.Tanh()}
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(9)])
    for name, layer in long.items():
        model.add_module(name, layer)
    found = js.diff(model, rng.standard_normal((2, 3), dtype=np.float32))
    assert not found
    assert max(map(len, str(found).splitlines())) <= 100
    assert "more in .layers" in str(found)
    html = found._repr_html_()
    ElementTree.fromstring(html)
    assert "<script" not in html and "://" not in html
    assert html.count("<tr>") == len(found.layers) + 1


@pytest.mark.parametrize(
    ("backends", "error"),
    [
        (("cpu",), "compares two backends"),
        ("cpu", "compares two backends"),
        (("eager", "gpu"), "there is no backend 'gpu'"),
    ],
)
def test_wrong_backends(backends, error, images) -> None:
    with pytest.raises(js.UnsupportedError, match=error):
        js.diff(small_model(), images, backends=backends)


def test_empty_samples_are_refused(images) -> None:
    with pytest.raises(js.JitseqError, match="a sample is empty"):
        js.diff(small_model(), images[:0])


def test_cotangents_are_random_and_fixed() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    x = np.ones((1, 2), np.float32)
    rng = np.random.default_rng(SEED)
    expected = rng.standard_normal((1, 3)).astype(np.float32)
    found = js.diff(model, x)
    (bias,) = [f for f in found.layers if f.quantity == "gradient of 0.bias"]
    assert bias.expected == expected[0][bias.index]

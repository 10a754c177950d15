"""`js.summary`: rows, shapes, parameters and MACs beside figures made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from display_models import branches, images, step_model
from markup_checks import SVG, parsed, problems

import jitseq as js
from benchmarks.zoo import ZOO
from jitseq import nn
from jitseq.nn import functional as F


def cells(summary) -> list[tuple[str, ...]]:
    """The body of the HTML table."""
    (body,) = parsed(summary._repr_html_()).iter("tbody")
    return [tuple("".join(cell.itertext()) for cell in row) for row in body]


def test_rows_of_a_chain() -> None:
    entry = ZOO["cnn32"]
    found = js.summary(entry.build(), entry.sample(2))
    conv1, conv2 = "k1 conv2d_relu_max_pool2d", "k2 conv2d_relu_max_pool2d"
    assert [(r.path, r.layer, r.output, r.params, r.kernel) for r in found.rows] == [
        ("0", "Conv2d", "n×16×32×32", 16 * 3 * 9 + 16, conv1),
        ("1", "ReLU", "n×16×32×32", 0, conv1),
        ("2", "MaxPool2d", "n×16×16×16", 0, conv1),
        ("3", "Conv2d", "n×32×16×16", 32 * 16 * 9 + 32, conv2),
        ("4", "ReLU", "n×32×16×16", 0, conv2),
        ("5", "MaxPool2d", "n×32×8×8", 0, conv2),
        ("6", "Flatten", "n×2048", 0, "[view]"),
        ("7", "Linear", "n×10", 20_490, "k3 linear"),
        ("8", "Softmax", "n×10", 0, "k4 softmax"),
    ]
    by_hand = [32 * 32 * 16 * 3 * 9, 0, 0, 16 * 16 * 32 * 16 * 9, 0, 0, 0, 20_480, 0]
    assert [row.macs for row in found.rows] == by_hand
    assert (found.macs, found.params) == (sum(by_hand), 448 + 4640 + 20_490)
    assert found.param_bytes == 4 * found.params
    assert found.per_image
    assert (
        found.arena_bytes == js.jit(entry.build()).explain(entry.sample(2)).arena_bytes
    )


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1)), (4, 9, 8), 4 * 7 * 6 * 4 * 3 * 2),
        (nn.Conv2d(4, 8, 3, groups=2, padding=1), (4, 5, 5), 25 * 8 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), (4, 9, 9), 25 * 4 * 9),
        (nn.ConvTranspose2d(6, 4, 3, stride=2), (6, 5, 5), 25 * 6 * 4 * 9),
        (nn.ConvTranspose2d(6, 4, 2, groups=2), (6, 5, 5), 25 * 6 * 2 * 4),
        (nn.Linear(7, 3), (5, 7), 5 * 7 * 3),
        (nn.ReLU(), (7,), 0),
    ],
)
def test_macs_by_hand(layer, shape, macs) -> None:
    x = np.ones((3, *shape), np.float32)
    (row,) = js.summary(nn.Sequential(layer), x).rows
    assert row.macs == macs
    fixed = js.jit(nn.Sequential(layer), dynamic_batch=False)
    whole = js.summary(fixed, x)
    assert (whole.macs, whole.per_image) == (3 * macs, False)
    assert "MACs a call" in str(whole)


def test_layers_that_run_no_kernel_say_why() -> None:
    model = nn.Sequential(
        nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Identity(), nn.ReLU()
    ).eval()
    rows = js.summary(model, np.ones((2, 6), np.float32)).rows
    fused = "k0 linear_relu"
    assert [row.kernel for row in rows] == [
        fused, "[folded away]", "[nothing to do]", "[nothing to do]", fused,
    ]  # fmt: skip
    assert [row.path for row in rows] == list("01234")


def test_modules_with_operations_of_their_own() -> None:
    model = branches()
    found = js.summary(model, images())
    paths = [(row.path, row.layer) for row in found.rows]
    block = ["conv1", "norm", "", "conv2", "short", "", ""]
    names = ["Conv2d", "BatchNorm2d", "relu", "Conv2d", "Conv2d", "add", "relu"]
    for place, prefix in ((0, "first"), (7, "second")):
        wanted = [(f"{prefix}.{b}".rstrip("."), n) for b, n in zip(block, names)]
        assert paths[place : place + 7] == wanted
    assert paths[14:] == [("", "concat"), ("", "mean"), ("head", "Linear")]
    arrays = [np.asarray(p.numpy()) for p in model.parameters()]
    assert found.params == sum(a.size for a in arrays)
    assert found.param_bytes == sum(a.nbytes for a in arrays)
    kernels = {row.kernel for row in found.rows if row.kernel.startswith("k")}
    report = js.jit(model).explain(images())
    assert kernels == {
        k.name.replace("_", " ", 1) for k in report.kernels if k.ops != ("copy",)
    }


def test_frozen_and_shared_parameters() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.Tanh(), linear, nn.Linear(4, 2))
    model[3].requires_grad_(False)
    found = js.summary(model, np.ones((2, 4), np.float32))
    assert (found.params, found.trainable) == (20 + 10, 20)
    assert found.macs == 16 + 16 + 8
    assert "30 parameters (20 trainable, 10 frozen), 120 B" in str(found)


def test_parameters_of_a_module_with_children() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(np.ones(3, np.float32))
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x) * self.scale

    found = js.summary(Scaled(), np.ones((2, 3), np.float32))
    assert found.params == 15 == sum(row.params for row in found.rows)
    assert ("", "Scaled") in [(row.path, row.layer) for row in found.rows]


def test_functions_and_compiled_callables() -> None:
    layer = nn.Linear(5, 3)

    @js.jit
    def residual(x):
        y = layer(x)
        return F.relu(y) + y

    x = np.ones((2, 5), np.float32)
    found = js.summary(residual, x)
    assert [(row.path, row.layer) for row in found.rows] == [
        ("layer", "Linear"), ("", "relu"), ("", "add"),
    ]  # fmt: skip
    assert found.params == 18
    assert str(residual.summary()) == str(found)  # of the program made last
    assert str(found).startswith("residual(f32[n, 5])\n")


def test_random_numbers_and_training_mode() -> None:
    model = step_model()
    found = js.summary(model, images())
    rows = {row.path: row for row in found.rows}
    assert list(rows) == [str(i) for i in range(7)]
    assert rows["4"].kernel.startswith("k")  # dropout computes in training mode
    assert found.params == sum(p.size for p in model.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_text_and_html_of_the_zoo(name: str) -> None:
    entry = ZOO[name]
    model = entry.build()
    found = js.summary(model, entry.sample(1))
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert found.params == sum(p.size for p in model.parameters())
    assert len(found.rows) == len(model)
    assert sum(row.macs for row in found.rows) == found.macs > 0
    assert problems(found._repr_html_()) == []
    assert not list(parsed(found._repr_html_()).iter(f"{SVG}svg"))
    shown = cells(found)
    assert [row[0] for row in shown] == [row.path for row in found.rows]
    assert [row[3] for row in shown] == [
        f"{r.params:,}" * bool(r.params) for r in found.rows
    ]


def test_long_names_are_cut() -> None:
    class Block(nn.Module):
        def __init__(self, name: str, inner: nn.Module) -> None:
            super().__init__()
            self.add_module(name, inner)

        def forward(self, x):
            return next(iter(self.children()))(x)

    name = "a_module_with_a_very_long_name_" * 2
    model = Block(name, Block(name, nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())))
    found = js.summary(model, np.ones((2, 3), np.float32))
    assert len(found.rows[0].path) > 100
    assert max(map(len, str(found).splitlines())) <= 100


def test_torch_models_have_torch_counts() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 36, 4),
    ).eval()
    model[4].bias.requires_grad_(False)
    found = js.summary(model, torch.ones(2, 3, 8, 8))
    assert found.params == sum(p.numel() for p in model.parameters())
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert found.trainable == sum(trained)
    assert [row.path for row in found.rows] == list("01234")
    own = [sum(p.numel() for p in layer.parameters()) for layer in model]
    assert [row.params for row in found.rows] == own

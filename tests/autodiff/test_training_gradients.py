"""Gradients in training mode: batch statistics, masks, and losses over the batch."""

from __future__ import annotations

import numpy as np
import pytest
from op_cases import inputs_of

import jitseq as js
from jitseq import nn
from jitseq.ir.interpret import evaluate
from jitseq.ir.op import REGISTRY
from jitseq.ir.trace import trace
from jitseq.ir.types import BATCH, TensorType
from jitseq.nn import functional as F
from jitseq.passes.autodiff import differentiate

torch = pytest.importorskip("torch")

NORMS = {
    "default": {},
    "average": {"momentum": None},
    "plain": {"affine": False},
    "untracked": {"track_running_stats": False, "eps": 0.1},
}


class Masked(torch.nn.Module):
    """Multiplies with a mask that is set from outside."""

    mask: torch.Tensor

    def forward(self, x):
        return x * self.mask


def networks(options: dict, dtype: str):
    """A convolutional network with batch-norm and dropout, here and in PyTorch."""
    js.manual_seed(1)
    ours = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **options), nn.ReLU(), nn.Dropout(0.4),
        nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5, **options),
    ).to(dtype)  # fmt: skip
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4, **options), torch.nn.ReLU(),
        Masked(), torch.nn.Flatten(), torch.nn.Linear(64, 5),
        torch.nn.BatchNorm1d(5, **options),
    ).to(getattr(torch, dtype))  # fmt: skip
    state = {k: torch.from_numpy(np.array(v)) for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return ours, theirs


def next_mask(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """What dropout multiplies with at the call after ``manual_seed(7)``."""
    js.manual_seed(7)
    mask = F.dropout(np.ones(shape, dtype), 0.4)
    js.manual_seed(7)
    return torch.from_numpy(mask)


@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-9), ("float32", 2e-3)])
@pytest.mark.parametrize("name", NORMS)
def test_a_network_over_several_steps(name, dtype, rtol, rng) -> None:
    ours, theirs = networks(NORMS[name], dtype)
    mine = dict(ours.named_parameters())
    step = js.value_and_grad(ours, nn.CrossEntropyLoss())
    for training in (True, True, False, True):
        ours.train(training), theirs.train(training)
        x = rng.normal(size=(6, 2, 6, 6)).astype(dtype)
        labels = rng.integers(5, size=6)
        mask = next_mask((6, 4, 4, 4), dtype)
        theirs[3].mask = mask if training else torch.ones_like(mask)
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            theirs(torch.from_numpy(x)), torch.from_numpy(labels)
        )
        loss.backward()
        value, gradients = step(x, labels)
        assert value == pytest.approx(loss.item(), rel=min(rtol, 1e-5))
        for key, parameter in theirs.named_parameters():
            expected = parameter.grad.numpy()
            atol = rtol * np.abs(expected).max(initial=1e-3)
            np.testing.assert_allclose(gradients[key], expected, rtol, atol)
            parameter.data -= 0.5 * parameter.grad
            mine[key].assign(parameter.detach().numpy())
        for key, value in theirs.state_dict().items():
            close = {"float64": 1e-11, "float32": 1e-4}[dtype]
            np.testing.assert_allclose(
                ours.state_dict()[key], value.numpy(), close, close
            )


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5), (7, 1)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_against_central_differences(shape, affine, rng) -> None:
    """Through the statistics too: the whole function of x is differentiated."""
    channels = shape[1]
    weights = list(rng.uniform(0.5, 2, (2, channels))) if affine else []

    def function(x, *affine):
        return F.batch_norm(x, None, None, *affine, training=True, eps=0.01)

    arrays = [rng.normal(size=shape), *weights]
    out, pullback = js.vjp(function, *arrays)
    g = rng.normal(size=out.shape)
    gradients, _ = pullback(g)
    for position, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)
        values = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[position] = moved[position] + sign * 1e-6 * direction
            values.append(np.sum(g * function(*moved)))
        expected = (values[0] - values[1]) / 2e-6
        assert np.sum(gradient * direction) == pytest.approx(expected, 1e-7, 1e-7)


@pytest.mark.parametrize("example", REGISTRY["batch_norm_train"].examples)
def test_batch_norm_train_has_the_meaning_of_batch_norm(example) -> None:
    op = REGISTRY["batch_norm_train"]
    arrays = inputs_of(op, example)
    result = op.reference(*arrays, **example.attrs)
    expected = REGISTRY["batch_norm"].reference(*arrays, **example.attrs)
    np.testing.assert_array_equal(result, expected)


# A symbolic batch

LABELS = {
    "cross_entropy": lambda **o: nn.CrossEntropyLoss(**o),
    "weighted": lambda **o: nn.CrossEntropyLoss(
        np.array([1.0, 2, 0.5]), ignore_index=1, **o
    ),
    "smooth": lambda **o: nn.CrossEntropyLoss(label_smoothing=0.1, **o),
    "nll": lambda **o: nn.NLLLoss(**o),
}
NUMBERS = {
    "probabilities": lambda **o: nn.CrossEntropyLoss(**o),
    "mse": lambda **o: nn.MSELoss(**o),
    "l1": lambda **o: nn.L1Loss(**o),
    "smooth_l1": lambda **o: nn.SmoothL1Loss(**o),
    "huber": lambda **o: nn.HuberLoss(**o),
    "bce": lambda **o: nn.BCELoss(**o),
    "logits": lambda **o: nn.BCEWithLogitsLoss(**o),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("inner", [(3,), (3, 4)], ids=str)
@pytest.mark.parametrize("name", [*LABELS, *NUMBERS])
def test_a_loss_over_any_batch(name, inner, reduction, rng) -> None:
    """Traced once; loss and gradient are those of the eager loss of each batch."""
    loss = (LABELS | NUMBERS)[name](reduction=reduction)
    target = TensorType("int64", (4, *inner[1:])) if name in LABELS else None
    type = TensorType("float64", (4, *inner))
    traced = trace(loss, [type, target or type])
    assert traced.static_reason is None
    assert traced.graph.inputs[0].type.shape[0] is BATCH
    joint = differentiate(traced.graph, [traced.graph.inputs[0]], seed=1.0)
    for batch in (4, 1, 9):
        x = rng.uniform(0.1, 0.9, (batch, *inner))
        y = rng.uniform(0.1, 0.9, x.shape)
        if name in LABELS:
            y = rng.integers(3, size=(batch, *inner[1:]))
            y.ravel()[0] = 2  # a class that counts
        known = dict(zip(joint.graph.inputs, (x, y), strict=True))
        known |= {p: traced.variables[p.name].numpy() for p in joint.graph.params}
        evaluate(joint.graph.nodes, known, joint.graph.outputs)
        value, gradient = (known[output] for output in joint.graph.outputs)
        assert value.shape == ()
        assert value == pytest.approx(float(loss(x, y)), rel=1e-13)
        out, pullback = js.vjp(loss, x, y)
        (expected, *_), _ = pullback(np.ones_like(out))
        np.testing.assert_allclose(gradient, expected, 1e-12, 1e-15)


def test_a_training_graph_keeps_the_batch_symbolic() -> None:
    ours, _ = networks({}, "float32")
    loss = nn.CrossEntropyLoss()
    types = [TensorType("float32", (6, 2, 6, 6)), TensorType("int64", (6,))]
    traced = trace(lambda x, y: loss(ours(x), y), types)
    assert traced.static_reason is None
    assert len(traced.updates) == 4 and len(traced.counted) == 2
    graph = traced.graph
    trained = [p for p in graph.params if traced.variables[p.name].requires_grad]
    joint = differentiate(graph, trained, of=traced.results, seed=1.0)
    for node in joint.graph.nodes:
        assert 6 not in node.output.type.shape[:1], node.op
    masks = [n for n in joint.graph.nodes if n.op == "random_uniform"]
    assert len(masks) == 1  # the backward pass reads the same numbers
    assert joint.outputs[1:] == tuple(value for _, value in traced.updates)

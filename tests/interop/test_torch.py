"""Converted torch models give torch's results; what is not covered is refused."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest

import jitseq as js

torch = pytest.importorskip("torch")

from interop.torch_models import (  # noqa: E402
    Around,
    Block,
    ResNet,
    assert_same,
    expected,
    images,
    randomise,
    small_model,
)

from benchmarks.export import to_torch  # noqa: E402
from benchmarks.zoo import ENTRIES  # noqa: E402
from jitseq.interop.torch import from_torch  # noqa: E402

LARGE = ("chain224", "mobilenet_v1")

# conversion


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_zoo(entry) -> None:
    model = entry.build()
    twin = to_torch(model)
    copied = from_torch(twin)
    assert repr(copied) == repr(model)
    for (name, value), (key, tensor) in zip(
        copied.state_dict().items(), twin.state_dict().items(), strict=True
    ):
        assert name == key
        assert np.array_equal(value, tensor.numpy())
    compiled = js.jit(twin)
    for batch in (1,) if entry.name in LARGE else (1, 3):
        x = torch.from_numpy(entry.sample(batch))
        assert_same(compiled(x), expected(twin, x))


def test_resnet_with_own_forward() -> None:
    model = randomise(ResNet()).eval()
    copied, compiled = from_torch(model), js.jit(model)
    assert list(copied.state_dict()) == list(model.state_dict())
    assert type(copied.blocks).__name__ == "ModuleList"
    for batch in (1, 3):
        x = images(batch, 3, 10, 10)
        assert_same(copied(x), expected(model, x))
        assert_same(compiled(x), expected(model, x))
    assert compiled.cache_info().misses == 1
    assert "%x: f32[n, 3, 10, 10]" in str(compiled.graph())


def test_names_sharing_and_nesting_are_kept() -> None:
    shared = torch.nn.Linear(4, 4)
    inner = torch.nn.Sequential(OrderedDict(first=shared, act=torch.nn.Tanh()))
    model = torch.nn.Sequential(OrderedDict(body=inner, again=shared)).eval()
    copied = from_torch(model)
    assert copied.body.first is copied.again
    assert list(copied.state_dict()) == list(model.state_dict())
    assert_same(js.jit(model)(images(2, 4)), expected(model, images(2, 4)))


def test_a_copy_does_not_follow_and_draws_nothing() -> None:
    model = small_model()
    js.manual_seed(3)
    draw = js.nn.Linear(2, 2).weight.numpy().copy()
    js.manual_seed(3)
    copied = from_torch(model)
    assert np.array_equal(js.nn.Linear(2, 2).weight.numpy(), draw)
    before = copied[0].weight.numpy().copy()
    model[0].weight.data.zero_()
    assert np.array_equal(copied[0].weight.numpy(), before)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(4, 6, (3, 2), 2, "valid", 1, 2, padding_mode="zeros"),
        torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        torch.nn.ConvTranspose2d(4, 3, 3, 2, 1, 1, bias=False),
        torch.nn.BatchNorm2d(4, eps=0.1, affine=False),
        torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        torch.nn.AdaptiveMaxPool2d((2, None)),
        torch.nn.PReLU(4),
        torch.nn.GELU("tanh"),
        torch.nn.Hardtanh(-0.5, 0.25),
        torch.nn.Softplus(2.0, 3.0),
        torch.nn.Softmax(dim=1),
        torch.nn.Flatten(2),
        torch.nn.Unflatten(1, (2, 2)),
        torch.nn.Dropout2d(0.3),
        torch.nn.ZeroPad2d((1, 2, 0, 1)),
        torch.nn.Identity(3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_options_of_layers(layer) -> None:
    model = randomise(torch.nn.Sequential(layer)).eval()
    x = images(2, 4, 6, 6)
    assert_same(js.jit(model)(x), expected(model, x))
    assert_same(js.jit(copy.deepcopy(model).double())(x.double()), expected(
        copy.deepcopy(model).double(), x.double()
    ))  # fmt: skip


F = torch.nn.functional


def gated(m, x):
    a, b = x.chunk(2, 1)
    return a * torch.sigmoid(b)


FORWARDS = {
    "arithmetic": lambda m, x: (2 - x) / (x * x + 1.5) - x.mul(3).add(x, alpha=0.5),
    "powers": lambda m, x: (x**2 + 1) ** 0.5 + x.pow(3) + x.square(),
    "rsqrt": lambda m, x: torch.rsqrt(x.abs() + 1) + (x.abs() + 1).reciprocal(),
    "unary": lambda m, x: torch.exp(-x).tanh() + torch.log(x.abs() + 1) + torch.erf(x),
    "clamp": lambda m, x: x.clamp(-0.5, 0.5) + torch.clamp(x, min=0.1),
    "means": lambda m, x: x.mean((2, 3)) + x.sum(dim=-1).mean(-1) + x.amax((2, 3)),
    "keepdim": lambda m, x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "softmax": lambda m, x: torch.softmax(x, 1) + x.log_softmax(-1) + F.softmin(x, 2),
    "pools": lambda m, x: F.max_pool2d(x, 2, 1, 1) + F.avg_pool2d(x, 2, 1, 1),
    "adaptive": lambda m, x: F.adaptive_max_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 2),
    "cat": lambda m, x: torch.cat([x, F.relu(x)], dim=1),
    "stack": lambda m, x: torch.stack((x, -x), dim=2).flatten(1, 2),
    "chunk": gated,
    "split": lambda m, x: x.split([1, 3], dim=1)[1] + torch.split(x, 3, 1)[0],
    "index": lambda m, x: x[:, 1:3, ..., None, 0] + x[:, -2:, :, 1].unsqueeze(-1),
    "permute": lambda m, x: x.permute(0, 2, 3, 1).transpose(1, 2).contiguous(),
    "view": lambda m, x: x.view(x.shape[0], -1).reshape(-1, 2, 72).squeeze(0),
    "sizes": lambda m, x: x.reshape(x.size(0), x.size(1) // 2, x.shape[2] * 12),
    "pad": lambda m, x: F.pad(x, (1, 2), value=0.5) + F.pad(x, (2, 1)),
    "in_place": lambda m, x: (x * 1).relu_().add_(0.5),
    "weights": lambda m, x: F.conv2d(x, m.conv.weight * 0.5, padding=1, groups=1),
    "linear": lambda m, x: F.linear(x, m.fc.weight, m.fc.bias),
    "norm": lambda m, x: F.batch_norm(
        x, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias
    ),
    "method": lambda m, x: m.block.shortcut[0](x),
}


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functional_forwards(name, dtype) -> None:
    members = {
        "conv": torch.nn.Conv2d(4, 3, 3),
        "fc": torch.nn.Linear(6, 2),
        "norm": torch.nn.BatchNorm2d(4),
        "block": Block(4, 2),
    }
    model = randomise(Around(FORWARDS[name], **members)).to(dtype).eval()
    x = images(2, 4, 6, 6).to(dtype)
    assert_same(js.jit(model)(x), expected(model, x))
    assert_same(from_torch(model)(x), expected(model, x))


def test_several_results() -> None:
    model = Around(lambda m, x: (x + 1, {"twice": x * 2})).eval()
    x = images(2, 3)
    total, rest = js.jit(model)(x.numpy())
    assert np.array_equal(total, x.numpy() + 1)
    assert np.array_equal(rest["twice"], x.numpy() * 2)


# refusals


def changes_an_alias(m, x):
    y = m.fc(x)
    z = y
    y += 1
    return y * z


def changes_a_view(m, x):
    y = m.fc(x)
    flat = y.view(-1)
    flat.relu_()
    return y


def child_changes_its_input(m, x):
    y = m.fc(x)
    return m.chain(y) + y


def stores(m, x):
    m.last = x
    return x


REFUSALS = {
    "alias": (changes_an_alias, "iadd changes a value in place"),
    "view": (changes_a_view, "relu_ changes a value in place"),
    "child": (child_changes_its_input, "chain changes a value in place"),
    "buffer": (lambda m, x: m.count.add_(1) * x, "add_ changes a value in place"),
    "branch": (lambda m, x: x if x.sum() > 0 else -x, "cannot be recorded"),
    "attribute": (stores, "sets attributes: last"),
    "tensor": (lambda m, x: x + torch.ones(3), "makes a tensor of its own"),
    "function": (lambda m, x: torch.fft.fft(x), "fft_fft is not covered"),
    "method": (lambda m, x: x.cumsum(0), "method 'cumsum' of a tensor"),
    "option": (lambda m, x: torch.exp(x, out=x), "exp with these arguments"),
    "rounding": (
        lambda m, x: torch.div(x, 2, rounding_mode="floor"),
        "div with these arguments",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_forwards_that_are_refused(name) -> None:
    function, message = REFUSALS[name]
    chain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(inplace=True))
    model = Around(function, fc=torch.nn.Linear(3, 3), chain=chain)
    model.register_buffer("count", torch.zeros(()))
    before = dict(model.__dict__)
    with pytest.raises(js.UnsupportedError, match=message):
        from_torch(model)
    assert model.__dict__ == before
    assert model.count.item() == 0


def test_errors_show_the_users_line_and_the_path() -> None:
    inner = Around(lambda m, x: x.cumsum(0))
    with pytest.raises(js.UnsupportedError) as caught:
        from_torch(torch.nn.Sequential(OrderedDict(body=inner)))
    assert "at    model.body  Around()" in str(caught.value)
    assert "lambda m, x: x.cumsum(0)" in str(caught.value)
    model = randomise(ResNet()).eval()
    with pytest.raises(js.ShapeError, match=r"model\.blocks\.0\.conv1"):
        model.stem = torch.nn.Identity()
        js.jit(model)(images(1, 3, 10, 10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.nn.LayerNorm(2), r"torch\.nn\.LayerNorm is not covered"),
        (lambda: torch.nn.LSTM(2, 2), r"torch\.nn\.LSTM is not covered"),
        (lambda: torch.nn.MaxPool2d(2, return_indices=True), "return_indices"),
        (lambda: torch.nn.utils.weight_norm(torch.nn.Linear(2, 2)), "forward hooks"),
        (lambda: torch.jit.script(torch.nn.ReLU()), "TorchScript"),
        (lambda: torch.nn.LazyLinear(2), "lazy|hooks"),
        (lambda: torch.nn.Linear(2, 2, device="meta"), "main memory"),
    ],
    ids=["layer", "lstm", "option", "hook", "script", "lazy", "device"],
)
@pytest.mark.filterwarnings("ignore")
def test_layers_that_are_refused(make, message) -> None:
    with pytest.raises(js.UnsupportedError, match=message) as caught:
        from_torch(torch.nn.Sequential(torch.nn.Identity(), make()))
    assert "model.1" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8], ids=str)
def test_dtypes_that_are_refused(dtype) -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight = torch.nn.Parameter(model.weight.to(dtype), requires_grad=False)
    with pytest.raises(js.DtypeError, match=str(dtype)):
        from_torch(torch.nn.Sequential(model))

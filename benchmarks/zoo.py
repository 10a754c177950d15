"""The models that jitseq is measured on, smallest first.

Nothing enters; `ZOO` maps names to `Entry` records. Invariant: ``build()`` returns a
new `nn.Sequential` in eval mode whose parameters and buffers, batch-norm statistics
included, are the same non-trivial values every time.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitseq import nn


@dataclass(frozen=True)
class Entry:
    """One model: ``input_shape`` without the batch, ``batches`` worth measuring."""

    name: str
    layers: Callable[[], nn.Sequential]
    input_shape: tuple[int, ...]
    batches: tuple[int, ...] = (1, 64)

    def build(self) -> nn.Sequential:
        """The model in eval mode, with deterministic values."""
        model = self.layers()
        fill_deterministically(model, seed=zlib.crc32(self.name.encode()))
        model.eval()
        return model

    def sample(self, batch: int, seed: int = 0) -> np.ndarray:
        """A float32 input of shape ``batch, *input_shape``, normally distributed."""
        rng = np.random.default_rng(seed)
        return rng.standard_normal((batch, *self.input_shape), dtype=np.float32)


def fill_deterministically(model: nn.Module, seed: int) -> None:
    """Replace every floating-point parameter and buffer by seeded values.

    Weights keep the scale of activations (variance 2 / fan-in); batch-norm gets
    means near 0 and scales and variances around 1.
    """
    rng = np.random.default_rng(seed)
    state = {name: np.asarray(value) for name, value in model.state_dict().items()}
    for name, value in state.items():
        if value.dtype.kind == "f":
            state[name] = _values(name, value.shape, rng).astype(value.dtype)
    model.load_state_dict(state)


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.7, 1.3, shape)
    if len(shape) == 1:
        return rng.normal(0.0, 0.1, shape)
    fan_in = int(np.prod(shape[1:]))
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1), nn.Sigmoid())


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
        nn.Softmax(dim=1),
    )


def mlp_bn() -> nn.Sequential:
    layers: list[nn.Module] = []
    for features, hidden in ((784, 256), (256, 128)):
        layers += [nn.Linear(features, hidden), nn.BatchNorm1d(hidden)]
        layers += [nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(128, 10), nn.Softmax(dim=1))


def cnn32() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2048, 10),
        nn.Softmax(dim=1),
    )


def named_blocks(dropout: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (channels, out_channels) in enumerate(((3, 16), (16, 32)), start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, 3, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout(0.25)
    return nn.Sequential(layers)


def docs_conv() -> nn.Sequential:
    """The example of PyTorch's documentation of Sequential."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.Conv2d(20, 64, 5), nn.ReLU()
    )


def lenet5() -> nn.Sequential:
    """LeCun, Bottou, Bengio, Haffner (1998), with plain average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def autoencoder() -> nn.Sequential:
    halve: dict[str, Any] = {"stride": 2, "padding": 1}
    double = halve | {"output_padding": 1}
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, **halve),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, **halve),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 3, **double),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 3, **double),
        nn.Sigmoid(),
    )


def vgg11_bn() -> nn.Sequential:
    """Simonyan, Zisserman (2014), configuration A with batch-norm, for 32×32 images."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def mobilenet_v1() -> nn.Sequential:
    """Howard et al. (2017), width 1.0, 224×224."""
    layers = _conv_bn(3, 32, 3, stride=2)
    channels = 32
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for width in widths:
        halves = width > channels and width > 64
        stride = 2 if halves else 1
        layers += _conv_bn(channels, channels, 3, stride=stride, groups=channels)
        layers += _conv_bn(channels, width, 1)
        channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers, *head)


def _conv_bn(
    channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(
        channels,
        out_channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=False,
    )
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU6()]


ENTRIES = (
    Entry("tiny", tiny, (10,)),
    Entry("mlp", mlp, (784,)),
    Entry("mlp_bn", mlp_bn, (784,)),
    Entry("lenet5", lenet5, (1, 28, 28)),
    Entry("cnn32", cnn32, (3, 32, 32)),
    Entry("named_cnn", lambda: named_blocks(dropout=True), (3, 32, 32)),
    Entry("docs_conv", docs_conv, (1, 28, 28)),
    Entry("autoencoder", autoencoder, (1, 28, 28)),
    Entry("chain224", lambda: named_blocks(dropout=False), (3, 224, 224), (1, 64)),
    Entry("vgg11_bn", vgg11_bn, (3, 32, 32), (1, 16)),
    Entry("mobilenet_v1", mobilenet_v1, (3, 224, 224), (1, 16)),
)
ZOO = {entry.name: entry for entry in ENTRIES}

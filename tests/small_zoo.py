"""The zoo's models with fewer channels and pixels, for backends that run slowly.

The name of an entry enters; a model of the same layers leaves, with a sample. The
sizes behind each layer follow from the layers before it.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict

import numpy as np

from benchmarks.zoo import ZOO, fill_deterministically
from jitseq import nn

PIXELS = {
    "lenet5": 12, "cnn32": 8, "named_cnn": 8, "docs_conv": 10, "autoencoder": 8,
    "chain224": 8, "vgg11_bn": 32, "mobilenet_v1": 32,
}  # fmt: skip
"""Rows and columns: what the pooling and strides of each model leave room for."""

FEATURES = 24
"""Inputs of the models of linear layers."""

WIDEST = 4
"""Channels or features of the widest layer."""


def small_model(name: str, dtype: str = "float32") -> nn.Sequential:
    """In eval mode, with deterministic values."""
    layers = ZOO[name].layers()
    x = small_sample(name, 2)
    factor = max(1, max(map(_width, layers)) // WIDEST)
    found = OrderedDict()
    for key, layer in layers.named_children():
        found[key] = smaller(layer, x.shape[1], factor)
        x = found[key].eval()(x)
    model = nn.Sequential(found)
    fill_deterministically(model, seed=zlib.crc32(name.encode()))
    return model.eval().to(dtype)


def small_sample(name: str, batch: int, dtype: str = "float32") -> np.ndarray:
    channels = ZOO[name].input_shape[0]
    size = PIXELS.get(name)
    shape = (min(channels, FEATURES),) if size is None else (channels, size, size)
    rng = np.random.default_rng(batch)
    return rng.normal(size=(batch, *shape)).astype(dtype)


def _width(layer: nn.Module) -> int:
    return getattr(layer, "out_channels", getattr(layer, "out_features", 1))


def smaller(layer: nn.Module, channels: int, factor: int) -> nn.Module:
    """The same layer on ``channels`` inputs, with fewer outputs."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(channels, -(-layer.out_features // factor))
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return type(layer)(channels)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        outputs = -(-layer.out_channels // factor)
        depthwise = layer.groups > 1
        more = {}
        if isinstance(layer, nn.ConvTranspose2d):
            more["output_padding"] = layer.output_padding
        return type(layer)(
            channels,
            channels if depthwise else outputs,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=channels if depthwise else 1,
            bias=layer.bias is not None,
            **more,
        )
    return layer

"""Hypothesis strategies: random `nn.Sequential` models with inputs that fit them.

Every layer of `jitseq.nn` can appear, with its options; a layer is drawn for the
shape that reaches it, and tried on one image, so that a model never fails to run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import jitseq as js
from jitseq import nn

LARGEST = 6000
"""Elements of one image that a layer may produce: larger models only take longer."""

Draw = Callable[[st.SearchStrategy[Any]], Any]

SIMPLE = (
    nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Tanh, nn.Mish, nn.Softsign,
    nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Identity, nn.Dropout,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model in eval mode and two batches of different sizes; prints as code."""

    model: nn.Sequential
    first: np.ndarray
    second: np.ndarray

    def __repr__(self) -> str:
        shapes = f"{self.first.dtype}{list(self.first.shape)}, then {len(self.second)}"
        return f"{shapes} images through {self.model!r}"


def sizes(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    """Two sizes: rows and columns."""
    return st.tuples(st.integers(low, high), st.integers(low, high))


def activation(draw: Draw) -> nn.Module:
    number = draw(st.sampled_from([0.25, 0.5, 1.0, 1.5]))
    kind = draw(st.integers(0, 8))
    made: dict[int, nn.Module] = {
        3: nn.LeakyReLU(draw(st.sampled_from([0.01, 0.3, -0.2]))),
        4: nn.ELU(number),
        5: nn.CELU(number),
        6: nn.GELU(draw(st.sampled_from(["none", "tanh"]))),
        7: nn.Softplus(number),
        8: nn.Hardtanh(-number, number / 2),
    }
    return made.get(kind) or draw(st.sampled_from(SIMPLE))()


def conv(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    channels = shape[0]
    groups = draw(
        st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0])
    )
    multiples = st.integers(1, max(1, 40 // groups))
    if draw(st.booleans()):
        multiples = st.integers(1, 2)
    kernel = draw(sizes(1, 5))
    stride, dilation = draw(sizes(1, 3)), draw(sizes(1, 2))
    padding: Any = draw(sizes(0, 3))
    if draw(st.integers(0, 3)) == 0:
        stride, padding = (1, 1), draw(st.sampled_from(["same", "valid"]))
    mode = "zeros"
    if draw(st.integers(0, 4)) == 0:
        mode = draw(st.sampled_from(["reflect", "replicate", "circular"]))
    return nn.Conv2d(
        channels, groups * draw(multiples), kernel, stride, padding, dilation, groups,
        draw(st.booleans()), mode,
    )  # fmt: skip


def conv_transpose(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    channels = shape[0]
    groups = draw(
        st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0])
    )
    stride, dilation = draw(sizes(1, 3)), draw(sizes(1, 2))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    return nn.ConvTranspose2d(
        channels, groups * draw(st.integers(1, max(1, 20 // groups))),
        draw(sizes(1, 4)), stride, draw(sizes(0, 2)), extra, groups,
        draw(st.booleans()), dilation,
    )  # fmt: skip


def pool(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    kind = draw(st.sampled_from(["max", "max", "avg", "avg", "adaptive"]))
    if kind == "adaptive":
        layer = draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))
        target: nn.Module = layer(draw(st.just(1) | sizes(1, 5)))
        return target
    kernel = draw(st.just((2, 2)) | sizes(1, 4))
    stride = draw(st.none() | sizes(1, 3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if draw(st.booleans()):
        padding = (0, 0)
    ceil = draw(st.booleans())
    if kind == "max":
        return nn.MaxPool2d(
            kernel, stride, padding, draw(st.just(1) | sizes(1, 2)), ceil_mode=ceil
        )
    divisor = draw(st.none() | st.integers(1, 5))
    return nn.AvgPool2d(kernel, stride, padding, ceil, draw(st.booleans()), divisor)


def image_layer(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    """A layer for ``(C, H, W)``."""
    kind = draw(st.integers(0, 19))
    if kind <= 5:
        return conv(draw, shape)
    if kind <= 7:
        return conv_transpose(draw, shape)
    if kind <= 9:
        return nn.BatchNorm2d(shape[0], affine=draw(st.booleans()))
    if kind <= 12:
        return pool(draw, shape)
    if kind == 13:
        return draw(st.sampled_from([
            nn.PReLU(shape[0]), nn.PReLU(), nn.LogSoftmax(1),
            nn.Softmax(draw(st.sampled_from([1, 2, 3, -1]))),
            nn.Flatten(2), nn.Flatten(1, 2), nn.Linear(shape[2], 5),
        ]))  # fmt: skip
    if kind == 14:
        return nn.Flatten()
    return activation(draw)


def row_layer(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    """A layer for ``(F,)``."""
    features = shape[0]
    kind = draw(st.integers(0, 8))
    if kind <= 2:
        return nn.Linear(features, draw(st.integers(1, 70)), draw(st.booleans()))
    if kind == 3:
        return nn.BatchNorm1d(features, affine=draw(st.booleans()))
    if kind == 4:
        return draw(st.sampled_from([nn.Softmax(1), nn.LogSoftmax(-1), nn.Softmin(1)]))
    if kind == 5:
        return nn.PReLU(draw(st.sampled_from([1, features])))
    if kind == 6:
        width = draw(st.sampled_from([w for w in range(1, 9) if features % w == 0]))
        return nn.Unflatten(1, (features // width, width))
    if kind == 7:
        width = draw(st.sampled_from([w for w in range(1, 5) if features % w == 0]))
        return nn.Unflatten(1, (width, features // width, 1))
    return activation(draw)


def sequence_layer(draw: Draw, shape: tuple[int, ...]) -> nn.Module:
    """A layer for ``(C, L)``."""
    choices = [
        nn.Linear(shape[-1], draw(st.integers(1, 40))), nn.Flatten(),
        nn.BatchNorm1d(shape[0]), nn.Softmax(draw(st.sampled_from([1, 2]))),
        nn.PReLU(shape[0]), nn.Unflatten(1, (1, shape[0])), activation(draw),
    ]  # fmt: skip
    return draw(st.sampled_from(choices))


SHAPES: dict[int, st.SearchStrategy[tuple[int, ...]]] = {
    3: st.tuples(
        st.sampled_from([3, 1, 2, 4, 8, 16, 17, 32]), *[st.integers(1, 14)] * 2
    ),
    2: sizes(1, 30),
    1: st.tuples(st.integers(1, 80)),
}
LAYERS = {3: image_layer, 1: row_layer, 2: sequence_layer}


def shape_after(
    layer: nn.Module, shape: tuple[int, ...], largest: int
) -> tuple[int, ...] | None:
    """What comes out for one image, or None where the layer does not fit."""
    try:
        out = layer.eval()(np.zeros((1, *shape), np.float32))
    except js.JitseqError:
        return None
    return out.shape[1:] if 0 < out.size <= largest and out.ndim <= 4 else None


def randomise(model: nn.Module, seed: int) -> None:
    """Seeded weights of moderate size, and statistics that are not 0 and 1."""
    rng = np.random.default_rng(seed)
    for name, variable in (*model.named_parameters(), *model.named_buffers()):
        if variable.dtype.kind != "f":
            continue
        positive = name.endswith("running_var")
        values = rng.normal(size=variable.shape)
        scale = max(1.0, np.prod(variable.shape[1:])) ** -0.5
        variable[...] = np.abs(values) + 0.3 if positive else values * scale


@st.composite
def cases(draw: Draw, most_layers: int = 8, largest: int = LARGEST) -> Case:
    """A random model with two batches, in float32 or float64."""
    shape = draw(st.sampled_from([3, 3, 3, 3, 1, 2]).flatmap(SHAPES.__getitem__))
    start = shape
    model = nn.Sequential()
    for _ in range(draw(st.integers(1, most_layers))):
        layer = LAYERS[len(shape)](draw, shape)
        after = shape_after(layer, shape, largest)
        if after is None:
            continue
        shape = after
        model.append(nn.Sequential(layer) if draw(st.integers(0, 6)) == 0 else layer)
    seed = draw(st.integers(0, 1 << 16))
    randomise(model, seed)
    dtype = draw(st.sampled_from(["float32", "float32", "float64"]))
    model.to(dtype).eval()
    rng = np.random.default_rng(seed)
    batches = [draw(st.integers(1, 9)), draw(st.integers(1, 9) | st.integers(60, 70))]
    first, second = (rng.normal(size=(n, *start)).astype(dtype) for n in batches)
    return Case(model, first, second)


@st.composite
def training_cases(draw: Draw, most_layers: int = 6, largest: int = 1500) -> Case:
    """A random model in training mode, in float64, and two small odd batches.

    At least one of its layers has parameters.
    """
    case: Case = draw(cases(most_layers, largest).filter(_has_parameters))
    case.model.double().train()
    first, second = (x.astype(np.float64) for x in (case.first, case.second))
    return Case(case.model, first[:5], second[: draw(st.integers(1, 4))])


def _has_parameters(case: Case) -> bool:
    return any(True for _ in case.model.parameters())

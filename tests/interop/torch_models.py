"""Torch models and comparisons for the tests of `jitseq.interop.torch`."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Block(torch.nn.Module):
    """A residual block with in-place additions and activations."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        self.conv2 = torch.nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(width)
        self.relu = torch.nn.ReLU(inplace=True)
        self.shortcut = None
        if channels != width:
            conv = torch.nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(width))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            identity = self.shortcut(x)
        out += identity
        return self.relu(out)


class ResNet(torch.nn.Module):
    """Blocks in a ModuleList, functional calls, sizes, and a layer never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList([Block(8, 8), Block(8, 12, stride=2)])
        self.fc = torch.nn.Linear(12, 5)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.unused = torch.nn.LSTM(2, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        x = F.dropout(x, 0.5, self.training)
        return F.log_softmax(self.fc(x) * self.scale, dim=1)


class Around(torch.nn.Module):
    """``forward`` is any function of the module and its inputs."""

    def __init__(self, function, **members) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x):
        return self.function(self, x)


def randomise(module):
    """Seeded values for everything in floating point, statistics included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.add_(1.0)
    return module


def images(*shape: int):
    """A seeded float32 tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


RELATIVE = {torch.float32: 2e-5, torch.float64: 1e-12}


def expected(module, x):
    with torch.no_grad():
        return module(x.clone())


def assert_same(result, reference) -> None:
    assert isinstance(result, torch.Tensor)
    assert result.dtype == reference.dtype and result.shape == reference.shape
    bound = RELATIVE[reference.dtype] * max(1.0, reference.abs().max().item())
    assert (result - reference).abs().max().item() <= bound


def small_model():
    layers = [torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)]
    return randomise(torch.nn.Sequential(*layers)).eval()

"""`repr` is what PyTorch prints."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from jitseq import nn

LAYERS = [
    "Linear(3, 4)", "Linear(3, 4, bias=False)", "Conv2d(3, 4, 3)",
    "Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False)",
    "Conv2d(3, 4, 3, padding='same', padding_mode='reflect')",
    "Conv2d(3, 4, 3, padding='valid')",
    "ConvTranspose2d(3, 4, 3)",
    "ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=2, dilation=2)",
    "BatchNorm1d(5)", "BatchNorm2d(5, eps=1e-3, momentum=None, affine=False)",
    "BatchNorm2d(5, track_running_stats=False)",
    "ReLU()", "ReLU(True)", "ReLU6()", "ReLU6(inplace=True)", "LeakyReLU(0.2)",
    "LeakyReLU(inplace=True)", "PReLU()", "PReLU(3)", "ELU(2)", "ELU(inplace=True)",
    "SELU()", "SELU(True)", "CELU()", "CELU(2.0, True)", "GELU()", "GELU('tanh')",
    "SiLU()", "SiLU(True)", "Mish()", "Mish(True)", "Hardswish()", "Hardswish(True)",
    "Hardsigmoid()", "Hardsigmoid(True)", "Hardtanh()", "Hardtanh(-2, 3, True)",
    "Sigmoid()", "LogSigmoid()", "Tanh()", "Softplus()", "Softplus(2, 10)",
    "Softsign()", "Softmax()", "Softmax(1)", "LogSoftmax(dim=-1)", "Softmin(0)",
    "MaxPool2d(2)", "MaxPool2d((2, 3), 1, padding=1, ceil_mode=True)", "AvgPool2d(2)",
    "AvgPool2d(3, 2, 1, True, False, 4)", "AdaptiveAvgPool2d(1)",
    "AdaptiveAvgPool2d((None, 2))", "AdaptiveMaxPool2d((1, 2))", "Flatten()",
    "Flatten(0, 1)", "Unflatten(1, (2, 3))", "Unflatten(1, [2, 3])", "Dropout()",
    "Dropout(0.1, True)", "Identity()", "Identity(3, a=4)", "Sequential()",
    "Sequential(Sequential(), Sequential(Flatten(), Linear(2, 2)))",
    "Sequential(OrderedDict(conv=Conv2d(1, 2, 3), tail=Sequential(ReLU(), ReLU())))",
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_repr(layer):
    torch = pytest.importorskip("torch")
    if layer.startswith("BatchNorm") and "bias=" not in repr(torch.nn.BatchNorm1d(1)):
        pytest.skip("older PyTorch does not print a batch norm's bias")

    def build(library: object) -> object:
        return eval(layer, {**vars(library), "OrderedDict": OrderedDict})

    assert repr(build(nn)) == repr(build(torch.nn))


def test_repr_of_a_user_module():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()
            self.gone = nn.ReLU()
            self.gone = None

        def extra_repr(self) -> str:
            return "mine=1"

    assert repr(Net()) == "Net(\n  mine=1\n  (act): ReLU()\n  (gone): None\n)"

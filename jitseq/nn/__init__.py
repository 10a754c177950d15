"""Models: modules, layers, containers and their functional forms, as in PyTorch.

Nothing here computes: layers hold state and options, and apply ops of `jitseq.ir`.
"""

from jitseq.errors import RangeError
from jitseq.nn import functional
from jitseq.nn.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softsign,
    Tanh,
)
from jitseq.nn.batchnorm import BatchNorm1d, BatchNorm2d
from jitseq.nn.container import Sequential
from jitseq.nn.conv import Conv2d, ConvTranspose2d
from jitseq.nn.dropout import Dropout
from jitseq.nn.elementwise import Elementwise
from jitseq.nn.functional.arguments import OptionError
from jitseq.nn.init import manual_seed
from jitseq.nn.linear import Linear
from jitseq.nn.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from jitseq.nn.module import Module
from jitseq.nn.parameter import Buffer, Parameter
from jitseq.nn.pooling import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    MaxPool2d,
)
from jitseq.nn.shape import Flatten, Identity, Unflatten
from jitseq.nn.state import IncompatibleKeys, StateDictError

__all__ = [
    "CELU", "ELU", "GELU", "SELU", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d",
    "AvgPool2d", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "BatchNorm2d",
    "Buffer", "Conv2d", "ConvTranspose2d", "CrossEntropyLoss", "Dropout",
    "Elementwise", "Flatten", "Hardsigmoid", "Hardswish", "Hardtanh", "HuberLoss",
    "Identity", "IncompatibleKeys", "L1Loss", "LeakyReLU", "Linear", "LogSigmoid",
    "LogSoftmax", "MSELoss", "MaxPool2d", "Mish", "Module", "NLLLoss", "OptionError",
    "PReLU", "Parameter", "RangeError", "ReLU", "ReLU6", "Sequential", "SiLU",
    "Sigmoid", "SmoothL1Loss", "Softmax", "Softmin", "Softplus", "Softsign",
    "StateDictError", "Tanh", "Unflatten", "functional", "manual_seed",
]  # fmt: skip

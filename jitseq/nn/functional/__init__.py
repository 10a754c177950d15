"""The layers' operations as functions, with PyTorch's names and signatures.

Arrays, parameters or tracers enter; each function brings its arguments into normal
form and applies an op. Invariant: no function here computes anything itself.
"""

from jitseq.nn.functional.activation import (
    celu,
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softmin,
    softplus,
    softsign,
    tanh,
)
from jitseq.nn.functional.arithmetic import (
    abs,
    add,
    amax,
    div,
    erf,
    exp,
    log,
    maximum,
    mean,
    minimum,
    mul,
    neg,
    sqrt,
    sub,
    sum,
)
from jitseq.nn.functional.classification import cross_entropy, nll_loss
from jitseq.nn.functional.conv import conv2d, conv_transpose2d, linear
from jitseq.nn.functional.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from jitseq.nn.functional.normalization import batch_norm, dropout
from jitseq.nn.functional.pooling import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    max_pool2d,
)
from jitseq.nn.functional.shape import (
    cat,
    concat,
    flatten,
    pad,
    permute,
    reshape,
    transpose,
    unflatten,
)

__all__ = [
    "abs", "adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "amax",
    "avg_pool2d", "batch_norm", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "cat", "celu", "concat", "conv2d",
    "conv_transpose2d", "cross_entropy", "div", "dropout", "elu", "erf", "exp",
    "flatten", "gelu", "hardsigmoid", "hardswish", "hardtanh", "huber_loss",
    "l1_loss", "leaky_relu", "linear", "log", "log_softmax", "logsigmoid",
    "max_pool2d", "maximum", "mean", "minimum", "mish", "mse_loss", "mul", "neg",
    "nll_loss", "pad", "permute", "prelu", "relu", "relu6", "reshape", "selu",
    "sigmoid", "silu", "smooth_l1_loss", "softmax", "softmin", "softplus",
    "softsign", "sqrt", "sub", "sum", "tanh", "transpose", "unflatten",
]  # fmt: skip

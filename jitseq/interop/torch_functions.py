"""What torch's functions and tensor methods mean in jitseq.

Enters the target of a `torch.fx` node; leaves a function of jitseq values with torch's
signature. Invariant: an option that a function here does not have is refused when it
is looked up, never ignored; whether a call changes its input, or returns a view of
it, is answered here too.
"""

from __future__ import annotations

import builtins
import inspect
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from jitseq.errors import UnsupportedError
from jitseq.interop.torch_meanings import (
    POWERS,
    Function,
    already,
    attribute,
    binary,
    chunk,
    clamp,
    dropout_in_evaluation,
    getitem,
    narrow,
    of_sizes,
    permute,
    power,
    reduction,
    reshape,
    same,
    scaled,
    size,
    softmax,
    split,
    squeeze,
    stack,
    unsqueeze,
    view,
)
from jitseq.nn import functional as F


class Meaning(NamedTuple):
    """``function`` stands for a torch function; ``mutates`` and ``views`` its input."""

    function: Function
    mutates: bool
    views: bool


ACTIVATIONS = (
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "logsigmoid", "mish", "prelu", "relu", "relu6", "selu", "sigmoid", "silu",
    "softplus", "softsign", "tanh",
)  # fmt: skip
AS_THEY_ARE = (
    *ACTIVATIONS, "abs", "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d",
    "cat", "concat", "conv2d", "conv_transpose2d", "erf", "exp", "flatten", "linear",
    "log", "max_pool2d", "maximum", "minimum", "neg", "pad", "sqrt", "transpose",
    "unflatten",
)  # fmt: skip
"""Functions whose names, arguments and meaning are the same in jitseq."""

FUNCTIONS: dict[str, Function] = {
    **{name: getattr(F, name) for name in AS_THEY_ARE},
    **dict.fromkeys(("add",), scaled(binary(F.add, operator.add))),
    **dict.fromkeys(("sub", "subtract"), scaled(binary(F.sub, operator.sub))),
    **dict.fromkeys(("mul", "multiply"), binary(F.mul, operator.mul)),
    **dict.fromkeys(
        ("div", "divide", "true_divide"), binary(F.div, operator.truediv)
    ),
    **dict.fromkeys(("clamp", "clip"), clamp),
    **{name: reduction(getattr(F, name)) for name in ("mean", "sum", "amax")},
    **{
        name: softmax(getattr(F, name))
        for name in ("softmax", "log_softmax", "softmin")
    },
    "absolute": F.abs, "chunk": chunk, "clone": same, "concatenate": F.cat,
    "detach": same, "log_sigmoid": F.logsigmoid, "narrow": narrow, "negative": F.neg,
    "permute": permute, "pow": power, "reciprocal": POWERS[-1], "reshape": reshape,
    "rsqrt": POWERS[-0.5], "split": split, "square": POWERS[2], "squeeze": squeeze,
    "stack": stack, "swapaxes": F.transpose, "unsqueeze": unsqueeze,
}  # fmt: skip
"""Functions of torch, torch.nn.functional, and methods of tensors."""

ONLY_FUNCTIONAL: dict[str, Function] = {
    "batch_norm": F.batch_norm, "dropout": F.dropout,
    **{
        name: dropout_in_evaluation(name)
        for name in (
            "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
            "feature_alpha_dropout",
        )
    },
}  # fmt: skip
"""Functions of torch.nn.functional whose namesakes elsewhere take other arguments."""

METHODS: dict[str, Function] = {
    "contiguous": same, "dim": lambda input: input.ndim, "double": already("float64"),
    "float": already("float32"), "numel": lambda input: math.prod(input.shape),
    "permute": permute, "reshape": view, "size": size, "view": view,
}  # fmt: skip

OPERATORS: dict[str, Function] = {
    **{name: FUNCTIONS[name] for name in ("add", "sub", "mul", "neg", "pow")},
    "truediv": FUNCTIONS["div"], "getitem": getitem,
    "floordiv": of_sizes(operator.floordiv, "//"),
    "mod": of_sizes(operator.mod, "%"),
}  # fmt: skip

VIEWS = frozenset(
    (
        *ONLY_FUNCTIONAL.keys() - {"batch_norm"}, "chunk", "contiguous", "detach",
        "double", "flatten", "float", "getitem", "narrow", "permute", "reshape",
        "split", "squeeze", "swapaxes", "transpose", "unflatten", "unsqueeze", "view",
    )
)  # fmt: skip
"""Results that may share memory with the input in torch."""


def _by_target() -> dict[Any, tuple[str, Function, bool]]:
    """Name, meaning and whether it works in place, of every covered function."""
    found: dict[Any, tuple[str, Function, bool]] = {}
    spaces = (torch, torch.nn.functional, torch._C._nn)
    tables = [(space, FUNCTIONS) for space in spaces]
    tables.append((torch.nn.functional, ONLY_FUNCTIONAL))
    for space, table in tables:
        for name, function in table.items():
            found[getattr(space, name, name)] = (name, function, False)
            found[getattr(space, f"{name}_", name)] = (name, function, True)
    for name, function in OPERATORS.items():
        found[getattr(operator, name)] = (name, function, False)
        found[getattr(operator, f"i{name}", name)] = (name, function, True)
    found[builtins.getattr] = ("getattr", attribute, False)
    return {target: entry for target, entry in found.items() if callable(target)}


BY_TARGET = _by_target()


def function_meaning(
    target: Any, args: Sequence[Any], options: dict[str, Any]
) -> Meaning:
    """What ``target(*args, **options)`` means.

    Raises `UnsupportedError` for a function, or an option of it, that is not covered.
    """
    entry = BY_TARGET.get(target)
    if entry is None:
        raise UnsupportedError(
            f"{_qualified(target)} is not covered",
            hint="use a function that jitseq.nn.functional has, or a covered layer",
        )
    name, function, in_place = entry
    in_place |= _bound(name, function, args, options).get("inplace") is True
    return Meaning(function, in_place, name in VIEWS)


def method_meaning(name: str, args: Sequence[Any], options: dict[str, Any]) -> Meaning:
    """As `function_meaning`, for ``args[0].name(*args[1:], **options)``."""
    in_place = name.endswith("_") and not name.endswith("__")
    base = name.removesuffix("_") if in_place else name
    function = METHODS.get(base) or FUNCTIONS.get(base)
    if function is None:
        raise UnsupportedError(
            f"the method {name!r} of a tensor is not covered",
            hint="use a function that jitseq.nn.functional has, or a covered layer",
        )
    _bound(name, function, args, options)
    return Meaning(function, in_place, base in VIEWS)


def _bound(
    name: str, function: Function, args: Sequence[Any], options: dict[str, Any]
) -> dict[str, Any]:
    try:
        return inspect.signature(function).bind(*args, **options).arguments
    except TypeError as error:
        raise UnsupportedError(
            f"{name} with these arguments is not covered: {error}",
            facts={"covered": f"{name}{inspect.signature(function)}"},
        ) from None


def _qualified(target: Any) -> str:
    name = getattr(target, "__name__", repr(target))
    return f"{getattr(target, '__module__', None) or 'torch'}.{name}"

"""The same model for the peers: as torch.nn modules, and as an ONNX file.

A jitseq `nn.Sequential` in eval mode enters; an equivalent torch module or ONNX bytes
leave. Only the layers of the zoo are covered; another raises `UnsupportedError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jitseq import nn
from jitseq.errors import UnsupportedError

CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
POOL = ("kernel_size", "stride", "padding", "ceil_mode")
TORCH_OPTIONS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features"),
    "Conv2d": (*CONV, "groups"),
    "ConvTranspose2d": (*CONV, "groups", "output_padding"),
    "BatchNorm1d": ("num_features", "eps", "momentum"),
    "BatchNorm2d": ("num_features", "eps", "momentum"),
    "MaxPool2d": (*POOL, "dilation"),
    "AvgPool2d": (*POOL, "count_include_pad"),
    "AdaptiveAvgPool2d": ("output_size",),
    "Flatten": ("start_dim", "end_dim"),
    "Dropout": ("p",),
    "Softmax": ("dim",),
    "ReLU": (),
    "ReLU6": (),
    "Sigmoid": (),
    "Tanh": (),
}
"""The attributes of a layer that its torch twin's constructor takes by keyword."""

OPSET = 17
IR_VERSION = 9


def to_torch(model: nn.Sequential) -> Any:
    """A `torch.nn.Sequential` in eval mode with the same names and values."""
    import torch

    twin = torch.nn.Sequential()
    for name, layer in model.named_children():
        twin.add_module(name, _torch_layer(layer, torch.nn))
    state = {
        name: torch.from_numpy(np.array(value))
        for name, value in model.state_dict().items()
    }
    twin.load_state_dict(state)
    return twin.eval()


def _torch_layer(layer: nn.Module, torch_nn: Any) -> Any:
    kind = type(layer).__name__
    if kind not in TORCH_OPTIONS:
        raise UnsupportedError(
            f"{kind} has no torch twin here", hint=f"one of {', '.join(TORCH_OPTIONS)}"
        )
    options = {name: getattr(layer, name) for name in TORCH_OPTIONS[kind]}
    if kind in ("Linear", "Conv2d", "ConvTranspose2d"):
        options["bias"] = getattr(layer, "bias", None) is not None
    return getattr(torch_nn, kind)(**options)


def pair(value: Any) -> list[int]:
    """``2`` or ``(2, 2)`` as ``[2, 2]``."""
    return [value, value] if isinstance(value, int) else [int(item) for item in value]


def conv_attributes(layer: Any) -> dict[str, Any]:
    return {
        "kernel_shape": pair(layer.kernel_size),
        "strides": pair(layer.stride),
        "pads": pair(layer.padding) * 2,
        "dilations": pair(layer.dilation),
        "group": layer.groups,
    }


def pool_attributes(layer: Any) -> dict[str, Any]:
    return {
        "kernel_shape": pair(layer.kernel_size),
        "strides": pair(layer.stride),
        "pads": pair(layer.padding) * 2,
        "ceil_mode": int(layer.ceil_mode),
    }


def adaptive_pool_attributes(layer: Any) -> dict[str, Any]:
    if pair(layer.output_size) != [1, 1]:
        raise UnsupportedError("ONNX has only global pooling", hint="output_size=1")
    return {}


def flatten_attributes(layer: Any) -> dict[str, Any]:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise UnsupportedError("ONNX flattens all but one axis", hint="nn.Flatten()")
    return {"axis": 1}


Attributes = Callable[[Any], dict[str, Any]]
NORM_STATE = ("weight", "bias", "running_mean", "running_var")
ONNX_FORMS: dict[str, tuple[str, tuple[str, ...], Attributes]] = {
    "Linear": ("Gemm", ("weight", "bias"), lambda layer: {"transB": 1}),
    "Conv2d": ("Conv", ("weight", "bias"), conv_attributes),
    "ConvTranspose2d": (
        "ConvTranspose",
        ("weight", "bias"),
        lambda layer: (
            conv_attributes(layer) | {"output_padding": pair(layer.output_padding)}
        ),
    ),
    "BatchNorm1d": (
        "BatchNormalization",
        NORM_STATE,
        lambda layer: {"epsilon": layer.eps},
    ),
    "BatchNorm2d": (
        "BatchNormalization",
        NORM_STATE,
        lambda layer: {"epsilon": layer.eps},
    ),
    "MaxPool2d": (
        "MaxPool",
        (),
        lambda layer: pool_attributes(layer) | {"dilations": pair(layer.dilation)},
    ),
    "AvgPool2d": (
        "AveragePool",
        (),
        lambda layer: (
            pool_attributes(layer) | {"count_include_pad": int(layer.count_include_pad)}
        ),
    ),
    "AdaptiveAvgPool2d": ("GlobalAveragePool", (), adaptive_pool_attributes),
    "Flatten": ("Flatten", (), flatten_attributes),
    "Dropout": ("Identity", (), lambda layer: {}),
    "Softmax": ("Softmax", (), lambda layer: {"axis": layer.dim}),
    "ReLU": ("Relu", (), lambda layer: {}),
    "Sigmoid": ("Sigmoid", (), lambda layer: {}),
    "Tanh": ("Tanh", (), lambda layer: {}),
}
"""ONNX operator, the state that it reads in order, and its attributes."""


def to_onnx(model: nn.Sequential, input_shape: tuple[int, ...]) -> bytes:
    """The model as a serialised ONNX file, input ``x`` with a free batch extent ``n``.

    ``input_shape`` is without the batch. Checked by ``onnx.checker``.
    """
    import onnx
    from onnx import helper, numpy_helper

    state = {name: np.array(value) for name, value in model.state_dict().items()}
    nodes: list[Any] = []
    initializers: dict[str, Any] = {"six": np.float32(6.0), "zero": np.float32(0.0)}
    value = "x"
    for name, layer in model.named_children():
        operator, inputs, attributes = _onnx_form(layer, name, state)
        initializers |= {key: state[key] for key in inputs if key in state}
        nodes.append(
            helper.make_node(operator, [value, *inputs], [f"{name}:out"], **attributes)
        )
        value = f"{name}:out"
    used = {key for node in nodes for key in node.input}
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info("x", float32, ["n", *input_shape])],
        [helper.make_tensor_value_info(value, float32, None)],
        [
            numpy_helper.from_array(np.asarray(array), key)
            for key, array in initializers.items()
            if key in used
        ],
    )
    opset = helper.make_opsetid("", OPSET)
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


def _onnx_form(
    layer: nn.Module, name: str, state: dict[str, np.ndarray]
) -> tuple[str, list[str], dict[str, Any]]:
    kind = type(layer).__name__
    if kind == "ReLU6":
        return "Clip", ["zero", "six"], {}
    if kind not in ONNX_FORMS:
        raise UnsupportedError(
            f"{kind} is not exported", hint=f"one of {', '.join(ONNX_FORMS)}"
        )
    operator, fields, attributes = ONNX_FORMS[kind]
    inputs = [f"{name}.{field}" for field in fields if f"{name}.{field}" in state]
    return operator, inputs, attributes(layer)

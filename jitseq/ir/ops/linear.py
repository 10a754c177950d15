"""Linear layers: ``y[…, o] = Σ_i x[…, i] w[o, i] + b[o]``.

With g the cotangent of y: dx[…, i] = Σ_o g[…, o] w[o, i],
dw[o, i] = Σ_… g[…, o] x[…, i], db[o] = Σ_… g[…, o].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jitseq.errors import ShapeError
from jitseq.ir.compute import Contraction, Phase, Tap
from jitseq.ir.op import Example, Op, register
from jitseq.ir.ops.checks import require_vector, result_type, static
from jitseq.ir.types import TensorType, require_float

ONE_TAP = Phase((0, 0), (1, 1), (1, 1), (1, 1), (Tap(0, 0, 0, 0),))


def infer_linear(x: TensorType, w: TensorType, *bias: TensorType) -> TensorType:
    """``[…, I]``, weight ``[O, I]``, optionally bias ``[O]`` → ``[…, O]``."""
    require_float(x, w, *bias, op="linear")
    if x.ndim < 1 or w.ndim != 2:
        raise ShapeError(
            "linear: expects an input [..., I] and a weight [O, I]",
            facts={"input": x, "weight": w},
            hint="the weight of Linear(in_features, out_features) has 2 dimensions",
        )
    features = static(x.shape[-1])
    if features != w.shape[1]:
        raise ShapeError(
            f"linear: input has {features} features, weight expects {w.shape[1]}",
            facts={"input": x, "weight": w},
            hint=f"Linear(in_features={features}, …), or flatten the input first",
        )
    for given in bias:
        require_vector("linear", "bias", w.shape[0], given)
    return result_type("linear", x, (*x.shape[:-1], w.shape[0]))


def linear(x: np.ndarray, w: np.ndarray, *bias: np.ndarray) -> np.ndarray:
    """All leading axes as the rows of one matrix product."""
    with np.errstate(all="ignore"):
        rows = x.reshape(-1, w.shape[1]) if x.ndim > 2 and x.size else x
        result: np.ndarray = np.asarray(rows @ w.T)
        if bias:
            result += bias[0]
    return result.reshape(*x.shape[:-1], w.shape[0])


def compute_linear(types: tuple[TensorType, ...], attrs: Any) -> Contraction:
    """One pixel and one tap; every leading axis is batch."""
    outputs, features = types[1].shape
    return Contraction(
        groups=1,
        in_channels=features,
        out_channels=outputs,
        in_size=(1, 1),
        out_size=(1, 1),
        phases=(ONE_TAP,),
        weight_axes="oi",
        has_bias=len(types) == 3,
    )


register(
    Op(
        "linear",
        infer_linear,
        linear,
        compute_linear,
        examples=(
            Example(((4, 7), (5, 7), (5,))),
            Example(((1, 33), (17, 33))),
            Example(((2, 3, 8), (16, 8), (16,))),
            Example(((9,), (4, 9), (4,))),
            Example(((13, 1), (1, 1), (1,))),
        ),
    )
)

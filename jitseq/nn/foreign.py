"""Torch tensors at the edge of an eager call: tensors in, tensors out.

Torch is never imported here: a tensor can only arrive when the caller has done so.
Invariant: a module's ``forward`` sees NumPy arrays (or tracers), never tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jitseq.errors import DtypeError
from jitseq.ir.tracer import as_array


def is_torch_tensor(x: Any) -> bool:
    """Whether ``x`` is a `torch.Tensor`, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def to_array(x: Any) -> np.ndarray:
    """`as_array` that also takes tensors which require a gradient or live elsewhere.

    Raises `DtypeError` for tensors of a dtype that NumPy does not have.
    """
    if not is_torch_tensor(x):
        return as_array(x)
    try:
        return as_array(x.detach().cpu().numpy())
    except TypeError:
        raise DtypeError(
            f"a tensor of {x.dtype} has no NumPy equivalent",
            hint="convert it first, for example tensor.float()",
        ) from None


def call_with_tensors(
    forward: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> Any:
    """Call ``forward`` on arrays in place of tensors; its arrays become tensors.

    The results live on the device of the first tensor and carry no autograd history.
    """
    values = (*args, *options.values())
    device = next(x.device for x in values if is_torch_tensor(x))
    result = forward(
        *map(_from_tensor, args),
        **{name: _from_tensor(x) for name, x in options.items()},
    )
    return _to_tensors(result, device)


def _from_tensor(x: Any) -> Any:
    return to_array(x) if is_torch_tensor(x) else x


def _to_tensors(result: Any, device: Any) -> Any:
    if isinstance(result, (tuple, list)):
        return type(result)(_to_tensors(item, device) for item in result)
    if not isinstance(result, np.ndarray):
        return result
    tensor = sys.modules["torch"].from_numpy(np.require(result, requirements="W"))
    return tensor.to(device)

"""Convolution layers.

Invariant: options are kept in PyTorch's normal form (pairs), so that `repr` and
attributes read the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitseq.errors import UnsupportedError
from jitseq.nn import functional as F
from jitseq.nn.functional.arguments import (
    Array,
    IntPair,
    OptionError,
    integer,
    one_of,
    pair,
)
from jitseq.nn.functional.conv import conv_padding
from jitseq.nn.init import fan_in_bound, float_dtype, uniform
from jitseq.nn.module import Module
from jitseq.nn.parameter import Parameter

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What both convolutions share: options, parameters and their first values."""

    padding: str | tuple[int, int]
    output_padding: tuple[int, int] = (0, 0)

    def _options(
        self,
        channels: tuple[int, int],
        kernel_size: IntPair,
        stride: IntPair,
        padding: str | IntPair,
        dilation: IntPair,
        groups: int,
        padding_mode: str,
    ) -> None:
        name = type(self).__name__
        self.groups = integer(groups, f"{name}: groups", 1)
        self.in_channels = integer(channels[0], f"{name}: in_channels", 1)
        self.out_channels = integer(channels[1], f"{name}: out_channels", 1)
        for what, count in zip(("in", "out"), (self.in_channels, self.out_channels)):
            if count % self.groups:
                raise OptionError(
                    f"{name}: {what}_channels must be divisible by groups",
                    facts={f"{what}_channels": count, "groups": self.groups},
                )
        self.kernel_size = pair(kernel_size, f"{name}: kernel_size", 1)
        self.stride = pair(stride, f"{name}: stride", 1)
        self.dilation = pair(dilation, f"{name}: dilation", 1)
        if isinstance(padding, str):
            self.padding = padding
        else:
            self.padding = pair(padding, f"{name}: padding")
        self.padding_mode = one_of(padding_mode, f"{name}: padding_mode", PADDING_MODES)

    def _draw(self, shape: tuple[int, ...], bias: bool, dtype: Any) -> None:
        bound = fan_in_bound(shape)
        self.weight = Parameter(uniform(shape, bound, dtype))
        values = uniform((self.out_channels,), bound, dtype) if bias else None
        self.register_parameter("bias", None if values is None else Parameter(values))

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}, stride={self.stride}",
        ]
        optional = {
            f"padding={self.padding}": self.padding != (0, 0),
            f"dilation={self.dilation}": self.dilation != (1, 1),
            f"output_padding={self.output_padding}": self.output_padding != (0, 0),
            f"groups={self.groups}": self.groups != 1,
            "bias=False": self.bias is None,
            f"padding_mode={self.padding_mode}": self.padding_mode != "zeros",
        }
        return ", ".join(parts + [text for text, shown in optional.items() if shown])


class Conv2d(_Conv):
    """2-D cross-correlation: ``(N, C, H, W)`` to ``(N, O, H', W')``.

    ``weight`` is ``(O, C/groups, KH, KW)``, ``bias`` ``(O,)``; both are drawn from
    ``±1/√(C/groups · KH · KW)``. Options as in `functional.conv2d`, and
    ``padding_mode`` as in `functional.pad`. Raises `OptionError` for options that do
    not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: str | IntPair = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        channels = (in_channels, out_channels)
        self._options(
            channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        conv_padding(self.padding, self.kernel_size, self.stride, self.dilation)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self._draw(shape, bias, float_dtype(dtype, device))

    def forward(self, input: Array) -> Array:
        padding: str | IntPair = self.padding
        if self.padding_mode != "zeros":
            top, bottom, left, right = conv_padding(
                padding, pair(self.kernel_size, "kernel_size", 1),
                pair(self.stride, "stride", 1), pair(self.dilation, "dilation", 1),
            )  # fmt: skip
            input = F.pad(input, (left, right, top, bottom), self.padding_mode)
            padding = 0
        return F.conv2d(
            input, self.weight, self.bias, self.stride, padding, self.dilation,
            self.groups,
        )  # fmt: skip


class ConvTranspose2d(_Conv):
    """2-D transposed convolution: ``(N, C, H, W)`` to ``(N, O, H', W')``.

    ``weight`` is ``(C, O/groups, KH, KW)``, ``bias`` ``(O,)``; both are drawn from
    ``±1/√(O/groups · KH · KW)``. Options and sizes as in
    `functional.conv_transpose2d`; only zero padding exists, as in PyTorch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        one_of(padding_mode, "ConvTranspose2d: padding_mode", ("zeros",))
        channels = (in_channels, out_channels)
        sizes = pair(padding, "ConvTranspose2d: padding")
        self._options(
            channels, kernel_size, stride, sizes, dilation, groups, padding_mode
        )
        self.output_padding = pair(output_padding, "ConvTranspose2d: output_padding")
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        self._draw(shape, bias, float_dtype(dtype, device))

    def forward(self, input: Array, output_size: Sequence[int] | None = None) -> Array:
        if output_size is not None:
            raise UnsupportedError(
                "ConvTranspose2d: output_size is not covered",
                hint="choose the size with output_padding when making the layer",
            )
        assert not isinstance(self.padding, str)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding,
            self.output_padding, self.groups, self.dilation,
        )  # fmt: skip

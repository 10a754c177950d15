"""How ops compute: the few forms that the scheduler knows.

Pointwise    one expression over scalars, written once for NumPy and for kernels
Contraction  products of input and weight summed over taps and input channels
Window       maximum or average over a window of rows and columns
Reduction    softmax-like or plain reductions over some axes
Movement     the same elements elsewhere: reshape, permute, pad, concat, slice

Gradients of contractions to their input are contractions too. The other gradients
refer to the record of the forward op, whose index algebra they share:

WeightGradient  the same products as a contraction, summed over batch and pixels
WindowIndex     which tap of each window is its maximum
WindowGradient  for each element, the sum over the windows that hold it

Uniform         random numbers, computed where they are read

Training changes variables in place:

Update          an optimizer's rule for one element of a parameter and its state
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Pointwise:
    """``out[i] = expr(m, x0[i], x1[i], …)`` after NumPy broadcasting.

    ``expr(m, *inputs, **attrs)`` uses the operators ``+ - * /`` and unary ``-`` and
    the functions of the namespace ``m`` (see `jitseq.ir.scalar`), which exists once
    for NumPy arrays and once for values of a kernel under construction.
    """

    expr: Callable[..., Any]


@dataclass(frozen=True)
class Tap:
    """A position of a kernel: input offset ``(dy, dx)``, weight index ``(ky, kx)``."""

    dy: int
    dx: int
    ky: int
    kx: int


@dataclass(frozen=True)
class Phase:
    """The outputs ``(start + step * index)`` that share one set of taps.

    ``out[n, o, start_y + step_y*y, start_x + step_x*x]
        += x[n, i, stride_y*y + dy, stride_x*x + dx] * w[o, i, ky, kx]``
    for ``y < count_y``, ``x < count_x``; positions outside the input read zero.
    """

    start: tuple[int, int]
    step: tuple[int, int]
    count: tuple[int, int]
    stride: tuple[int, int]
    taps: tuple[Tap, ...]


@dataclass(frozen=True)
class Contraction:
    """Convolution, its transpose, and linear layers.

    ``weight_axes`` says how the weight parameter is laid out: ``"oihw"`` (conv),
    ``"iohw"`` (transposed conv), ``"oi"`` (linear), ``"io"`` (its gradient). With
    groups, the second axis holds the channels of one group.
    """

    groups: int
    in_channels: int
    out_channels: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    phases: tuple[Phase, ...]
    weight_axes: Literal["oihw", "iohw", "oi", "io"]
    has_bias: bool


@dataclass(frozen=True)
class WeightGradient:
    """``dw[o, i, ky, kx] = Σ_{n, y, x} g[n, o, start + step (y, x)] x[n, i, …]``.

    Phases, taps and strides are those of ``forward``, the contraction whose weight it
    is; the weight's axes are ``forward.weight_axes``. The op's inputs are (x, g).
    """

    forward: Contraction


@dataclass(frozen=True)
class AxisWindows:
    """Windows along one axis: output ``i`` covers ``start[i] + step*t``, t < count[i].

    Only positions inside the input are listed. ``divisor[i]`` is this axis' factor of
    an average's divisor.
    """

    start: tuple[int, ...]
    count: tuple[int, ...]
    step: int
    divisor: tuple[int, ...]

    @property
    def uniform(self) -> tuple[int, int] | None:
        """``(window, stride)`` when every window is whole and evenly spaced."""
        if self.step != 1 or len(set(self.count)) != 1 or self.start[0] != 0:
            return None
        stride = self.start[1] - self.start[0] if len(self.start) > 1 else self.count[0]
        even = all(s == stride * i for i, s in enumerate(self.start))
        return (self.count[0], stride) if even and stride else None


@dataclass(frozen=True)
class Window:
    """Pooling: ``kind`` over the product of the windows of both axes.

    An average divides by ``rows.divisor[y] * cols.divisor[x]``, or by ``divisor``
    where it is given.
    """

    kind: Literal["max", "avg"]
    rows: AxisWindows
    cols: AxisWindows
    divisor: int | None = None


@dataclass(frozen=True)
class WindowIndex:
    """The tap ``ty * max(cols.count) + tx`` of each window's maximum.

    The first of equal maxima, in order of the taps; the last NaN where there is one.
    """

    forward: Window


@dataclass(frozen=True)
class WindowGradient:
    """``dx[h, w]``: the sum of g over the windows that hold (h, w), a gather.

    An average divides g by the window's divisor. A maximum reads a second input, the
    `WindowIndex`, and counts a window where its index is the tap that reads (h, w).
    """

    forward: Window
    in_size: tuple[int, int]


@dataclass(frozen=True)
class Reduction:
    """``kind`` over ``axes`` (of the input, non-negative, sorted).

    ``softmax`` and ``log_softmax`` keep the shape; ``sum``, ``mean`` and ``max``
    drop the axes or keep them with extent 1.
    """

    kind: Literal["softmax", "log_softmax", "sum", "mean", "max"]
    axes: tuple[int, ...]
    keepdim: bool = False


@dataclass(frozen=True)
class Uniform:
    """Uniform numbers in [0, 1) from a key and the row-major index of each element."""


@dataclass(frozen=True)
class Update:
    """``expr(m, p, g, *state, *numbers, **flags) -> (p, *state)`` for each element.

    The op's inputs are p, g, ``states`` arrays of the same type, and one vector of
    ``numbers`` run-time numbers where there are any; its outputs take the memory of p
    and of the state.
    """

    expr: Callable[..., tuple[Any, ...]]
    states: int
    numbers: int


@dataclass(frozen=True)
class Movement:
    """``kind`` with the op's own attributes; see `passes/lower/movement.py`."""

    kind: Literal["reshape", "permute", "concat", "pad", "slice", "broadcast", "copy"]

"""Kernels of contractions alone, with packed weights, beside the ops in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np
from kernel_harness import GUARD, NO_HALO, KernelRun, node, value_of
from tolerance import assert_close

import jitseq.ir.ops  # noqa: F401  (registers every family)
from jitseq.codegen.llvm.host import LEVELS, host_target
from jitseq.ir.graph import Node, Value
from jitseq.ir.layout import Layout, channels_last, row_major
from jitseq.ir.op import get_op
from jitseq.ir.packing import Pack
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.layout import needed_halo
from jitseq.passes.lower.operands import Operands
from jitseq.runtime.packing import pack_all

NATIVE = host_target()
TARGETS = {
    "native": NATIVE,
    "x86-64-v3": LEVELS["x86-64-v3"],
    "four lanes": replace(NATIVE, vector_bytes=16, registers=16),
}
IMAGES = 3
AROUND = (1, 2, 0, 1)
Pair = tuple[int, int]
Halo = tuple[int, int, int, int]


class Case(NamedTuple):
    """``[I, H, W]`` spread by ``[I, C, KH, KW]``; ``size`` makes it a gradient."""

    g: tuple[int, int, int]
    w: tuple[int, int, int, int]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    size: Pair | None = None
    bias: bool = False


class PackedRun(KernelRun):
    """With weights in the order that the kernel reads, NaN around them."""

    def __init__(
        self,
        group: Group,
        layouts: Mapping[Value, Layout],
        target: Target,
        emit: Callable[[Operands], None],
    ) -> None:
        self.packs: dict[Value, Pack] = {}

        def noting(operands: Operands) -> None:
            emit(operands)
            self.packs = {s.value: s.pack for s in operands.sources if s.pack}

        super().__init__(group, layouts, target, noting)

    def memory(
        self, value: Value, images: int, arrays: Mapping[Value, np.ndarray]
    ) -> np.ndarray:
        """A convolution's input has zeros in its halo."""
        pack = self.packs.get(value)
        if pack is None:
            memory = super().memory(value, images, arrays)
            layout = self.layouts[value]
            if any(layout.halo) and value is not self.output:
                self.inside(value, memory, images, layout.halo)[...] = 0
                self.inside(value, memory, images)[...] = arrays[value]
            return memory
        (packed,) = pack_all([(arrays[value], asdict(pack))])
        guard = np.full(GUARD, np.nan, packed.dtype)
        return np.concatenate([guard, packed, guard])


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def anchor_of(case: Case, dtype: str) -> tuple[Node, dict[Value, np.ndarray]]:
    """The op's node on arrays of random numbers."""
    arrays = [
        normal(IMAGES, *case.g, dtype=dtype),
        normal(*case.w, seed=1, dtype=dtype),
    ]
    if case.bias:
        arrays.append(normal(case.w[1], seed=2, dtype=dtype))
    values = [value_of(a, batched=k == 0) for k, a in enumerate(arrays)]
    attrs = {"stride": case.stride, "dilation": case.dilation, "groups": 1}
    if case.size:
        attrs |= {"origin": case.padding, "input_size": case.size}
        anchor = node("conv2d_input_grad", *values, **attrs)
    else:
        attrs |= {"padding": case.padding, "output_padding": case.output_padding}
        anchor = node("conv_transpose2d", *values, **attrs)
    return anchor, dict(zip(values, arrays, strict=True))


def with_reference(anchor: Node, arrays) -> tuple[np.ndarray, np.ndarray, int]:
    """The result in float64, the sum of its products' sizes, and their number."""
    inputs = [arrays[value].astype("float64") for value in anchor.inputs]
    reference = get_op(anchor.op).reference
    size = reference(*map(np.abs, inputs), **anchor.attrs)
    terms = inputs[1].shape[0] * int(np.prod(inputs[1].shape[2:]))
    return reference(*inputs, **anchor.attrs), size, terms


def check(
    anchor: Node,
    arrays: Mapping[Value, np.ndarray],
    emitter: Callable[..., Callable[[Operands], None]],
    target: Target,
    chain: Sequence[Node] = (),
    extra: Mapping[Value, np.ndarray] | None = None,
    halo: Halo = NO_HALO,
    x: Layout | None = None,
) -> None:
    """``chain`` are pointwise nodes behind the anchor, ``extra`` their operands.

    ``halo`` surrounds the result; ``x`` is the input's layout.
    """
    extra = extra or {}
    group = Group(anchor, tuple(chain))
    layouts = {value: row_major(value.type) for value in (*arrays, *extra)}
    for value in extra:
        if value.type.ndim == 4 and value.type.has_batch:
            layouts[value] = channels_last(value.type, NO_HALO)
    source = anchor.inputs[0]
    layouts[source] = x or channels_last(source.type, needed_halo(anchor))
    layouts[group.output] = channels_last(group.output.type, halo)
    run = PackedRun(group, layouts, target, emitter(group, layouts, target))
    result = run({**arrays, **extra}, IMAGES, 2)
    expected, size, terms = with_reference(anchor, arrays)
    known = {anchor.output: expected}
    known |= {value: array.astype("float64") for value, array in extra.items()}
    for step in chain:
        inputs = [known[value] for value in step.inputs]
        known[step.output] = get_op(step.op).reference(*inputs, **step.attrs)
        size = size + sum(map(np.abs, inputs))
    assert_close(result, known[group.output], np.maximum(size, 1.0), terms)

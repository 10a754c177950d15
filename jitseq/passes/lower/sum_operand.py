"""What a sum adds up: the elements of a tensor, or a pointwise chain on several.

Invariant: all operands of the full type lie alike in memory, so that one position
serves them all; every other operand has a value for each channel, or one for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitseq.ir.graph import Value
from jitseq.ir.layout import element_count
from jitseq.ir.program import Affine, Buffer, Reg, Type
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import Epilogue, Operands

Load = Callable[[Affine, Type, int | None], Reg]
"""``(position, type, valid lanes)`` -> elements."""


class SumOperand:
    """Elements of a group's operand, by their position in memory."""

    def __init__(self, group: Group, operands: Operands) -> None:
        assert group.anchor is not None
        self.operands = operands
        self.builder = operands.builder
        self.nodes = group.prologue
        self.result = group.anchor.inputs[0]
        made = {value for node in self.nodes for value in node.outputs}
        read = [value for node in self.nodes for value in node.inputs]
        outside = dict.fromkeys(value for value in read if value not in made)
        type = self.result.type
        self.full = [value for value in outside if value.type == type]
        self.small = [value for value in outside if value.type != type]
        if not self.nodes:
            self.full = [self.result]
        self.layout = operands.layouts[self.full[0]]
        self.buffers: dict[Value, Buffer] = {v: operands.read(v) for v in self.full}

    @property
    def element(self) -> str:
        return self.buffers[self.full[0]].element

    def channel(self, index: Affine, type: Type, valid: int | None) -> Load:
        """A loader for the channels from ``index``, whose small operands are loaded."""
        if not self.nodes:
            buffer = self.buffers[self.result]
            return lambda at, type, valid: self.builder.load(buffer, at, type, valid)
        known = {value: self._small(value, index, type, valid) for value in self.small}
        epilogue = Epilogue(self.builder, self.nodes)

        def load(at: Affine, type: Type, valid: int | None) -> Reg:
            def fetch(value: Value, shape: Sequence[object]) -> Reg:
                move = self.operands.layouts[value].offset - self.layout.offset
                return self.builder.load(self.buffers[value], at + move, type, valid)

            return epilogue.apply(known, type, fetch)

        return load

    def _small(self, value: Value, index: Affine, type: Type, valid: int | None) -> Reg:
        if element_count(value.type) == 1:
            return self.operands.load(value, Affine(), type, 0, valid)
        return self.operands.load(value, index, type, 1, valid)

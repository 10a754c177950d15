"""Contractions with few output channels → kernels with vectors along the reduction.

With one to three outputs a vector of output channels would be mostly empty. Here the
vectors run along the (contiguous) input channels; lanes are summed at the end.
"""

from __future__ import annotations

from jitseq.ir.program import Affine, Reg, Type, affine
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import Group
from jitseq.passes.lower.operands import (
    Operands,
    Pack,
    Position,
    apply_chain,
    store_at,
)
from jitseq.passes.lower.problem import Problem, static_phase

MOST_OUTPUTS = 3
UNROLLED_CHUNKS = 4


def suits_dot(problem: Problem, group: Group, lanes: int) -> bool:
    """Few outputs, a contiguous reduction of at least a vector, whole images read."""
    if group.pool is not None or problem.groups > 1 or len(problem.reduce) > 1:
        return False
    extent, stride = problem.reduce[0]
    few = bool(problem.phase.taps) and problem.group_outputs <= min(
        MOST_OUTPUTS, lanes // 4
    )
    in_bounds = not static_phase(problem.phase, problem.size)
    return few and stride == 1 and extent >= lanes and in_bounds


class DotEmitter:
    """Emits one phase: a loop over outputs, a reduction for each."""

    def __init__(
        self,
        operands: Operands,
        target: Target,
        problem: Problem,
        group: Group,
    ) -> None:
        self.b = operands.builder
        self.operands = operands
        self.p = problem
        self.group = group
        assert group.anchor is not None
        x, weight, *bias = group.anchor.inputs
        self.source = operands.read(x)
        self.lanes = target.lanes(self.source.element)
        self.type = Type(self.source.element, self.lanes)
        self.scalar = Type(self.source.element)
        self.extent = problem.reduce[0][0]
        self.padded = -(-self.extent // self.lanes) * self.lanes
        taps = tuple((tap.ky, tap.kx) for tap in problem.phase.taps)
        pack = Pack(
            "rows",
            axes=problem.weight_axes,
            lanes=self.lanes,
            taps=taps,
            channels=problem.channels,
        )
        self.weights = operands.packed(weight, pack)
        self.bias = operands.packed(bias[0], Pack("lanes", lanes=1)) if bias else None

    def emit(self) -> None:
        rows, columns = self.p.phase.count
        self.b.nest(("n", "y", "x"), (self.p.images, rows, columns), self._outputs)

    def _outputs(self, n: Affine, y: Affine, x: Affine) -> None:
        source = self.p.source
        stride_y, stride_x = self.p.phase.stride
        base = n * source.image + y * (stride_y * source.row) + source.offset
        base = base + x * (stride_x * source.column)
        outputs = range(self.p.group_outputs)
        sums: tuple[Reg, ...] = (self.b.const(0.0, self.type),) * len(outputs)
        for t, tap in enumerate(self.p.phase.taps):
            at = base + (tap.dy * source.row + tap.dx * source.column)
            sums = self._channels(at, t * self.padded, sums)
        for o in outputs:
            total = self.b.reduce("add", sums[o])
            if self.bias:
                total = self.b.binary(
                    "add", total, self.b.load(self.bias, o, self.scalar)
                )
            self._store(n, y, x, o, total)

    def _channels(self, at: Affine, tap: int, sums: tuple[Reg, ...]) -> tuple[Reg, ...]:
        row = len(self.p.phase.taps) * self.padded
        whole = self.extent // self.lanes * self.lanes

        def body(
            i: Affine, sums: tuple[Reg, ...], valid: int | None = None
        ) -> tuple[Reg, ...]:
            a = self.b.load(self.source, at + i, self.type, valid)
            weights = [
                self.b.load(self.weights, i + (tap + o * row), self.type)
                for o in range(len(sums))
            ]
            return tuple(
                self.b.fma(a, w, s) for w, s in zip(weights, sums, strict=True)
            )

        sums = self._wide(whole, sums, body)
        if self.extent > whole:
            sums = body(affine(whole), sums, self.extent - whole)
        return sums

    def _wide(self, whole: int, sums: tuple[Reg, ...], body: object) -> tuple[Reg, ...]:
        """Several vectors at a time, in sums of their own, hide the FMA's latency."""
        step = self.lanes * UNROLLED_CHUNKS
        outputs = len(sums)
        blocks = whole // step * step
        if blocks > step:
            zero = self.b.const(0.0, self.type)
            many = sums + (zero,) * (outputs * (UNROLLED_CHUNKS - 1))

            def block(i: Affine, regs: tuple[Reg, ...]) -> tuple[Reg, ...]:
                parts: tuple[Reg, ...] = ()
                for k in range(UNROLLED_CHUNKS):
                    part = regs[k * outputs : (k + 1) * outputs]
                    parts += body(i + k * self.lanes, part)  # type: ignore[operator]
                return parts

            many = self.b.fold("i", 0, blocks, step, many, block)
            while len(many) > outputs:
                half = len(many) // 2
                pairs = zip(many[:half], many[half:], strict=True)
                many = tuple(self.b.binary("add", a, b) for a, b in pairs)
            sums = many
        else:
            blocks = 0
        return self.b.fold("i", blocks, whole, self.lanes, sums, body)  # type: ignore[arg-type]

    def _store(self, n: Affine, y: Affine, x: Affine, o: int, reg: Reg) -> None:
        phase, group = self.p.phase, self.group
        y, x = y * phase.step[0] + phase.start[0], x * phase.step[1] + phase.start[1]
        names = {"n": n, "y": y, "x": x, "c": affine(o)}
        dims = self.p.position_dims
        at = Position(tuple(names[d] for d in dims), dims.index("c"))
        reg = apply_chain(self.operands, group.inner, group.anchor_output, reg, at)
        store_at(self.operands, group.output, reg, at)

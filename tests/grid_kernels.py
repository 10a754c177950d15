"""Hand-made groups on arrays: their kernels in the interpreter of grids, and float64.

A `Case` holds inputs and the nodes that read them. Kernels run one after the other on
memory that starts as NaN (255 for integers); all that they wrote leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from native_graph import Nodes, by_references

from jitseq.codegen.reference_grid import run_kernel
from jitseq.ir.graph import Graph, Value
from jitseq.ir.target import GridTarget
from jitseq.ir.types import BATCH, TensorType
from jitseq.passes.fusion_group import FusedGraph
from jitseq.passes.grid.lowered import GridKernel, Scope


class Case:
    """Arrays of normal numbers and values of their types.

    The first ``batched`` ones, and those of ``more_batched``, have a symbolic batch.
    ``whole`` numbers are between -2 and 2.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        batched: int,
        dtype: str = "float32",
        more_batched: Sequence[int] = (),
        whole: bool = False,
    ) -> None:
        rng = np.random.default_rng(0)
        self.arrays = [
            (rng.integers(-2, 3, s) if whole else rng.normal(size=s)).astype(dtype)
            for s in shapes
        ]
        self.images = shapes[0][0]
        self.values = []
        for i, shape in enumerate(shapes):
            has_batch = i < batched or i in more_batched
            dims = (BATCH, *shape[1:]) if has_batch else shape
            self.values.append(Value(TensorType(dtype, dims), f"x{i}"))
        self.emit = Nodes()

    def graph(self, outputs: Sequence[Value] = ()) -> Graph:
        return Graph(tuple(self.values), (), tuple(self.emit.nodes), tuple(outputs))

    def scope(self, target: GridTarget) -> Scope:
        """What kernels of the case's nodes are made in."""
        fused = FusedGraph(self.graph(), (), (), frozenset(), {}, {})
        return Scope(fused, target)

    def references(
        self, outputs: Sequence[Value]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Values in float64, and those of the inputs' magnitudes."""
        graph = self.graph(outputs)
        wide = [array.astype(np.float64) for array in self.arrays]
        return (
            by_references(graph, wide, {}),
            by_references(graph, [np.abs(array) for array in wide], {}),
        )


def run_kernels(kernels: Sequence[GridKernel], case: Case) -> dict[Value, np.ndarray]:
    """All values that the kernels read and wrote."""
    memory = dict(zip(case.values, map(np.copy, case.arrays), strict=True))
    for kernel in kernels:
        for source in kernel.sources:
            if source.value not in memory:
                memory[source.value] = _unwritten(source.value.type, case.images)
        arrays = [memory[source.value].reshape(-1) for source in kernel.sources]
        count = case.images if kernel.count is None else kernel.count
        run_kernel(kernel.kernel, arrays, count, kernel.launch, case.images)
    return memory


def _unwritten(type: TensorType, images: int) -> np.ndarray:
    shape = (images, *type.inner_shape) if type.has_batch else type.shape
    dtype = np.dtype(type.dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else 255, dtype)

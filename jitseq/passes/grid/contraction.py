"""Convolution, transposed convolution and linear layers as grids of threads.

A group with a `Contraction` enters; kernels leave. It is a matrix product whose
lines are pixels of all images, whose columns are output channels and whose products
are (input channel, kernel row, kernel column), computed in tiles (`tiled`); where few
images leave large tiles few blocks, the tiles are smaller. Groups of few channels are
summed by a thread for each output (`direct`), linear layers of few images by a warp for
each (`small_batch`). Invariant: the kernels that run for a number of images store each
element of the group's outputs once.
"""

from __future__ import annotations

from collections.abc import Callable

from jitseq.ir.compute import Contraction
from jitseq.ir.target import GridTarget
from jitseq.passes.fusion_group import Group
from jitseq.passes.grid.direct import lower_direct, suits_direct
from jitseq.passes.grid.index import Problem, problems
from jitseq.passes.grid.lowered import GridKernel, Scope
from jitseq.passes.grid.small_batch import few_images, lower_small_batch
from jitseq.passes.grid.tile import choose_shape, finer
from jitseq.passes.grid.tiled import TiledKernel

LONG_SUM = 256
"""Products of an output from which on a block takes so long that it is worth a kernel
of its own to have more of them, where there are few."""

FULL = 128
"""Blocks that keep all processors of a device busy. Both numbers are estimates."""

Images = tuple[int, int | None]
"""The least and the most images for which a kernel runs."""


def lower_contraction(
    group: Group, record: Contraction, scope: Scope
) -> list[GridKernel]:
    """The kernels of a contraction, at least one for its phases of each size.

    Those of several phases write interleaved elements of the same outputs. Several
    kernels of the same phases run for different numbers of images.
    """
    found = problems(record, group)
    if len(found) == 1:
        return _lower_phases(group, found[0], scope, "", None)
    return [
        kernel
        for number, problem in enumerate(found)
        for kernel in _lower_phases(
            group, problem, scope, f"phase{number}", problem.flops
        )
    ]


def _lower_phases(
    group: Group, problem: Problem, scope: Scope, phase: str, cost: int | None
) -> list[GridKernel]:
    """Kernels of phases, of which one runs for each number of images."""
    if suits_direct(problem):
        return [lower_direct(group, problem, scope, phase, cost)]

    def small_batch(images: Images) -> GridKernel:
        return lower_small_batch(group, problem, scope, images)

    def tiles(images: Images, target: GridTarget, suffix: str) -> GridKernel:
        kernel = TiledKernel(group, problem, scope, target)
        kernel.emit()
        operands, launch = kernel.operands, kernel.launch
        return scope.finish(group, operands, launch, suffix, images=images, cost=cost)

    def fine_tiles(images: Images) -> GridKernel:
        suffix = f"{phase}_fine" if phase else "fine"
        return tiles(images, finer(scope.target), suffix)

    def large_tiles(images: Images) -> GridKernel:
        return tiles(images, scope.target, phase)

    choices: tuple[tuple[int | None, Callable[[Images], GridKernel]], ...] = (
        (few_images(problem), small_batch),
        (_some_images(problem, scope.target), fine_tiles),
        (None, large_tiles),
    )
    kernels, least, fixed = [], 1, problem.images
    for most, lower in choices:
        if most is not None and most < least:
            continue
        if fixed is None:
            kernels.append(lower((least, most)))
        elif least <= fixed and (most is None or fixed <= most):
            kernels.append(lower((1, None)))
        least = (most or 0) + 1
    return kernels


def _some_images(problem: Problem, target: GridTarget) -> int:
    """The most images whose tiles leave processors idle while sums are long."""
    if problem.products < LONG_SUM:
        return 0
    shape = choose_shape(target, problem.outputs, problem.products, problem.window_size)
    columns = -(-problem.outputs // shape.block_columns) * problem.groups
    lines = problem.pixels_of_image * problem.window_size * len(problem.phases)
    return (FULL - 1) * shape.lines // (lines * columns)

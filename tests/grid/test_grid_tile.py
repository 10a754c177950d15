"""Tiles of matrix products on grids: shapes for every size, panels in shared memory."""

from __future__ import annotations

import numpy as np
from grid_graph import LARGE, SMALL

from jitseq.ir.program import ELEMENT_BYTES
from jitseq.passes.grid.panel import Panel
from jitseq.passes.grid.tile import (
    TileShape,
    choose_matrix_shape,
    choose_shape,
    finer,
)

COLUMNS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 33, 64, 65, 80, 128, 1000)
SHAPES = [
    *(
        choose_shape(target, columns, products, window)
        for target in (LARGE, finer(LARGE))
        for columns in COLUMNS
        for products in (1, 9, 25, 576)
        for window in (1, 2, 3, 4, 6, 9, 16)
    ),
    *(
        choose_matrix_shape(LARGE, lines, columns)
        for lines in (1, 9, 25, 75, 288, 4608)
        for columns in COLUMNS
    ),
]


def panels(shape: TileShape) -> list[Panel]:
    return [
        Panel(lines, shape.depth, shape.threads, LARGE.warp, along)
        for lines in (shape.lines, shape.block_columns)
        for along in (False, True)
    ]


def test_panels_fit_shared_memory() -> None:
    for shape in SHAPES:
        largest = sum(panel.size for panel in panels(shape)[1::2])
        assert largest * ELEMENT_BYTES["f64"] <= LARGE.shared_bytes, shape


def test_threads_of_a_warp_store_to_different_banks() -> None:
    for panel in {panel for shape in SHAPES for panel in panels(shape)}:
        threads = np.arange(panel.threads)
        low, high = threads % panel.width, threads // panel.width
        line, product = (high, low) if panel.along_products else (low, high)
        banks = (product * panel.stride + line) % LARGE.warp
        whole = panel.threads // LARGE.warp * LARGE.warp
        for warp in banks[:whole].reshape(-1, LARGE.warp):
            assert len(set(warp)) == LARGE.warp, panel


def test_threads_hold_whole_windows() -> None:
    for window in range(1, 17):
        for target in (SMALL, finer(SMALL), LARGE, finer(LARGE)):
            for columns in COLUMNS:
                shape = choose_shape(target, columns, 99, window)
                assert shape.rows % window == 0
                assert shape.threads % target.warp == 0


def test_finer_tiles_have_as_many_threads() -> None:
    for target in (SMALL, LARGE):
        lines, columns = target.tile
        fine = finer(target)
        assert fine.tile[0] * fine.tile[1] < lines * columns
        assert (
            choose_shape(fine, 512, 512).threads
            == choose_shape(target, 512, 512).threads
        )

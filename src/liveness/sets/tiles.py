"""The product of two large matrices tile by tile: memory does not grow with the number of rows."""

from collections.abc import Iterator

import numpy as np

from liveness.base.machine import all_cores_for_matrices

TILE = 2048  # rows that are compared with as many others at a time


def multiply_tiles(rows: np.ndarray, others: np.ndarray, upper: bool = False) -> Iterator[tuple[int, int, np.ndarray]]:
    """(top, left, rows[top:top + TILE] @ others[left:left + TILE].T) for every tile, all cores at each.

    rows: n x d, others: m x d; ``upper``: only the tiles on and above the diagonal.
    """
    for top in range(0, len(rows), TILE):
        for left in range(top if upper else 0, len(others), TILE):
            with all_cores_for_matrices():
                product = rows[top : top + TILE] @ others[left : left + TILE].T
            yield top, left, product

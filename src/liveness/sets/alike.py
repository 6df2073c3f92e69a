"""Embeddings that are alike, among up to millions: the pairs, and average linkage without a matrix of all pairs.

Up to EXACT_MOST vectors every pair is looked at (sets/tiles.py). Beyond, an inverted-file index of faiss (the extra
``scale``) looks for each vector's neighbours among the vectors of the NEAREST cells, and may miss a few; without faiss
every pair is looked at all the same, and a note says what that takes.
"""

from __future__ import annotations

import heapq
import importlib.util
import sys

import numpy as np

from liveness.base.machine import cores
from liveness.sets.tiles import multiply_tiles

EXACT_MOST = 20_000  # vectors
NEAREST = 32  # cells that are looked through; docs/preparation.md has what that misses
_AT_ONCE = 10_000  # vectors that the index looks for at a time
_TRAINED_ON = 64  # vectors for each cell
_PAIRS_A_SECOND = 5e7  # of 128 numbers, measured on one core: for the note

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def find_alike(vectors: np.ndarray, similarity: float) -> Pairs:
    """(one, other, value) with one < other of all pairs of unit vectors whose product is at least ``similarity``."""
    if len(vectors) > EXACT_MOST and importlib.util.find_spec("faiss"):
        found = _ask_index(vectors, similarity)
    else:
        if len(vectors) > EXACT_MOST:
            _note_pairs(len(vectors))
        found = _look_at_all(vectors, similarity)
    one, other, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((other, one))
    return one[order], other[order], values[order]


def _note_pairs(count: int) -> None:
    minutes = count**2 / 2 / _PAIRS_A_SECOND / cores() / 60
    print(
        f"note: {count} embeddings are compared pair by pair, which takes about {minutes:.0f} minutes here; with an "
        'index it takes far less: pip install "liveness[scale]"',
        file=sys.stderr,
        flush=True,
    )


def _look_at_all(vectors: np.ndarray, similarity: float) -> list[Pairs]:
    found = [_nothing()]
    for top, left, alike in multiply_tiles(vectors, vectors, upper=True):
        rows, columns = np.nonzero(alike >= similarity)
        keep = rows + top < columns + left
        rows, columns = rows[keep], columns[keep]
        found.append((rows + top, columns + left, alike[rows, columns]))
    return found


def _ask_index(vectors: np.ndarray, similarity: float) -> list[Pairs]:
    import faiss

    count, width = vectors.shape
    cells = int(4 * count**0.5)
    short = np.ascontiguousarray(vectors, dtype=np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 1, _TRAINED_ON
    faiss.omp_set_num_threads(1)  # equal sums, so equal cells, whatever the machine
    index.train(short)
    faiss.omp_set_num_threads(cores())
    index.add(short)
    index.nprobe = NEAREST
    found = [_nothing()]
    for start in range(0, count, _AT_ONCE):
        ends, _, there = index.range_search(short[start : start + _AT_ONCE], similarity - 1e-4)
        one, other = np.repeat(np.arange(start, start + len(ends) - 1), np.diff(ends).astype(int)), there
        one, other = np.minimum(one, other), np.maximum(one, other)  # the one may find the other, and not it the one
        keep = one < other
        one, other = one[keep], other[keep]
        values = np.einsum("ij,ij->i", vectors[one], vectors[other])
        keep = values >= similarity
        found.append((one[keep], other[keep], values[keep]))
    one, other, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    kept = np.unique(one * count + other, return_index=True)[1]
    return [(one[kept], other[kept], values[kept])]


def _nothing() -> Pairs:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)


def merge_alike(vectors: np.ndarray, pairs: Pairs, similarity: float) -> list[tuple[int, int, float]]:
    """Average linkage of unit vectors down to ``similarity``: its merges, the most alike first: (a, b, mean).

    a, b: clusters by their first vector, a < b; the mean is that of the similarities of all pairs between them, which
    is the product of their mean vectors. ``pairs``: ``find_alike`` at ``similarity``. Clusters without such a pair
    between them have a lower mean, so that only clusters which a pair connects are compared: exact if no pair is
    missing.
    """
    sums, sizes = vectors.astype(np.float64), np.ones(len(vectors))
    near: dict[int, dict[int, float]] = {}
    heap = []
    for a, b, value in zip(*(part.tolist() for part in pairs), strict=True):
        near.setdefault(a, {})[b] = near.setdefault(b, {})[a] = value
        heap.append((-value, a, b))
    heapq.heapify(heap)
    merges = []
    while heap:
        mean, a, b = heapq.heappop(heap)
        if near.get(a, {}).get(b) != -mean:
            continue  # one of them is another cluster by now
        merges.append((a, b, -mean))
        others = sorted((near.pop(a).keys() | near.pop(b).keys()) - {a, b})
        sums[a] += sums[b]
        sizes[a] += sizes[b]
        means = sums[others] @ sums[a] / (sizes[others] * sizes[a])
        near[a] = {}
        for other, value in zip(others, means.tolist(), strict=True):
            near[other].pop(a, None)
            near[other].pop(b, None)
            if value >= similarity:
                near[a][other] = near[other][a] = value
                heapq.heappush(heap, (-value, min(a, other), max(a, other)))
    return merges

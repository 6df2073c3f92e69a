"""Who is the same person, by face embeddings: the user's own, or those of sets/embedding.py.

Reads the csv that ``folds.embeddings`` names, or data/<set>/embeddings.csv: a header, the column filename (a video's
name with or without its ending), then numbers; every row is an embedding of one face of that video. Several rows of
one video (its frames) are averaged as unit vectors. Writes nothing.

The user's own (``find_links``): two videos show one person when the cosine similarity of their embeddings is at least
``folds.embedding_similarity``, and whoever is linked to one of a cluster joins it. Since links chain,
the threshold is to be stricter than for verifying one pair: at one false match in 1,000 pairs, a
set of 1,000 videos has some 500 false links, enough to make one cluster of all. 0.5 lies above what
common models state for verification (0.36 for OpenCV's SFace). Look at the weakest links listed.

folds.identities=auto (``link_persons``): average linkage. Two clusters become one person while the mean similarity of
all pairs between them is at least ``folds.identity_similarity``, the most alike first; a few pairs of strangers
that look alike then join nobody.

Both ways look at every pair of up to EXACT_MOST embeddings, and use an index beyond (sets/alike.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.base.names import Names
from liveness.base.tables import list_places, read_parts, read_table
from liveness.sets.alike import EXACT_MOST, find_alike, merge_alike
from liveness.sets.tiles import multiply_tiles

if TYPE_CHECKING:
    from scipy.sparse import coo_matrix

_ROUNDING = 1e-9  # of a mean similarity
EMBEDDINGS = "embeddings.csv"  # in data/<set>, by folds.identities=auto
MADE_FROM = "made_from"  # its column of digests, beside the numbers


@dataclass(frozen=True)
class Link:
    """Two videos of one person by their embeddings' cosine similarity."""

    one: str
    other: str
    similarity: float


@dataclass(frozen=True)
class Merge:
    """Two clusters that average linkage joins, or would join next; ``one``, ``other``: their most alike videos."""

    one: str
    other: str
    similarity: float  # mean over all pairs of their videos
    joined: bool


@dataclass
class Embeddings:
    """``vectors`` (videos x numbers, of length 1) of ``filenames``."""

    path: Path
    filenames: list[str]
    vectors: np.ndarray


def embeddings_path(identities: str, embeddings: str, folder: Path) -> Path | None:
    """The file that the two settings of folds name for the set in ``folder``, there or not; None for none."""
    if identities:
        return folder / EMBEDDINGS
    return (
        next((place for place in list_places(embeddings) if place.is_file()), Path(embeddings)) if embeddings else None
    )


def read_embeddings(path: Path, filenames: list[str], also: Iterable[str] = ()) -> Embeddings:
    """The embeddings of a set's videos, in the set's order.

    A UserError for a file that is none, and for names that are neither in the set nor in ``also`` (videos
    beside it, whose embeddings are not used).
    """
    named, parts = [], []
    for table in read_parts(path, ["filename"]):
        columns = [column for column in table.columns if column not in ("filename", MADE_FROM)]
        if not columns:
            break
        if table.empty:
            continue
        if table.columns.duplicated().any():
            raise UserError(f"{path}: a column is there twice; expected filename, then numbered columns")
        numbers = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        lengths = np.linalg.norm(numbers, axis=1)
        bad = ~np.isfinite(lengths) | (lengths == 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(
                f"{path}, line {table.index[row]}: not an embedding of {table['filename'].iloc[row]!r}; "
                f"expected {len(columns)} finite numbers, not all of them 0"
            )
        named.append(table["filename"])
        parts.append(numbers / lengths[:, None])
    if not parts:
        raise UserError(f"{path}: expected the column filename, then columns of numbers, and a row per video")
    listed = pd.concat(named, ignore_index=True)
    known = Names(filenames)
    known.require(listed, path, also)
    names = listed.map(lambda name: known.get(name) or "")
    means = pd.DataFrame(np.concatenate(parts)).groupby(names.to_numpy()).mean()
    found = [filename for filename in filenames if filename in means.index]
    if not found:
        raise UserError(f"{path}: names no video of the set but only such as its label file leaves out")
    vectors = means.loc[found].to_numpy()
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(path, found, vectors / np.maximum(size, 1e-12))


def recheck_links(embeddings: Embeddings, listed: Path, similarity: float) -> list[Link]:
    """The links of an identities.csv with their similarity by ``embeddings``, those below the threshold left out.

    For checking a set whose links came from an index, which may find others on another machine.
    """
    table = read_table(listed, ["filename", "other"])
    place = pd.Index(embeddings.filenames)
    one, other = place.get_indexer(table["filename"]), place.get_indexer(table["other"])
    known = (one >= 0) & (other >= 0)
    one, other = one[known], other[known]
    values = np.einsum("ij,ij->i", embeddings.vectors[one], embeddings.vectors[other])
    names = embeddings.filenames
    return [
        Link(names[i], names[k], round(float(value), 4))
        for i, k, value in zip(one, other, values, strict=True)
        if value >= similarity - _ROUNDING
    ]


def find_links(embeddings: Embeddings, similarity: float) -> list[Link]:
    """What holds the clusters of persons together: for each the strongest links that connect it.

    A maximum spanning forest of the pairs of at least ``similarity``: one link less than a cluster
    has videos, so the list stays short and its weakest links are the ones to doubt. In the order of
    the set.
    """
    if len(embeddings.vectors) > EXACT_MOST:
        tree = _thin(*find_alike(embeddings.vectors, similarity), len(embeddings.vectors))
    else:
        tree = _span(embeddings.vectors, similarity)
    return _as_links(embeddings.filenames, tree)


def link_persons(embeddings: Embeddings, similarity: float) -> list[Link]:
    """``find_links`` of each cluster of average linkage by itself: the strongest links that connect it."""
    from scipy.cluster.hierarchy import fcluster

    links = []
    similarity -= _ROUNDING
    if len(embeddings.vectors) > EXACT_MOST:
        return _link_many(embeddings, similarity)
    for rows, tree in _cluster(embeddings.vectors, similarity):
        person = fcluster(tree, 1 - similarity, "distance")
        for number in np.unique(person):
            part = rows[person == number]
            names = [embeddings.filenames[row] for row in part]
            links += find_links(Embeddings(embeddings.path, names, embeddings.vectors[part]), similarity)
    place = {name: i for i, name in enumerate(embeddings.filenames)}
    return sorted(links, key=lambda link: (place[link.one], place[link.other]))


def list_merges(embeddings: Embeddings, similarity: float, margin: float) -> list[Merge]:
    """The joins of average linkage whose similarity is within ``margin`` of the threshold, the highest first."""
    if len(embeddings.vectors) > EXACT_MOST:
        return _list_among_many(embeddings, similarity, margin)
    merges = []
    for rows, tree in _cluster(embeddings.vectors, similarity - margin):
        members = {i: [row] for i, row in enumerate(rows)}
        for step, (one, other, distance, _) in enumerate(tree):
            left, right = members[int(one)], members[int(other)]
            members[len(rows) + step] = left + right
            mean = 1 - distance
            if abs(mean - similarity) <= margin:
                alike = embeddings.vectors[left] @ embeddings.vectors[right].T
                i, k = np.unravel_index(int(alike.argmax()), alike.shape)
                first, second = (embeddings.filenames[row] for row in sorted((left[i], right[k])))
                merges.append(Merge(first, second, round(float(mean), 4), bool(mean >= similarity - _ROUNDING)))
    return sorted(merges, key=lambda merge: (-merge.similarity, merge.one, merge.other))


def _link_many(embeddings: Embeddings, similarity: float) -> list[Link]:
    """``link_persons`` of many embeddings: the pairs are looked for once, and no matrix is made."""
    pairs = find_alike(embeddings.vectors, similarity)
    person = _follow(merge_alike(embeddings.vectors, pairs, similarity), len(embeddings.vectors))
    inside = person[pairs[0]] == person[pairs[1]]
    one, other, value = (part[inside] for part in pairs)
    return _as_links(embeddings.filenames, _thin(one, other, value, len(person)))


def _list_among_many(embeddings: Embeddings, similarity: float, margin: float) -> list[Merge]:
    """``list_merges`` of many embeddings; ``one`` and ``other`` of a merge are the first videos of its clusters."""
    names, least = embeddings.filenames, similarity - margin
    steps = merge_alike(embeddings.vectors, find_alike(embeddings.vectors, least), least)
    near = [step for step in steps if abs(step[2] - similarity) <= margin]
    return [Merge(names[a], names[b], round(mean, 4), mean >= similarity - _ROUNDING) for a, b, mean in near]


def _follow(merges: list[tuple[int, int, float]], count: int) -> np.ndarray:
    """The cluster of each of ``count`` vectors after the merges, by its first one."""
    cluster = np.arange(count)
    for a, b, _ in reversed(merges):  # the last first: where ``a`` ends is known by then
        cluster[b] = cluster[a]
    return cluster


def _thin(one: np.ndarray, other: np.ndarray, value: np.ndarray, count: int) -> coo_matrix:
    """A maximum spanning forest of pairs; an edge's value is 2 - its similarity."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    return minimum_spanning_tree(coo_matrix((2 - value, (one, other)), shape=(count, count)).tocsr()).tocoo()


def _as_links(names: list[str], tree: coo_matrix) -> list[Link]:
    links = sorted(zip(*(np.minimum(tree.row, tree.col), np.maximum(tree.row, tree.col), 2 - tree.data), strict=True))
    return [Link(names[i], names[k], round(float(value), 4)) for i, k, value in links]


def _cluster(vectors: np.ndarray, similarity: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Average linkage (UPGMA) of unit vectors, in parts: the rows of each, and its merges as scipy's linkage has them.

    A part is what pairs of at least ``similarity`` connect. Clusters of two parts have no such pair, so their mean is
    below it: down to ``similarity`` the merges are those of all rows at once. A row without any such pair is in none.
    Memory: 16 bytes for each pair of a part.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import squareform

    part = connected_components(_span(vectors, similarity), directed=False)[1]
    order = np.argsort(part, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
        if len(rows) > 1:
            distances = np.maximum(1 - vectors[rows] @ vectors[rows].T, 0)
            yield rows, linkage(squareform(distances, checks=False), "average")


def _span(vectors: np.ndarray, similarity: float) -> coo_matrix:
    """A maximum spanning forest of the pairs of at least ``similarity``; an edge's value is 2 - its similarity."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = coo_matrix((len(vectors), len(vectors)))
    for top, left, alike in multiply_tiles(vectors, vectors, upper=True):
        rows, columns = np.nonzero(alike >= similarity)
        rows, columns, values = rows + top, columns + left, alike[rows, columns]
        upper = rows < columns
        # Distances from 1 to 3: none is 0, which would mean "no link". Of what is known so far
        # only the forest is kept: a tile's links cannot make another link of it stronger.
        step = coo_matrix((2 - values[upper], (rows[upper], columns[upper])), shape=tree.shape)
        tree = minimum_spanning_tree((tree + step).tocsr()).tocoo()
    return tree

"""Who is the same person, by face embeddings that the user has made.

Reads the csv that ``folds.embeddings`` names: a header, the column filename (a video's name with or
without its ending), then numbers; every row is an embedding of one face of that video. Several rows of
one video (its frames) are averaged as unit vectors. Writes nothing.

Two videos show one person when the cosine similarity of their embeddings is at least
``folds.embedding_similarity``, and whoever is linked to one of a cluster joins it. Since links chain,
the threshold is to be stricter than for verifying one pair: at one false match in 1,000 pairs, a
set of 1,000 videos has some 500 false links, enough to make one cluster of all. 0.5 lies above what
common models state for verification (0.36 for OpenCV's SFace). Look at the weakest links listed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.base.names import Names
from liveness.base.tables import read_table
from liveness.sets.tiles import multiply_tiles


@dataclass(frozen=True)
class Link:
    """Two videos of one person by their embeddings' cosine similarity."""

    one: str
    other: str
    similarity: float


@dataclass
class Embeddings:
    """``vectors`` (videos x numbers, of length 1) of ``filenames``."""

    path: Path
    filenames: list[str]
    vectors: np.ndarray


def read_embeddings(path: Path, filenames: list[str], also: Iterable[str] = ()) -> Embeddings:
    """The embeddings of a set's videos, in the set's order.

    A UserError for a file that is none, and for names that are neither in the set nor in ``also`` (videos
    beside it, whose embeddings are not used).
    """
    table = read_table(path, ["filename"])
    columns = [column for column in table.columns if column != "filename"]
    if not columns or table.empty:
        raise UserError(f"{path}: expected the column filename, then columns of numbers, and a row per video")
    if table.columns.duplicated().any():
        raise UserError(f"{path}: a column is there twice; expected filename, then numbered columns")
    numbers = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    lengths = np.linalg.norm(numbers, axis=1)
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if bad.any():
        line = int(np.argmax(bad))
        raise UserError(
            f"{path}, line {line + 2}: not an embedding of {table['filename'].iloc[line]!r}; "
            f"expected {len(columns)} finite numbers, not all of them 0"
        )
    known = Names(filenames)
    known.require(table["filename"], path, also)
    names = table["filename"].map(lambda name: known.get(name) or "")
    means = pd.DataFrame(numbers / lengths[:, None]).groupby(names.to_numpy()).mean()
    found = [filename for filename in filenames if filename in means.index]
    if not found:
        raise UserError(f"{path}: names no video of the set but only such as its label file leaves out")
    vectors = means.loc[found].to_numpy()
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(path, found, vectors / np.maximum(size, 1e-12))


def find_links(embeddings: Embeddings, similarity: float) -> list[Link]:
    """What holds the clusters of persons together: for each the strongest links that connect it.

    A maximum spanning forest of the pairs of at least ``similarity``: one link less than a cluster
    has videos, so the list stays short and its weakest links are the ones to doubt. In the order of
    the set.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    names, vectors = embeddings.filenames, embeddings.vectors
    tree = coo_matrix((len(names), len(names)))
    for top, left, alike in multiply_tiles(vectors, vectors, upper=True):
        rows, columns = np.nonzero(alike >= similarity)
        rows, columns, values = rows + top, columns + left, alike[rows, columns]
        upper = rows < columns
        # Distances from 1 to 3: none is 0, which would mean "no link". Of what is known so far
        # only the forest is kept: a tile's links cannot make another link of it stronger.
        step = coo_matrix((2 - values[upper], (rows[upper], columns[upper])), shape=tree.shape)
        tree = minimum_spanning_tree((tree + step).tocsr()).tocoo()
    links = sorted(zip(*(np.minimum(tree.row, tree.col), np.maximum(tree.row, tree.col), 2 - tree.data), strict=True))
    return [Link(names[i], names[k], round(float(value), 4)) for i, k, value in links]

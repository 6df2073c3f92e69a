"""Which threshold tells persons apart by their face embeddings; docs/preparation.md has the figures.

    python benchmarks/identities.py EMBEDDINGS.csv PERSONS.csv [EMBEDDINGS.csv PERSONS.csv ...]

EMBEDDINGS.csv is data/<set>/embeddings.csv; PERSONS.csv says who is who (filename, person; a name that two tables
share is one person). All are clustered together, by average linkage (folds.identities=auto) and by single linkage
(folds.embeddings), at every threshold. Prints; writes nothing.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from liveness.base.tables import read_table
from liveness.evaluation.intervals import clopper_pearson
from liveness.sets.groups import join
from liveness.sets.identities import Embeddings, find_links, link_persons, read_embeddings

THRESHOLDS = (0.92, 0.93, 0.94, 0.945, 0.95, 0.955, 0.96, 0.97)


def read(arguments: list[str]) -> tuple[Embeddings, np.ndarray]:
    """All embeddings as one set, and the person of each."""
    names, vectors, persons = [], [], []
    for number, (first, second) in enumerate(zip(arguments[::2], arguments[1::2], strict=True)):
        table = read_table(Path(second), ["filename", "person"])
        person = dict(zip(table["filename"], table["person"], strict=True))
        found = read_embeddings(Path(first), list(person))
        names += [f"{number}/{name}" for name in found.filenames]
        vectors.append(found.vectors)
        persons += [person[name] for name in found.filenames]
    return Embeddings(Path(arguments[0]), names, np.concatenate(vectors)), np.array(persons)


def measure(cluster: np.ndarray, person: np.ndarray) -> list[str]:
    """Clusters; persons in one with others; pairs of videos of two persons joined; persons in several; pairs apart."""
    table = pd.crosstab(person, cluster).to_numpy()
    mixed = int((table[:, (table > 0).sum(axis=0) > 1] > 0).any(axis=1).sum())
    split = int(((table > 0).sum(axis=1) > 1).sum())
    rows, columns = np.triu_indices(len(person), 1)
    same, joined = person[rows] == person[columns], cluster[rows] == cluster[columns]

    def rate(count: int) -> str:
        low, high = clopper_pearson(count, len(table))
        return f"{count} of {len(table)} ({100 * low:.0f}-{100 * high:.0f} %)"

    false, missed = 100 * (joined & ~same).sum() / max((~same).sum(), 1), 100 * (same & ~joined).sum() / same.sum()
    return [str(table.shape[1]), rate(mixed), f"{false:.2f} %", rate(split), f"{missed:.1f} %"]


def main() -> None:
    if len(sys.argv) < 3 or len(sys.argv) % 2 == 0:
        sys.exit(__doc__)
    embeddings, person = read(sys.argv[1:])
    print(f"{len(person)} videos of {len(set(person))} persons")
    print("| linkage | threshold | clusters | persons joined with others | false pairs | persons split | missed |")
    for name, link in (("average", link_persons), ("single", find_links)):
        for threshold in THRESHOLDS:
            links = link(embeddings, threshold)
            parts = join(embeddings.filenames, [[one.one, one.other] for one in links])
            number = {video: i for i, part in enumerate(parts) for video in part}
            cluster = np.array([number[video] for video in embeddings.filenames])
            print("|", " | ".join([name, f"{threshold:g}", *measure(cluster, person)]), "|", flush=True)


if __name__ == "__main__":
    main()

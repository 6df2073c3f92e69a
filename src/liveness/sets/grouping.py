"""What the groups of a prepared set are: persons, listed groups, near-duplicates, or nothing that is known.

``describe_groups`` finds it out from the set's tables, for a set of any age; make_folds records it in folds.json
under "groups". ``read_grouping`` gives what is recorded, else what can be found out. evaluation/grouping.py
puts it into words.
"""

import json
from pathlib import Path

import pandas as pd

from liveness.base.config import Folds
from liveness.base.errors import UserError
from liveness.base.names import Names, find_column
from liveness.base.tables import read_table
from liveness.evaluation.grouping import UNKNOWN_GROUPS
from liveness.sets.identities import embeddings_path


def read_grouping(folder: Path) -> dict:
    """What the groups in data/<set>/folds.csv are, in the form of ``describe_groups``."""
    try:
        recorded = json.loads((folder / "folds.json").read_text(encoding="utf-8")).get("groups")
    except (OSError, ValueError, AttributeError):
        recorded = None
    if isinstance(recorded, dict) and "kind" in recorded:
        return recorded
    return describe_groups(folder)


def describe_groups(folder: Path) -> dict:
    """kind ("subjects", "identities", "listed", "near_duplicates", "none" or "unknown"), source and without.

    source: the column, or the file, that tells; without: how many videos it says nothing of. Where several
    sources were joined the one that knows persons counts. "unknown": the tables are not there, or folds.csv has
    groups of its own.
    """
    try:
        own = {}
        if (folder / "folds.csv").is_file():  # a set without labels has none
            folds = read_table(folder / "folds.csv", ["filename", "group"])
            own = dict(zip(folds["filename"], folds["group"], strict=True))
        videos = read_table(folder / "labels_video.csv", ["filename", "status", "group"])
        videos = videos[videos["status"] != "left_out"]
        config = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))["data"].get("folds", {})
        embeddings = embeddings_path(str(config.get("identities", "")), str(config.get("embeddings", "")), folder)
        known = _embedded(videos, embeddings)
        subjects = _subjects(folder, videos, config.get("group_column", Folds().group_column), known)
    except (OSError, ValueError, KeyError, AttributeError, UserError):
        return dict(UNKNOWN_GROUPS)
    if any(own.get(name, group) != group for name, group in zip(videos["filename"], videos["group"], strict=True)):
        return dict(UNKNOWN_GROUPS)
    if subjects:
        return subjects
    if embeddings:
        return {
            "kind": "identities",
            "source": embeddings.name,
            "without": int((~videos["filename"].isin(known)).sum()),
        }
    shared = videos["group"].duplicated().any()
    if shared and config.get("groups"):
        return {"kind": "listed", "source": Path(str(config["groups"])).name, "without": 0}
    if shared:
        return {"kind": "near_duplicates", "source": "duplicates.csv", "without": 0}
    return {"kind": "none", "source": "", "without": 0}


def _embedded(videos: pd.DataFrame, path: Path | None) -> set[str]:
    """The videos that have an embedding, so that it is known who they show; a UserError if the file is gone."""
    if path is None:
        return set()
    names = Names(videos["filename"])
    return {names.get(row) or "" for row in read_table(path, ["filename"])["filename"]}


def _subjects(folder: Path, videos: pd.DataFrame, column: str, known: set[str]) -> dict | None:
    """The subjects if the groups follow them; None where no column names any.

    An older version overlooked a column whose header was written in another case: then the groups do not.
    """
    # labels_video.csv has a column group of its own: what the label file says there is in its copy only.
    table = read_table(folder / "labels.csv", ["filename"]) if column == "group" else videos
    found = find_column(list(table.columns), column) if column else None
    if found is None:
        return None
    people = table[found].str.strip()
    if (people == "").all():
        return None
    without = int(((people == "") & ~table["filename"].isin(known)).sum())
    if column != "group" and videos.assign(person=people)[people != ""].groupby("person")["group"].nunique().max() > 1:
        return None
    return {"kind": "subjects", "source": found, "without": without}

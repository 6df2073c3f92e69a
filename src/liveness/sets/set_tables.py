"""The tables of a prepared set, as a function of its records, its label file and its groups.

duplicates.csv, identities.csv, labels_keyframes.csv, labels_bbox.csv, labels_video.csv; docs/files.md
has their columns. Writes nothing: sets/preparation.py writes them, sets/sanity.py compares them with what is there.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from liveness.base.config import Folds
from liveness.base.files import natural_key
from liveness.base.names import stem_of
from liveness.sets.duplicates import Pair, pair_frames
from liveness.sets.groups import find_subjects, join, name_groups
from liveness.sets.identities import Link
from liveness.sets.labels import RawSet
from liveness.sets.records import Records

KEYFRAME_COLUMNS = ["filename", "video_id", "frame_id", "label", "time"]
BOX_COLUMNS = ["filename", "video_id", "frame_id", "label", "face", "n_faces", "confidence", "x", "y", "w", "h"]
VIDEO_COLUMNS = [
    "filename",
    "label",
    "video_id",
    "status",
    "reason",
    "frames",
    "fps",
    "width",
    "height",
    "duration",
    "group",
    "species",
    "codec",
    "rotation",
]
DUPLICATE_COLUMNS = [
    "filename",
    "other",
    "distance",
    "mirrored",
    "label",
    "other_label",
    "joins_groups",
    "contradiction",
]
IDENTITY_COLUMNS = ["filename", "other", "similarity", "label", "other_label", "joins_groups"]


@dataclass
class TableSources:
    """What the tables are made of: the raw set, its records, and the groups."""

    raw: RawSet
    records: Records
    left_out: dict[str, str]  # file name -> why
    links: list[list[str]]  # file names that belong together, from the groups file
    identities: list[Link] | None  # from the embeddings; None without an embeddings file
    folds: Folds


def make_tables(sources: TableSources) -> dict[str, pd.DataFrame]:
    """duplicates, identities (with embeddings), labels_keyframes, labels_bbox and labels_video, in natural order."""
    raw, frames = sources.raw, sources.records.frames
    filenames = [path.name for path in raw.videos]
    extra = raw.labels.set_index("filename") if raw.labels is not None else pd.DataFrame(index=filenames)
    pairs = _find_duplicates(sources)
    persons = sources.identities or []
    alike = [[pair.one, pair.other] for pair in pairs] + [[link.one, link.other] for link in persons]
    videos = _video_table(sources, extra, _group_names(sources, alike))
    named = videos.set_index("filename").loc[sources.records.videos["filename"], ["video_id", "label"]]
    shots = named.iloc[frames["video"]].reset_index(drop=True).join(frames)
    shots["filename"] = shots["stored"].str.removeprefix("frames/")
    shots["face"] = shots["face"].astype(int)
    before, labels = _group_names(sources, []), videos.set_index("filename")["label"]
    tables = {"duplicates": _duplicate_table(pairs, labels, before)}
    if sources.identities is not None:
        tables["identities"] = _identity_table(persons, labels, before)
    return tables | {
        "labels_keyframes": shots[KEYFRAME_COLUMNS],
        "labels_bbox": shots[BOX_COLUMNS],
        "labels_video": videos,
    }


def _find_duplicates(sources: TableSources) -> list[Pair]:
    """Pairs of near-duplicates, by hashes of their frames or, byte for byte, by their files."""
    threshold, records = sources.folds.duplicates, sources.records
    if threshold <= 0:
        return []
    names, digests = records.videos["filename"], records.videos["sha256"]
    found = pair_frames(records.coded, records.codes, threshold)
    pairs = [Pair(names[one], names[other], distance, mirrored) for one, other, distance, mirrored in found]
    known = {(pair.one, pair.other) for pair in pairs}
    number, different = pd.factorize(digests)
    first = np.unique(number, return_index=True)[1]
    for row in np.flatnonzero((first[number] != np.arange(len(number))) & (digests != "").to_numpy()):
        twin = names[first[number[row]]], names[row]
        if twin not in known:
            pairs.append(Pair(*twin, 0.0, False))
    return sorted(pairs, key=lambda pair: (natural_key(pair.one), natural_key(pair.other)))


def _duplicate_table(pairs: list[Pair], labels: pd.Series, groups: dict[str, str]) -> pd.DataFrame:
    """duplicates.csv: every pair, whether it joins what was apart, whether its labels contradict."""
    rows = []
    for pair in pairs:
        one, other = labels[pair.one], labels[pair.other]
        joins, against = int(groups[pair.one] != groups[pair.other]), int(one != other)
        rows.append([pair.one, pair.other, pair.distance, int(pair.mirrored), one, other, joins, against])
    return pd.DataFrame(rows, columns=DUPLICATE_COLUMNS, dtype=object)


def _identity_table(links: list[Link], labels: pd.Series, groups: dict[str, str]) -> pd.DataFrame:
    """identities.csv: the links that hold the clusters of persons together, and whether each joins what was apart."""
    rows = [
        [k.one, k.other, k.similarity, labels[k.one], labels[k.other], int(groups[k.one] != groups[k.other])]
        for k in links
    ]
    return pd.DataFrame(rows, columns=IDENTITY_COLUMNS, dtype=object)


def _group_names(sources: TableSources, found: list[list[str]]) -> dict[str, str]:
    """The group of each video: the union of the group column, the groups file and what was ``found`` alike."""
    filenames = [path.name for path in sources.raw.videos]
    known = find_subjects(sources.raw, sources.folds.group_column)[1]
    people: dict[str, list[str]] = {}
    for filename, person in known.items():
        if person:
            people.setdefault(person, []).append(filename)
    return name_groups(join(filenames, [*people.values(), *sources.links, *found]), known)


def _video_table(sources: TableSources, extra: pd.DataFrame, groups: dict[str, str]) -> pd.DataFrame:
    """labels_video.csv: one row for every video of the set, whatever became of it."""
    filenames = sorted(groups, key=natural_key)
    table = sources.records.videos.set_index("filename").reindex(filenames)
    out = pd.Series(sources.left_out, dtype=object).reindex(table.index[table["status"].isna()])
    table.loc[out.index, "status"], table.loc[out.index, "reason"] = "left_out", out
    table["video_id"], table["group"] = [stem_of(name) for name in filenames], [groups[name] for name in filenames]
    for name in ("label", "species"):
        table[name] = extra[name].reindex(filenames) if name in extra else ""
    table = table.reset_index(names="filename")[VIDEO_COLUMNS]
    for name in extra.columns:
        if name not in table:
            table[name] = extra[name].reindex(filenames).to_numpy(dtype=object)
    return table

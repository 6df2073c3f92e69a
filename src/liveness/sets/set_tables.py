"""The tables of a prepared set, as a function of its records, its label file and its groups.

duplicates.csv, identities.csv, labels_keyframes.csv, labels_bbox.csv, labels_video.csv; docs/files.md
has their columns. Writes nothing: sets/preparation.py writes them, sets/sanity.py compares them with what is there.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from liveness.base.config import Folds
from liveness.base.files import natural_key
from liveness.frames.notes import IMAGE, with_notes
from liveness.sets.duplicates import Pair, find_pairs
from liveness.sets.extract import notes_of_record
from liveness.sets.groups import find_subjects, join, name_groups
from liveness.sets.identities import Link
from liveness.sets.labels import RawSet

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
    """What the tables are made of: the raw set, its records by file name, and the groups."""

    raw: RawSet
    records: dict[str, dict]
    left_out: dict[str, str]  # file name -> why
    links: list[list[str]]  # file names that belong together, from the groups file
    identities: list[Link] | None  # from the embeddings; None without an embeddings file
    folds: Folds


def make_tables(sources: TableSources) -> dict[str, pd.DataFrame]:
    """duplicates, identities (with embeddings), labels_keyframes, labels_bbox and labels_video, in natural order."""
    raw = sources.raw
    filenames = [path.name for path in raw.videos]
    extra = raw.labels.set_index("filename") if raw.labels is not None else pd.DataFrame(index=filenames)
    pairs = _find_duplicates(sources)
    persons = sources.identities or []
    alike = [[pair.one, pair.other] for pair in pairs] + [[link.one, link.other] for link in persons]
    groups = _group_names(sources, alike)
    videos = _video_table(sources, extra, groups)
    labels = dict(zip(videos["filename"], videos["label"], strict=True))
    keyframes, boxes = [], []
    for filename, record in sources.records.items():
        stem = Path(filename).stem
        for row, stored in zip(record["frames"], record["files"]["frames"], strict=True):
            head = [stored.removeprefix("frames/"), stem, row["frame_id"], labels[filename]]
            keyframes.append([*head, row["time"]])
            face = row["face"] or {}
            box = [face.get(key, "") for key in ("confidence", "x", "y", "w", "h")]
            boxes.append([*head, int(bool(face)), row["n_faces"], *box])
    before = _group_names(sources, [])
    tables = {"duplicates": _duplicate_table(pairs, labels, before)}
    if sources.identities is not None:
        tables["identities"] = _identity_table(persons, labels, before)
    return tables | {
        "labels_keyframes": pd.DataFrame(keyframes, columns=KEYFRAME_COLUMNS, dtype=object),
        "labels_bbox": pd.DataFrame(boxes, columns=BOX_COLUMNS, dtype=object),
        "labels_video": videos,
    }


def _find_duplicates(sources: TableSources) -> list[Pair]:
    """Pairs of near-duplicates, by hashes of their frames or, byte for byte, by their files."""
    threshold, records = sources.folds.duplicates, sources.records
    if threshold <= 0:
        return []
    pairs = find_pairs(
        {name: [row["hashes"] for row in record["frames"]] for name, record in records.items()}, threshold
    )
    known = {(pair.one, pair.other) for pair in pairs}
    first: dict[str, str] = {}
    for name, record in records.items():
        if record["bytes"] and record["sha256"]:
            twin = first.setdefault(record["sha256"], name)
            if twin != name and (twin, name) not in known:
                pairs.append(Pair(twin, name, 0.0, False))
    return sorted(pairs, key=lambda pair: (natural_key(pair.one), natural_key(pair.other)))


def _duplicate_table(pairs: list[Pair], labels: dict, groups: dict[str, str]) -> pd.DataFrame:
    """duplicates.csv: every pair, whether it joins what was apart, whether its labels contradict."""
    rows = []
    for pair in pairs:
        one, other = labels[pair.one], labels[pair.other]
        joins, against = int(groups[pair.one] != groups[pair.other]), int(one != other)
        rows.append([pair.one, pair.other, pair.distance, int(pair.mirrored), one, other, joins, against])
    return pd.DataFrame(rows, columns=DUPLICATE_COLUMNS, dtype=object)


def _identity_table(links: list[Link], labels: dict, groups: dict[str, str]) -> pd.DataFrame:
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
    rows = []
    for filename in filenames:
        record = sources.records.get(filename) or {"status": "left_out", "reason": sources.left_out[filename]}
        info = record.get("info") or {}
        timed = bool(info) and IMAGE not in record.get("notes", ())
        rows.append(
            {
                "filename": filename,
                "label": extra.at[filename, "label"] if "label" in extra else "",
                "video_id": Path(filename).stem,
                "status": record["status"],
                "reason": with_notes(record["reason"], notes_of_record(record)),
                "frames": info.get("frames", ""),
                "fps": round(info["fps"], 3) if timed else "",
                "width": info.get("width", ""),
                "height": info.get("height", ""),
                "duration": round(info["duration"], 3) if timed else "",
                "group": groups[filename],
                "species": extra.at[filename, "species"] if "species" in extra else "",
                "codec": info.get("codec", ""),
                "rotation": info.get("rotation", ""),
            }
        )
    table = pd.DataFrame(rows, columns=VIDEO_COLUMNS, dtype=object)
    for name in extra.columns:
        if name not in table:
            table[name] = extra[name].reindex(filenames).to_numpy(dtype=object)
    return table

"""Whether everything in a prepared set fits together, and its repair: what `python -m liveness.sanity_check` does."""

import filecmp
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from liveness.base.config import Data, Folds
from liveness.base.errors import UserError
from liveness.base.files import sweep, workspace
from liveness.base.tables import read_table, table_text
from liveness.sets.dealing import deal_set
from liveness.sets.embedding import find_unembedded
from liveness.sets.extract import (
    damaged_files,
    find_version,
    forget,
    make_extract_task,
    read_record,
    require_sources,
    what_is_missing,
)
from liveness.sets.folds import check_folds, fold_set, split_tables, write_split
from liveness.sets.groups import read_identities, read_links
from liveness.sets.identities import EMBEDDINGS
from liveness.sets.labels import RawSet, find_set, other_sets
from liveness.sets.layout import list_folders, list_stored
from liveness.sets.preparation import WHY, names_too_long, prepare_set
from liveness.sets.records import Records, gather_records
from liveness.sets.set_tables import TableSources, make_tables
from liveness.sets.settings import read_settings

_FOLDERS = {"frames": ".jpg", "faces/bbox": ".txt", "faces/crop": ".jpg", "faces/viz": ".jpg"}
_OF_FACES = ("faces/crop", "faces/viz")
SHOWN = 20  # mismatches of one kind that are printed in full

Trouble = tuple[str, str]  # kind, line


def check_and_fix(name: str, fix: bool) -> bool:
    """Print every mismatch of data/<name> and the counts per split; whether there is none in the end.

    fix: rebuild what is missing or damaged, as prepare.json says it was made, and check again.
    """
    folder = workspace() / "data" / name
    if not (folder / "prepare.json").is_file():
        raise UserError(
            f"{folder}/prepare.json: no such file; prepare the set first: bash prepare_data.sh {name}{other_sets(name)}"
        )
    data = read_settings(folder).data
    raw = find_set(name)
    troubles, damaged = check_set(folder, raw, data)
    _print_troubles(name, troubles)
    if troubles and fix:
        require_sources(raw.videos, folder)
        for video_id in damaged:
            forget(folder, video_id)
        for part in _FOLDERS:
            for inner in list_folders(folder / part):
                sweep(inner, patience=0)
        prepare_set(data)
        _fix_folds(folder, raw, data)
        print(f"{name}: rebuilt; checking again")
        troubles, _ = check_set(folder, raw, data)
        _print_troubles(name, troubles)
    _print_counts(folder, labelled=raw.labels is not None)
    return not troubles


def check_set(folder: Path, raw: RawSet, data: Data) -> tuple[list[Trouble], set[str]]:
    """All mismatches of a prepared set, and the ids of the videos whose output is damaged."""
    left_out, links = read_links(data, raw, quiet=True)
    left_out |= names_too_long(raw)
    version = find_version(folder)
    troubles: list[Trouble] = []
    damaged: set[str] = set()

    def check_videos() -> Iterator[tuple[str, dict]]:
        for video in raw.videos:
            if video.name in left_out:
                continue
            record = read_record(folder, video)
            missing = what_is_missing(make_extract_task(video, folder, data, version), record, again=False)
            bad = damaged_files(folder, record) if record else []
            if missing or bad:
                damaged.add(video.stem)
            if bad:
                troubles.extend(("file", f"{folder / path}: missing, or not what was written") for path in bad)
            elif missing:
                troubles.append(("video", f"{video.name}: {WHY[missing]}"))
            if record:
                yield video.name, record

    records = gather_records(check_videos())
    troubles += _check_links(folder, raw) + _check_labels(folder, raw)
    troubles += _check_strays(folder, records)
    unembedded = find_unembedded(records, folder) if data.folds.identities else []
    troubles += [("embedding", f"{name}: no row in {folder / EMBEDDINGS} that fits its frames") for name in unembedded]
    if not unembedded and len(records) + len(left_out) == len(raw.videos):
        identities = read_identities(data, raw, folder, quiet=True, listed=folder / "identities.csv")
        expected = make_tables(TableSources(raw, records, left_out, links, identities, data.folds))
        troubles += [t for name in expected for t in _compare(folder / f"{name}.csv", expected[name])]
    if raw.labels is not None:
        troubles += _check_dealt(folder, data.folds)
    return troubles, damaged


def _check_links(folder: Path, raw: RawSet) -> list[Trouble]:
    """videos/ has every video of the set, and each name leads to that video."""
    troubles = []
    for video in raw.videos:
        link = folder / "videos" / video.name
        if not link.is_file():
            troubles.append(("link", f"{link}: missing, or a link to nothing"))
        elif link.resolve() != video.resolve() and (link.is_symlink() or not filecmp.cmp(link, video, shallow=False)):
            troubles.append(("link", f"{link}: another file than {video}"))
    return troubles


def _check_labels(folder: Path, raw: RawSet) -> list[Trouble]:
    """labels.csv is the label file; a set without one has neither that nor folds."""
    copy = folder / "labels.csv"
    if raw.labels is None:
        left = [path for path in (copy, folder / "folds.csv") if path.exists()]
        return [
            ("labels", f"{path}: the set has no label file; delete it, or put the label file back") for path in left
        ]
    if not copy.is_file() or copy.read_bytes() != raw.labels_csv():
        return [
            ("labels", f"{copy}: not {f'a copy of {raw.label_file}' if raw.label_file else 'what the folders say'}")
        ]
    return []


def _check_strays(folder: Path, records: Records) -> list[Trouble]:
    """Files among the frames and faces that no record names: each frame has one of boxes, and with a face two more."""
    stems, face = records.frames["stored"].str.slice(len("frames/"), -len(".jpg")), records.frames["face"]
    troubles = []
    for name, ending in _FOLDERS.items():
        known = pd.Index(stems[face] if name in _OF_FACES else stems)
        there = pd.Series(list(list_stored(folder / name, hidden=True)), dtype="str")
        mine = there.str.endswith(ending) & there.str.removesuffix(ending).isin(known)
        strays = there[~mine]
        troubles += [
            ("stray", f"{folder / name / stored}: no video of the set has such a file") for stored in sorted(strays)
        ]
    return troubles


def _compare(path: Path, expected: pd.DataFrame) -> list[Trouble]:
    """Row by row, what a table says against what it should say."""
    if not path.is_file():
        return [("table", f"{path}: missing")]
    text, wanted = path.read_text(encoding="utf-8", errors="backslashreplace"), table_text(expected)
    if text == wanted or (have := text.splitlines()) == (want := wanted.splitlines()):
        return []
    troubles = []
    for line in sorted(set(have) - set(want)):
        troubles.append(("table", f"{path}: unexpected row: {line}"))
    for line in sorted(set(want) - set(have)):
        troubles.append(("table", f"{path}: missing row: {line}"))
    return troubles or [("table", f"{path}: rows are repeated or out of order")]


def _check_dealt(folder: Path, config: Folds) -> list[Trouble]:
    """folds.csv covers the set, parts no group, has both classes everywhere; the split tables follow it."""
    path = folder / "folds.csv"
    if not (folder / "labels_video.csv").is_file():
        return []  # already reported
    if not path.is_file():
        why = _why_no_folds(folder, config)
        if why:
            print(f"{folder.name}: no folds, the set allows none: {why}")
            return []
        return [("folds", f"{path}: missing")]
    troubles = []
    try:
        folds = read_table(path, ["filename", "label", "fold"])
        split = split_tables(folder, folds, config.test)
    except UserError as error:
        return [("folds", str(error))]
    try:
        check_folds(path, folds, read_table(folder / "labels_video.csv", ["filename", "status", "group"]))
    except UserError as error:
        troubles.append(("folds", str(error)))
    for fold, rows in folds.groupby("fold"):
        if rows["label"].nunique() < 2:
            troubles.append(("folds", f"{path}: fold {fold} has one class only"))
    for name, (train, test) in split.items():
        troubles += _compare(folder / f"{name}_train.csv", train) + _compare(folder / f"{name}_test.csv", test)
    return troubles


def _why_no_folds(folder: Path, config: Folds) -> str:
    """Why no folds can be dealt (two videos, say), or "" where they can be."""
    try:
        videos = read_table(folder / "labels_video.csv", ["filename", "label", "status", "group", "species"])
        videos = videos[(videos["status"] != "left_out") & videos["label"].isin(["0", "1"])]
        deal_set(videos.assign(label=videos["label"].astype(int)), config)
    except UserError as error:
        return str(error)
    return ""


def _fix_folds(folder: Path, raw: RawSet, data: Data) -> None:
    """Deal folds where there are none; else only write the split tables anew: dealt folds stay."""
    if raw.labels is None:
        return
    path = folder / "folds.csv"
    try:
        folds = read_table(path, ["filename", "label", "fold"])
    except UserError:
        path.unlink(missing_ok=True)  # no table at all: the same seed deals the same folds again
        folds = None
    if folds is not None:
        write_split(folder, folds, data.folds.test)
    elif not _why_no_folds(folder, data.folds):
        fold_set(folder, data.folds)


def _print_troubles(name: str, troubles: list[Trouble]) -> None:
    """Every mismatch, those of one kind together; of a kind with very many the first and the count."""
    for kind, count in Counter(kind for kind, _ in troubles).items():
        lines = [line for k, line in troubles if k == kind]
        print("\n".join(lines[:SHOWN]), file=sys.stderr)
        if count > SHOWN:
            print(f"... and {count - SHOWN} more of this kind ({kind})", file=sys.stderr)
    print(f"{name}: {len(troubles) or 'no'} mismatch{'es' if len(troubles) != 1 else ''}", flush=True)


def _print_counts(folder: Path, labelled: bool) -> None:
    """Videos, frames and faces in each split."""
    for split in ("", "_train", "_test") if labelled else ("",):
        paths = [folder / f"{name}{split}.csv" for name in ("labels_video", "labels_keyframes", "labels_bbox")]
        if not all(path.is_file() for path in paths):
            continue
        try:
            videos, frames, boxes = (read_table(path, ["video_id"]) for path in paths)
        except UserError:
            continue  # reported as a mismatch
        counts = videos["status"].value_counts()
        trouble = ", ".join(f"{n} {status}" for status, n in counts.items() if status != "ok")
        faces = int((boxes["face"] == "1").sum())
        title = {"": "all", "_train": "train", "_test": "test (fold 0)"}[split]
        trouble = f" ({trouble})" if trouble else ""
        print(f"  {title}: {len(videos)} videos{trouble}, {len(frames)} frames, {faces} with a face")

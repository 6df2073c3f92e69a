"""folds.csv as evaluation reads it: which member held a video out, and the video's label, species and camera.

A set's labels have one home, folds.csv, which the set's digest covers (folds.digest_of_set); the other tables repeat
them for people. Where labels_video.csv says otherwise, evaluation stops here and training in dataset.load_set.
"""

from pathlib import Path

import pandas as pd

from liveness.base.errors import UserError
from liveness.base.files import show_path, unprepared
from liveness.base.tables import read_table, whole_numbers
from liveness.evaluation.combine import HOLDOUT
from liveness.members.published import told_of_published
from liveness.sets.soft_labels import is_soft


def read_folds(folder: Path) -> pd.DataFrame:
    """One row per video of data/<set>/folds.csv: filename, label (0 attack, 1 live), group, fold, species, camera.

    species and camera are "" where labels_video.csv names none; naive_fold is there where folds.csv has it, -1 for
    videos of the holdout as in fold. Videos with soft labels, which are for training alone, are left
    out. A UserError where a table is not there, not sound, or the two disagree.
    """
    path = folder / "folds.csv"
    if not path.is_file():
        raise UserError(told_of_published(folder.name) or f"{show_path(path)}: no such file; {unprepared(folder.name)}")
    table = read_table(path, ["filename", "label", "group", "fold"])
    if len(table) == 0 or (table["label"] == "").all():
        raise UserError(f"{show_path(path)}: no labelled video in it; an evaluation needs labels")
    table["label"] = whole_numbers(table, "label", path)
    table["fold"] = whole_numbers(table, "fold", path)
    if not table["label"].isin((0, 1)).all():
        raise UserError(f"{show_path(path)}: labels other than 0 (attack) and 1 (live)")
    twice = table["filename"][table["filename"].duplicated()]
    if len(twice):
        raise UserError(f"{show_path(path)}: {twice.iloc[0]} is listed twice; expected one row per video")
    if "naive_fold" in table.columns:
        naive = whole_numbers(table, "naive_fold", path)
        table["naive_fold"] = naive.where(table["fold"] != HOLDOUT, HOLDOUT)
    table = _join_names(table, folder)
    return table[~is_soft(table)].reset_index(drop=True)


def _join_names(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with species and camera of labels_video.csv, which must have the same labels; "" without that file."""
    path = folder / "labels_video.csv"
    if not path.is_file():
        return table.assign(species="", camera="")
    videos = read_table(path, ["filename", "label"]).drop_duplicates("filename").set_index("filename")
    there = videos.reindex(table["filename"])
    labels = pd.to_numeric(there["label"], errors="coerce").to_numpy()
    other = table[labels != table["label"].to_numpy()]  # nan, of a video without a row, differs from both labels
    if len(other):
        row = other.iloc[0]
        raise UserError(
            f"{show_path(path)}: does not have {row['filename']} with label {row['label']}, as folds.csv does; "
            f"deal the folds anew: python -m liveness.make_folds {folder.name}"
        )
    found = {name: there[name].fillna("").to_numpy() if name in there else "" for name in ("species", "camera")}
    return table.assign(**found)


def count_soft(folder: Path) -> dict[str, int]:
    """For report.json: ``soft_labelled``, how many videos ``read_folds`` leaves out; {} where there is none."""
    count = int(is_soft(read_table(folder / "folds.csv", ["filename"])).sum())
    return {"soft_labelled": count} if count else {}

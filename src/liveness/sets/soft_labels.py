"""Soft labels and sample weights: how the label tables write them, and what they mean.

A label file may give a probability of live instead of 0 or 1 (column label), and a weight above 0 (column weight; 1
where it is empty). In the prepared tables ``label`` stays the class, which every figure is about; the probability is in
``soft_label`` ("" where the label is hard). Videos with a soft label are for training alone: they are dealt to folds
with their group and never trained on where it is held out, but no member is judged by them, as an error rate needs
classes that are known. Only sets that use it have these columns.
"""

import math

import pandas as pd

from liveness.base.errors import UserError

SOFT = "soft_label"
WEIGHT = "weight"
COLUMNS = (SOFT, WEIGHT)


def part_label(text: str) -> tuple[int, str] | None:
    """(class, soft label or "") of a label between 0 and 1; None for what is none, or names neither class (0.5)."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not 0 <= value <= 1 or value == 0.5:
        return None
    return int(value > 0.5), "" if value in (0.0, 1.0) else repr(value)


def read_weights(table: pd.DataFrame, where: str) -> pd.Series:
    """The column weight (strings) as numbers, 1 where it is empty; a UserError for one that is not above 0."""
    texts = table[WEIGHT].str.strip()
    numbers = pd.to_numeric(texts.where(texts != "", "1"), errors="coerce").astype(float)
    bad = table[~((numbers > 0) & (numbers < math.inf))]
    if len(bad):
        row = bad.iloc[0]
        raise UserError(
            f"{where}: weight {row[WEIGHT]!r} of {row['filename']!r}; expected a number above 0, or nothing (1): how "
            "much the video counts in training (rename the column if it is about something else)"
        )
    return numbers


def read_soft(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """soft_label (nan where the label is hard) and weight (1 where there is none) of a table of strings that has one of
    them, as numbers; a UserError where a soft label contradicts the class."""
    found = pd.DataFrame(index=table.index)
    texts = table[SOFT].str.strip() if SOFT in table else pd.Series("", index=table.index)
    found[SOFT] = pd.to_numeric(texts.where(texts != "", "nan"), errors="coerce").astype(float)
    soft = texts != ""
    sound = (found[SOFT] > 0) & (found[SOFT] < 1) & ((found[SOFT] > 0.5) == (pd.to_numeric(table["label"]) == 1))
    if (soft & ~sound).any():
        row = table[soft & ~sound].iloc[0]
        raise UserError(
            f"{where}: soft_label {row[SOFT]!r} of {row['filename']!r} with label {row['label']}; expected the "
            "probability of live, above 0.5 for label 1 and below for 0"
        )
    found[WEIGHT] = read_weights(table, where) if WEIGHT in table else 1.0
    return found


def is_soft(table: pd.DataFrame) -> pd.Series:
    """Which rows have a soft label; of strings or of numbers."""
    if SOFT not in table:
        return pd.Series(False, index=table.index)
    return table[SOFT].notna() & (table[SOFT].astype(str) != "")


def take_soft(folds: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """A table of folds with the soft labels and weights of ``videos`` (both strings, by filename), where it has any."""
    named = videos.set_index("filename")
    folds = folds.drop(columns=list(COLUMNS), errors="ignore")
    for column in COLUMNS:
        if column in named and (named[column].str.strip() != "").any():
            folds[column] = folds["filename"].map(named[column].str.strip())
    if set(folds.columns) & set(COLUMNS):
        read_soft(folds, "labels_video.csv")
    return folds

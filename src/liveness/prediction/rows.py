"""Rows of predictions.csv and submission.csv, and how they are written.

A video that cannot be scored has the score 0.5, a status that says why, a reason, and the decision
"abstain". Its row is never left out.
"""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from liveness.base.files import written_aside

if TYPE_CHECKING:
    import pandas as pd

NO_SCORE = 0.5
# What can happen to a video. These two are scored whole; "no_face" (a member needs a face and found
# none), "unreadable", "crashed" (its decoder died twice), "failed" (a member gave no finite score) and
# "missing" (the sample submission names it, and it is not there) are not.
SCORED = ("ok", "partial")
FILES = ("submission.csv", "predictions.csv")
PREVIOUS = "previous_"  # before the names of an earlier run's files
ROW_COLUMNS = ("fname", "score", "decision", "status", "reason", "frames", "faces", "milliseconds", "faces_in_frame")


@dataclass
class Row:
    """One video's result."""

    fname: str
    score: float
    decision: str  # live | attack | abstain
    status: str
    reason: str  # why, and notes of what is unusual and no trouble (frames/notes.py)
    frames: int  # frames decoded
    faces: int | None  # of those, frames with a face; None where no member looks for one
    milliseconds: float  # decoding, preprocessing and the models, of this video
    faces_in_frame: int | None = None  # the most faces in one frame that was scored; None where no member looks for one


def rows_to_table(rows: Iterable[Row]) -> "pd.DataFrame":
    """The rows as a pandas DataFrame with the columns of predictions.csv."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows], columns=list(ROW_COLUMNS))


def write_results(rows: list[Row], folder: Path) -> Path:
    """Write predictions.csv, then submission.csv (whose presence means that all is there)."""
    _write(folder / "predictions.csv", ROW_COLUMNS, map(row_text, rows))
    return write_submission(rows, folder / "submission.csv")


def write_submission(rows: list[Row], path: Path) -> Path:
    """fname,liveness_score: the bytes of predict.sh's submission.csv."""
    return _write(path, ("fname", "liveness_score"), ((row.fname, score_text(row.score)) for row in rows))


def write_times(rows: list[Row], path: Path) -> Path:
    """fname,time: milliseconds of decoding, preprocessing, the models and what follows, without any loading."""
    return _write(path, ("fname", "time"), ((row.fname, f"{row.milliseconds:.1f}") for row in rows))


def row_text(row: Row) -> list[str]:
    """A row's values as predictions.csv holds them, in the order of ROW_COLUMNS."""
    faces, most = ("" if count is None else str(count) for count in (row.faces, row.faces_in_frame))
    fixed = [row.fname, score_text(row.score), row.decision, row.status, row.reason, str(row.frames), faces]
    return [*fixed, f"{row.milliseconds:.1f}", most]


def parse_row(values: list[str]) -> Row:
    """The inverse of ``row_text``; ValueError where the values are none."""
    fname, score, decision, status, reason, frames, faces, milliseconds, most = values
    with_face, in_frame = (None if count == "" else int(count) for count in (faces, most))
    return Row(fname, float(score), decision, status, reason, int(frames), with_face, float(milliseconds), in_frame)


def _write(path: Path, header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> Path:
    with written_aside(path) as side, _opened(side) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _opened(path: Path) -> TextIO:
    """A csv file to write. A name that is not UTF-8 keeps its bytes, so that it still names the video."""
    return open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")


def score_text(score: float) -> str:
    """A score as it is written everywhere: nine decimals, enough for any ranking of float32 scores."""
    return f"{score:.9f}"

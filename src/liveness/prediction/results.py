"""Rows of predictions.csv and submission.csv, and how they are written.

A video that cannot be scored has the score 0.5, a status that says why, a reason, and the decision
"abstain". Its row is never left out.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from liveness.files import written_aside

NO_SCORE = 0.5
# What can happen to a video. These two are scored whole; "no_face" (a member needs a face and found
# none), "unreadable" and "crashed" (its decoder died twice) are not.
SCORED = ("ok", "partial")
COLUMNS = ("fname", "score", "decision", "status", "reason", "frames", "faces", "milliseconds")


@dataclass
class Row:
    """One video's result."""

    fname: str
    score: float
    decision: str  # live | attack | abstain
    status: str
    reason: str
    frames: int  # frames decoded
    faces: int | None  # of those, frames with a face; None where no member looks for one
    milliseconds: float  # decoding, preprocessing and the models, of this video


def decide(score: float, status: str, threshold: float) -> str:
    """live where the score reaches the threshold; abstain for a video that not every member scored."""
    if status not in SCORED:
        return "abstain"
    return "live" if score >= threshold else "attack"


def write(rows: list[Row], folder: Path) -> Path:
    """Write predictions.csv, then submission.csv (whose presence means that all is there)."""
    with written_aside(folder / "predictions.csv") as side, _opened(side) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            faces = "" if row.faces is None else row.faces
            fixed = [row.fname, score_text(row.score), row.decision, row.status, row.reason, row.frames, faces]
            writer.writerow([*fixed, f"{row.milliseconds:.1f}"])
    path = folder / "submission.csv"
    with written_aside(path) as side, _opened(side) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("fname", "liveness_score"))
        writer.writerows((row.fname, score_text(row.score)) for row in rows)
    return path


def _opened(path: Path) -> TextIO:
    """A csv file to write. A name that is not UTF-8 keeps its bytes, so that it still names the video."""
    return open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")


def score_text(score: float) -> str:
    """A score as it is written everywhere: nine decimals, enough for any ranking of float32 scores."""
    return f"{score:.9f}"

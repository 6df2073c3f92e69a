"""The order of the rows: that of a sample submission where there is one, else the videos' natural order.

Reads sample_submission.csv (fname or filename first, further columns do not matter); writes nothing.
The names in it are only compared with the names of the videos that were found: no file is opened by them.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

from liveness.errors import UserError
from liveness.files import plain_name
from liveness.prediction.results import NO_SCORE, Row

NAME = "sample_submission.csv"
HEADS = ("fname", "filename")


def find_samples(source: Path, videos: list[Path]) -> list[Path]:
    """sample_submission.csv in the folder that was named, in those of the videos, and beside a ``videos/``."""
    folders = [source, *dict.fromkeys(path.parent for path in videos)]
    folders += [folder.parent for folder in folders if folder.name == "videos"]
    found = {(folder / NAME).resolve(): folder / NAME for folder in folders if (folder / NAME).is_file()}
    return list(found.values())


def read_names(paths: Iterable[Path]) -> list[str]:
    """The file names that sample submissions list, in their order; a UserError for what is no plain name, or twice."""
    names: dict[str, Path] = {}
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); expected a sample submission") from error
        if not rows or rows[0][0].strip() not in HEADS:
            raise UserError(f"{path}: expected the header fname,liveness_score")
        for row in rows[1:]:
            name = plain_name(row[0], str(path))
            if name in names:
                raise UserError(f"{path}: {name!r} is there twice; expected one row per video")
            names[name] = path
    return list(names)


def arrange(rows: dict[str, Row], videos: list[Path], names: list[str]) -> list[Row]:
    """One row per name of the sample, then one per video that it does not name.

    A name without a video has the score 0.5 and the status ``missing``.
    """
    others = [path.name for path in videos if path.name not in set(names)]
    return [rows[name] if name in rows else _missing(name) for name in [*names, *others]]


def _missing(name: str) -> Row:
    reason = "the sample submission names it, and no such video is there"
    return Row(name, NO_SCORE, "abstain", "missing", reason, 0, None, 0.0)

"""The order of the rows: that of a sample submission where there is one, else the videos' natural order.

Reads sample_submission.csv (fname or filename first, further columns do not matter); writes nothing.
The names in it are only compared with the names of the videos that were found (composed and decomposed
letters count as the same, as on a Mac): no file is opened by them.
"""

import csv
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from liveness.base.errors import UserError
from liveness.base.files import plain_name
from liveness.prediction.inputs import warn
from liveness.prediction.rows import NO_SCORE, Row

_SAMPLE_FILE = "sample_submission.csv"
_HEADS = ("fname", "filename")


def find_order(source: Path, videos: list[Path], sample: Path | None = None) -> list[str]:
    """The names in their order: those of ``sample``, where one is given, else of what lies beside the videos.

    A given one that cannot be read is a UserError. One that was only found costs no run its results: a note
    says why it is passed over. One video by itself has no order.
    """
    if sample is not None:
        return read_names([sample])
    if source.is_file():
        return []
    readable: list[Path] = []
    for path in _find_samples(source, videos):
        try:
            read_names([*readable, path])
            readable.append(path)
        except UserError as error:
            warn(f"{error}; it is passed over, the rows are in natural order (--sample FILE names another)")
    return read_names(readable)


def _find_samples(source: Path, videos: list[Path]) -> list[Path]:
    """sample_submission.csv in the folder that was named, in those of the videos, and beside a ``videos/``."""
    folders = [source, *dict.fromkeys(path.parent for path in videos)]
    folders += [folder.parent for folder in folders if folder.name == "videos"]
    samples = [folder / _SAMPLE_FILE for folder in folders]
    return list({path.resolve(): path for path in samples if path.is_file()}.values())


def read_names(paths: Iterable[Path]) -> list[str]:
    """The file names that sample submissions list, in their order; a UserError for what is no plain name, or twice."""
    names: dict[str, Path] = {}
    for path in paths:
        rows = _read(path)
        head = rows[0][0].strip() if rows else ""
        if head not in _HEADS:
            shown = f"found {head[:40]!r}" if rows else "the file is empty"
            raise UserError(f"{path}: expected the header fname,liveness_score and commas between; {shown}")
        for row in rows[1:]:
            name = plain_name(row[0], str(path))
            if name in names:
                raise UserError(f"{path}: {name!r} is there twice; expected one row per video")
            names[name] = path
    return list(names)


def _read(path: Path) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a sample submission") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a csv file ({error}); expected a sample submission") from error


def arrange_rows(rows: dict[str, Row], videos: list[Path], names: list[str]) -> list[Row]:
    """One row per name of the sample, as the sample spells it, then one per video that it does not name.

    A name without a video has the score 0.5 and the status ``missing``.
    """
    found = _match_names(videos, names)
    named = [replace(rows[found[name]], fname=name) if name in found else _missing(name) for name in names]
    return named + [rows[name] for name in list_unnamed(videos, names)]


def _match_names(videos: list[Path], names: list[str]) -> dict[str, str]:
    """Name in the sample -> name of its video: the same, else the same but for how letters are composed and
    blanks at the ends, where one video has it."""
    there = {path.name for path in videos}
    found = {name: name for name in names if name in there}
    alike: dict[str, list[str]] = {}
    for name in there.difference(found):
        alike.setdefault(_key(name), []).append(name)
    for name in names:
        others = alike.pop(_key(name), []) if name not in found else []
        if len(others) == 1:
            found[name] = others[0]
    return found


def list_unnamed(videos: list[Path], names: list[str]) -> list[str]:
    """The videos that the sample does not name, in their order."""
    taken = set(_match_names(videos, names).values())
    return [path.name for path in videos if path.name not in taken]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _missing(name: str) -> Row:
    reason = "the sample submission names it, and no such video is there"
    return Row(name, NO_SCORE, "abstain", "missing", reason, 0, None, 0.0)

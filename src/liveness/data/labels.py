"""A set as it came: which videos it has, and what the label file says about them.

Reads raw/<set>/{label.csv,videos/*} (or the videos beside label.csv), for the set "train" also
raw/label.csv + train_video/*, else data/<set>/{labels.csv,videos/}. Sets without a label file are
sets without labels. Writes nothing.
"""

import os
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from liveness.errors import UserError
from liveness.files import VIDEO_ENDINGS, find_videos, plain_name, require_distinct_stems, workspace

LABEL_FILES = ("label.csv", "labels.csv")
NAME_COLUMNS = ("filename", "fname")
LABEL_COLUMNS = ("label", "liveness_score")
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class RawSet:
    """A set before preparation.

    ``videos`` are those that belong to it, in natural order. ``labels`` has one row per video in
    the same order: filename, label (0 or 1, 1 = live) and every other column of the label file as
    strings; None for a set without labels. ``unlabelled`` are the names that the folder has and
    the label file does not: they are no part of the set.
    """

    name: str
    videos: list[Path]
    labels: pd.DataFrame | None
    label_file: Path | None
    unlabelled: list[str]


def find_set(name: str) -> RawSet:
    """Find the set ``name`` in one of its layouts and check its labels; a UserError if it is not whole."""
    plain_name(name, "name of the set")
    label_file, folder = _locate(name)
    videos = find_videos(folder)
    require_distinct_stems(videos)
    if not videos:
        raise UserError(f"{folder}: no video in it; expected files ending in {', '.join(VIDEO_ENDINGS)}")
    for path in videos:
        # Cc: control characters; Cs: what Python makes of bytes that are no UTF-8.
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path.name):
            name = os.fsencode(path.name)
            raise UserError(f"{folder}: {name!r}: a line break, a control character or no UTF-8; rename it")
    if label_file is None:
        return RawSet(name, videos, None, None, [])
    labels = read_labels(label_file)
    by_name = {path.name: path for path in videos}
    labels["filename"] = _as_on_disk(list(labels["filename"]), list(by_name), label_file)
    absent = [filename for filename in labels["filename"] if filename not in by_name]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise UserError(f"{label_file}: {absent[0]!r}{more} is not there; expected every named video in {folder}")
    order = {path.name: i for i, path in enumerate(videos)}
    labels = labels.sort_values("filename", key=lambda column: column.map(order)).reset_index(drop=True)
    named = set(labels["filename"])
    others = [path.name for path in videos if path.name not in named]
    return RawSet(name, [by_name[filename] for filename in labels["filename"]], labels, label_file, others)


def _as_on_disk(named: list[str], there: list[str], where: Path) -> list[str]:
    """The names of a label file as the files have them: Unicode has two spellings of an accented letter.

    macOS writes one, most others the other; spaces around a name do not count either.
    """

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name.strip())

    known = set(there)
    by_key = {key(name): name for name in there}
    found = [name if name in known else by_key.get(key(name), name) for name in named]
    seen: dict[str, str] = {}
    for name, path in zip(named, found, strict=True):
        if path in seen:
            raise UserError(f"{where}: {seen[path]!r} and {name!r} are one video; expected it once")
        seen[path] = name
    return found


def read_labels(path: Path) -> pd.DataFrame:
    """A label file as filename, label (int) and its other columns (strings), in the file's order.

    The header names the columns: fname or filename, liveness_score or label. A UserError for
    missing columns, labels other than 0 and 1, names with a folder in them, names given twice.
    """
    table = read_table(path, [])
    columns = list(table.columns)
    name = next((c for c in NAME_COLUMNS if c in columns), None)
    label = next((c for c in LABEL_COLUMNS if c in columns), None)
    if name is None or label is None:
        raise UserError(
            f"{path}: its columns are {', '.join(columns) or 'none'}; "
            "expected fname,liveness_score (or filename,label), and others if you like"
        )
    both = [c for c in LABEL_COLUMNS if c in columns]
    if len(both) > 1 and (table[both[0]] != table[both[1]]).any():
        raise UserError(f"{path}: its columns {both[0]} and {both[1]} contradict each other; expected one of them")
    if table.empty:
        raise UserError(f"{path}: no row in it; expected one per video")
    seen: dict[str, int] = {}
    for line, (filename, value) in enumerate(zip(table[name], table[label], strict=True), start=2):
        plain_name(filename, f"{path}, line {line}")
        if filename in seen:
            raise UserError(f"{path}, line {line}: {filename!r} is already in line {seen[filename]}; expected it once")
        if value.strip() not in LABELS:
            raise UserError(f"{path}, line {line}: label {value!r} of {filename!r}; expected 0 (attack) or 1 (live)")
        seen[filename] = line
    rest = [c for c in columns if c not in (name, label) and c not in (*NAME_COLUMNS, *LABEL_COLUMNS)]
    head = pd.DataFrame({"filename": table[name], "label": [LABELS[v.strip()] for v in table[label]]})
    return pd.concat([head, table[rest]], axis=1)


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A csv file with every value as a string ("" for an empty one); its columns must include ``columns``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except pd.errors.ParserWarning as error:
        raise UserError(
            f"{path}: a row has more values than the header has columns; quote a value with commas"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a csv file") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path}: the file is empty; expected a csv file with a header") from error
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a csv file in UTF-8 ({' '.join(str(error).split())})") from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(table.columns) or 'none'}, "
            f"expected {','.join(columns)}"
        )
    return table


def table_text(table: pd.DataFrame) -> str:
    """A table as the text of a csv file: \\n at line ends, missing values empty."""
    return table.to_csv(index=False, lineterminator="\n")


def _locate(name: str) -> tuple[Path | None, Path]:
    """The label file (None: no labels) and the folder of the videos of a set."""
    root = workspace()
    folder = root / "raw" / name
    if folder.is_dir():
        videos = folder / "videos"
        return _label_file(folder), videos if videos.is_dir() else folder
    if name == "train" and (root / "raw" / "label.csv").is_file():
        for videos in (root / "train_video", root / "raw" / "train_video"):
            if videos.is_dir():
                return root / "raw" / "label.csv", videos
        raise UserError(f"{root}/raw/label.csv is there, its videos are not; expected {root}/train_video/*.mp4")
    prepared = root / "data" / name
    if (prepared / "videos").is_dir():
        return _label_file(prepared), prepared / "videos"
    raise UserError(
        f"no set {name!r}: expected {folder}/label.csv with {folder}/videos/, or data/{name}/videos/"
        + (", or raw/label.csv with train_video/" if name == "train" else "")
    )


def _label_file(folder: Path) -> Path | None:
    path = next((folder / name for name in LABEL_FILES if (folder / name).exists()), None)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: not a file; expected a csv file of fname,liveness_score")
    return path

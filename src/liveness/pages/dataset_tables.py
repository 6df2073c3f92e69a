"""What the dataset page is made of: the tables of a prepared set, checked, and the brightness of its frames."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.base.files import natural_key
from liveness.base.machine import cores
from liveness.base.tables import read_table
from liveness.evaluation.cameras import measure_cues
from liveness.evaluation.combine import HOLDOUT
from liveness.frames.notes import IMAGE, parse_notes
from liveness.pages.page import read_image, spread_evenly
from liveness.sets.cameras import has_cameras
from liveness.sets.cues import read_cues

_BRIGHTNESS_FRAMES = 3  # stored frames of a video that are measured
MOST_MEASURED = 20_000  # videos whose frames are looked at


@dataclass(frozen=True)
class LabelKind:
    """What a label's videos are called; the name is their class in the page's style, too."""

    label: str
    name: str


LABEL_KINDS = (
    LabelKind("1", "live"),
    LabelKind("0", "attack"),
    LabelKind("", "unlabelled"),
)


@dataclass
class SetTables:
    """The tables of a prepared set.

    ``videos``: labels_video.csv without those left out, natural order, with camera ("" where none is named), fold,
    naive_fold ("" = in none) and brightness; ``boxes``: labels_bbox.csv; ``pairs``: duplicates.csv.
    """

    name: str
    folder: Path
    videos: pd.DataFrame
    left_out: pd.DataFrame
    boxes: pd.DataFrame
    pairs: pd.DataFrame
    about: dict
    kinds: list[LabelKind]
    missing_frames: int = 0  # of the videos that were measured
    measured: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))  # their places in ``videos``
    cues: list[dict] | None = None  # of ``cameras.measure_cues``; None where no camera is named


def read_set_tables(folder: Path) -> SetTables:
    """The tables of data/<set>, checked for the columns that the page needs; brightness is measured."""
    for name in ("labels_video.csv", "prepare.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; prepare the set first: bash prepare_data.sh {folder.name}")
    columns = ["filename", "label", "video_id", "status", "reason", "fps", "width", "height", "duration", "group"]
    videos = read_table(folder / "labels_video.csv", columns)
    columns = ["filename", "video_id", "frame_id", "label", "face", "n_faces", "confidence", "x", "y", "w", "h"]
    boxes = read_table(folder / "labels_bbox.csv", columns)
    try:
        about = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder}/prepare.json: not a JSON file; run: bash prepare_data.sh {folder.name}") from error
    for table, numbers in ((videos, ("fps", "width", "height", "duration")), (boxes, ("n_faces", "x", "y", "w", "h"))):
        for column in numbers:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    boxes["confidence"] = pd.to_numeric(boxes["confidence"], errors="coerce")
    for column in ("species", "codec", "rotation", "camera"):
        if column not in videos:
            videos[column] = ""
    _add_notes(videos, int(about.get("version", 1)))
    videos = _sort_naturally(videos, "filename")
    _add_folds(videos, folder)
    boxes = _sort_naturally(boxes, "filename")
    out = videos["status"] == "left_out"
    left_out, videos = videos[out], videos[~out].reset_index(drop=True)
    kinds = [kind for kind in LABEL_KINDS if (videos["label"] == kind.label).any()]
    tables = SetTables(folder.name, folder, videos, left_out, boxes, _read_pairs(folder, videos), about, kinds)
    _measure_brightness(tables)
    if has_cameras(videos):
        tables.cues = measure_cues(read_cues(folder))
    return tables


def _add_notes(videos: pd.DataFrame, version: int) -> None:
    """From the notes in ``reason``: whether a row is a still image, and the columns transfer, pixel_aspect and scan;
    those are "" for images, where no frame was read, and in all rows of a set of contract version 1, which noted
    nothing of them."""
    noted = videos["reason"].map(parse_notes)
    found = {
        "transfer": [next((kind.upper() for kind in ("hlg", "pq") if kind in notes), "SDR") for notes in noted],
        "pixel_aspect": [notes.get("pixel_aspect", "1:1") for notes in noted],
        "scan": ["interlaced" if "interlaced" in notes else "progressive" for notes in noted],
    }
    videos["image"] = [IMAGE in notes for notes in noted]
    known = videos["status"].isin(["ok", "partial"]) & ~videos["image"] & (version > 1)
    for column, values in found.items():
        videos[column] = pd.Series(values, index=videos.index, dtype=object).where(known, "")


def _sort_naturally(table: pd.DataFrame, column: str) -> pd.DataFrame:
    names = [name.rpartition("/")[2] for name in table[column]]  # the folder of a stored frame orders nothing
    if all(one <= other for one, other in pairwise(map(natural_key, names))):  # as our own tables are
        return table.reset_index(drop=True)
    order = sorted(range(len(table)), key=lambda i: natural_key(names[i]))
    return table.iloc[order].reset_index(drop=True)


def _add_folds(videos: pd.DataFrame, folder: Path) -> None:
    """The columns fold and naive_fold of folds.csv, as text ("holdout" for -1); "" for a video that is in no fold."""
    videos["fold"] = videos["naive_fold"] = ""
    if (folder / "folds.csv").is_file():
        folds = read_table(folder / "folds.csv", ["filename", "fold"]).drop_duplicates("filename").set_index("filename")
        for column in ("fold", "naive_fold"):
            if column in folds:
                videos[column] = videos["filename"].map(folds[column]).fillna("").replace(str(HOLDOUT), "holdout")


def _read_pairs(folder: Path, videos: pd.DataFrame) -> pd.DataFrame:
    """duplicates.csv among ``videos``, with both labels, in natural order; empty where there is no such file."""
    if not (folder / "duplicates.csv").is_file():
        return pd.DataFrame(columns=["filename", "other", "distance", "mirrored", "label", "other_label"])
    pairs = read_table(folder / "duplicates.csv", ["filename", "other"])
    labels = dict(zip(videos["filename"], videos["label"], strict=True))
    pairs = pairs[pairs["filename"].isin(labels) & pairs["other"].isin(labels)].reset_index(drop=True)
    pairs["label"], pairs["other_label"] = pairs["filename"].map(labels), pairs["other"].map(labels)
    pairs["distance"] = pd.to_numeric(pairs["distance"], errors="coerce") if "distance" in pairs else np.nan
    pairs["mirrored"] = pairs["mirrored"] == "1" if "mirrored" in pairs else False
    return pairs


def _measure_brightness(tables: SetTables) -> None:
    """Add the column brightness to the videos: mean grey (0 to 255) of up to _BRIGHTNESS_FRAMES stored frames.

    In a set of more than MOST_MEASURED videos of so many of them, evenly spread.
    """
    videos, names = tables.videos, tables.boxes["filename"].to_numpy()
    measured = np.array(spread_evenly(range(len(videos)), MOST_MEASURED), dtype=int)
    frames = find_rows(tables.boxes["video_id"], videos["video_id"].iloc[measured])
    chosen = [spread_evenly(rows.tolist(), _BRIGHTNESS_FRAMES) for rows in frames]

    def grey(row: int) -> float:
        # An eighth of each side is decoded: the mean does not need more, and it is several times as fast.
        image = read_image(tables.folder / "frames" / names[row], cv2.IMREAD_REDUCED_GRAYSCALE_8)
        return np.nan if image is None else float(image.mean())

    with ThreadPoolExecutor(cores()) as pool:  # OpenCV decodes outside Python's lock
        values = list(pool.map(lambda rows: [grey(row) for row in rows], chosen))
    tables.missing_frames = int(sum(np.isnan(part).sum() for part in values))
    tables.measured = measured
    means = [[value for value in part if not np.isnan(value)] for part in values]
    brightness = np.full(len(videos), np.nan)
    brightness[measured] = [float(np.mean(part)) if part else np.nan for part in means]
    videos["brightness"] = brightness


def find_rows(column: pd.Series, values: Iterable[str]) -> list[np.ndarray]:
    """The places in ``column`` where each of ``values`` stands, in their order."""
    number, different = pd.factorize(column)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(different)))
    starts = np.concatenate([[0], ends])
    places = pd.Index(different).get_indexer(pd.Index(list(values), dtype=object))
    return [order[starts[place] : starts[place + 1]] if place >= 0 else order[:0] for place in places]

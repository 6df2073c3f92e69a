"""What the dataset page is made of: the tables of a prepared set, checked, and the brightness of its frames."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    missing_frames: int = 0
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
    order = sorted(range(len(table)), key=lambda i: natural_key(table[column].iloc[i]))
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
    """Add the column brightness to the videos: mean grey (0 to 255) of up to _BRIGHTNESS_FRAMES stored frames."""
    frames = tables.boxes.groupby("video_id", sort=False)["filename"].agg(list).to_dict()
    chosen = [spread_evenly(frames.get(video, []), _BRIGHTNESS_FRAMES) for video in tables.videos["video_id"]]

    def grey(name: str) -> float:
        # An eighth of each side is decoded: the mean does not need more, and it is several times as fast.
        image = read_image(tables.folder / "frames" / name, cv2.IMREAD_REDUCED_GRAYSCALE_8)
        return np.nan if image is None else float(image.mean())

    with ThreadPoolExecutor(cores()) as pool:  # OpenCV decodes outside Python's lock
        values = list(pool.map(lambda names: [grey(name) for name in names], chosen))
    tables.missing_frames = int(sum(np.isnan(part).sum() for part in values))
    means = [[value for value in part if not np.isnan(value)] for part in values]
    tables.videos["brightness"] = [float(np.mean(part)) if part else np.nan for part in means]

"""The quality of a prepared set's faces, a row per video, from its stored frames and their boxes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.machine import cores
from liveness.base.tables import read_table
from liveness.frames.boxes import Face
from liveness.frames.quality import QUALITY_COLUMNS, Quality, measure_quality, median_quality
from liveness.frames.video import VideoError, jpeg_decode

FRAMES_MEASURED = 3  # stored frames of a video, spread over it


def measure_set_quality(folder: Path) -> pd.DataFrame:
    """``video_id`` and QUALITY_COLUMNS (medians over up to FRAMES_MEASURED frames), one row for every video of
    labels_bbox.csv in data/<set>; nan where no stored frame has a face or none can be read."""
    boxes = read_table(folder / "labels_bbox.csv", ["filename", "video_id", "face", "x", "y", "w", "h"])
    videos = [(video, _spread(part[part["face"] == "1"])) for video, part in boxes.groupby("video_id", sort=False)]

    def measure(chosen: pd.DataFrame) -> list[float]:
        found = [q for row in chosen.itertuples() if (q := _measure_stored(folder, row)) is not None]
        quality = median_quality(found)
        return [getattr(quality, name) if quality else np.nan for name in QUALITY_COLUMNS]

    with ThreadPoolExecutor(cores()) as pool:  # OpenCV works outside Python's lock
        values = list(pool.map(lambda item: measure(item[1]), videos))
    table = pd.DataFrame(values, columns=list(QUALITY_COLUMNS), dtype=float)
    table.insert(0, "video_id", [video for video, _ in videos])
    return table


def _spread(rows: pd.DataFrame) -> pd.DataFrame:
    places = np.linspace(0, len(rows) - 1, min(FRAMES_MEASURED, len(rows)))
    return rows.iloc[sorted({round(float(place)) for place in places})]


def _measure_stored(folder: Path, row) -> Quality | None:
    try:
        rgb = jpeg_decode((folder / "frames" / row.filename).read_bytes())
        face = Face(float(row.x), float(row.y), float(row.w), float(row.h), 1.0)
    except (OSError, VideoError, ValueError):
        return None
    return measure_quality(rgb, face)

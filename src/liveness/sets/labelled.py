"""The labelled videos of a prepared set, whether or not it has folds, and under which conditions they were taken.

Reads data/<set>/{labels_video.csv,folds.csv,labels_bbox.csv,frames/}; writes nothing.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.base.files import show_path, unprepared
from liveness.base.names import find_column
from liveness.base.tables import read_table, whole_numbers
from liveness.sets.fold_table import read_folds
from liveness.sets.quality import measure_set_quality
from liveness.sets.soft_labels import is_soft


def read_labelled(folder: Path) -> tuple[pd.DataFrame, int]:
    """Every labelled video of data/<set> (filename, label: 0 attack or 1 live, group, species), and how many have none;
    those with soft labels are not among them.

    The labels are those of folds.csv where there is one, and then the two tables have to agree. A UserError where the
    set is not prepared, has no labels or one class only.
    """
    path = folder / "labels_video.csv"
    if not path.is_file():
        raise UserError(unprepared(folder.name))
    videos = read_table(path, ["filename", "label", "group", "species", "status"])
    there = videos[videos["status"] != "left_out"]
    there = there[~is_soft(there)]
    videos = there[there["label"] != ""].reset_index(drop=True)
    if not len(videos):
        raise UserError(f"{show_path(path)}: no labelled video in it; an error rate needs labels")
    videos["label"] = whole_numbers(videos, "label", path)
    if (folder / "folds.csv").is_file():
        own = read_folds(folder).set_index("filename")["label"]
        lacking = [name for name in videos["filename"] if name not in own.index]
        if lacking:
            raise UserError(
                f"{show_path(folder / 'folds.csv')}: does not have {lacking[0]}, which labels_video.csv labels; deal "
                f"the folds anew: python -m liveness.make_folds {folder.name}"
            )
    found = sorted(set(videos["label"]))
    if found != [0, 1]:
        raise UserError(
            f"{show_path(path)}: the labels of its {len(videos)} videos are {', '.join(map(str, found))} only; an "
            "error rate needs attacks (0) and live videos (1)"
        )
    return videos[["filename", "label", "group", "species"]], len(there) - len(videos)


def raw_videos(folder: Path, filenames: list[str]) -> list[Path]:
    """The raw video of each name, by the links in data/<set>/videos; a UserError where any leads nowhere."""
    paths = [folder / "videos" / name for name in filenames]
    gone = [path.name for path in paths if not path.is_file()]
    if gone:
        more = ", ..." if len(gone) > 1 else ""
        raise UserError(
            f"{show_path(folder / 'videos')}: {len(gone)} of {len(paths)} raw videos are gone ({gone[0]}{more}); put "
            f"them back (raw/{folder.name}/videos), since they are scored as at prediction, not from stored frames"
        )
    return paths


def read_conditions(folder: Path, filenames: list[str]) -> pd.DataFrame:
    """How each video was taken, rows as in ``filenames``: camera and codec ("" where not known), and as numbers
    (nan where not known) the shorter side in pixels, the face's brightness (luma, 0 to 255) and its width in pixels.

    Brightness and width are medians over stored frames (sets/quality.py). Of a set that is not there nothing is known.
    """
    path, boxes = folder / "labels_video.csv", folder / "labels_bbox.csv"
    videos = read_table(path, ["filename"]) if path.is_file() else pd.DataFrame({"filename": []}, dtype=str)
    there = videos.drop_duplicates("filename").set_index("filename").reindex(filenames)
    found = pd.DataFrame({"filename": filenames})
    for name, column in (("camera", find_column(list(videos.columns), "camera")), ("codec", "codec")):
        found[name] = there[column].fillna("").to_numpy() if column in there else ""
    sides = [pd.to_numeric(there[name], errors="coerce") for name in ("width", "height") if name in there]
    found["side"] = np.minimum(*(part.to_numpy(dtype=float) for part in sides)) if len(sides) == 2 else np.nan
    known = boxes.is_file() and "video_id" in there
    if known:
        quality = measure_set_quality(folder).set_index("video_id").reindex(there["video_id"])
    for name in ("brightness", "face_width"):
        found[name] = quality[name].to_numpy() if known else np.nan
    return found

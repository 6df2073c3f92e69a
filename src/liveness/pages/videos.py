"""The single videos of a report: the worst ones with pictures, all of them as a table, and errors by condition."""

import math
from pathlib import Path

import pandas as pd

from liveness.base.files import natural_key
from liveness.base.tables import read_table
from liveness.pages import charts
from liveness.pages.page import make_thumbnail, spread_evenly
from liveness.pages.report_laboratory import round_reach

_MOST_FRAMES = 3  # thumbnails of a worst video, besides its face
_MOST_WORST = 12  # videos of each class that have pictures
# Column of the table of all videos -> its title, and its digits where it is a number; a column without a value is not
# shown.
_COLUMNS: dict[str, tuple[str, int | None]] = {
    "filename": ("Video", None),
    "label": ("Label", None),
    "score": ("Score", 4),
    "decision": ("Decision", None),
    "status": ("Status", None),
    "species": ("Species", None),
    "camera": ("Camera", None),
    "group": ("Group", None),
    "fold": ("Fold", 0),
    "side": ("Shorter side", 0),
    "brightness": ("Brightness", 0),
    "face_width": ("Face width", 0),
    "codec": ("Codec", None),
    "milliseconds": ("ms", 0),
}


def list_worst(rows: pd.DataFrame, threshold: float) -> list[dict]:
    """The attacks with the highest scores, then the live videos with the lowest, up to twelve of each.

    rows: filename, label, score, group, species (and fold), all with a score; ``wrong``: at the threshold.
    """
    found = []
    for label, name in ((0, "attack"), (1, "live")):
        mine = rows[rows["label"] == label].copy()
        mine["order"] = mine["score"] if label else -mine["score"]
        mine["key"] = [natural_key(filename) for filename in mine["filename"]]
        for row in mine.sort_values(["order", "key"]).head(_MOST_WORST).itertuples(index=False):
            found.append(
                {
                    "filename": row.filename,
                    "label": name,
                    "score": row.score,
                    "wrong": bool((row.score >= threshold) != bool(label)),
                    "group": row.group,
                    "fold": getattr(row, "fold", None),
                    "species": row.species if label == 0 else "",
                }
            )
    return found


def tabulate_videos(videos: list[dict]) -> dict:
    """All videos for the page's script: columns (key, title, digits; None: text) and a list of values per video."""
    keys = [key for key in _COLUMNS if any(_there(video.get(key)) for video in videos)]
    if "group" in keys and all(video["group"] == video["filename"] for video in videos):
        keys.remove("group")
    rows = [[_shorten(key, video.get(key)) for key in keys] for video in videos]
    return {"columns": [[key, *_COLUMNS[key]] for key in keys], "rows": rows}


def _there(value: object) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _shorten(key: str, value: object) -> object:
    """A value as JSON has it: nothing as null, a number with no more digits than anybody reads."""
    if not _there(value):
        return None
    if isinstance(value, float):
        return round(value, 9 if key == "score" else 1)
    return value if isinstance(value, (int, str)) else str(value)


def tabulate_conditions(found: list[dict], cameras: bool) -> dict:
    """Errors by condition, but by camera where ``cameras`` have a section of their own.

    ``tables`` of those that divide the videos (title; rows with pictures; ``most``: the rate at the pictures' end;
    ``numbers``: whether the parts are of numbers), and ``alike``: (title, the one part) of the others.
    """
    tables, alike = [], []
    for condition in found:
        if cameras and condition["name"] == "camera":
            continue
        if len(condition["rows"]) < 2:
            alike.append((condition["title"], condition["rows"][0]["part"] if condition["rows"] else ""))
            continue
        rates = [row[side] for row in condition["rows"] for side in ("apcer", "bpcer") if row[side]["total"]]
        most = round_reach([rate["interval"] for rate in rates])
        rows = [
            row | {f"{side}_picture": _draw(row[side], most) for side in ("apcer", "bpcer")}
            for row in condition["rows"]
        ]
        numbers = condition["name"] not in ("camera", "codec")
        tables.append({"title": condition["title"], "rows": rows, "most": most, "numbers": numbers})
    return {"tables": tables, "alike": alike}


def _draw(rate: dict, most: float) -> object:
    return charts.draw_whisker(rate["value"], rate["interval"], most) if rate["total"] else ""


class WorstPictures:
    """Thumbnails of the worst videos: stored frames with the face's box, and one face."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._frames: dict[str, list] = {}
        self._ids: dict[str, str] = {}
        boxes, videos = folder / "labels_bbox.csv", folder / "labels_video.csv"
        if boxes.is_file() and videos.is_file():
            listed = read_table(videos, ["filename", "video_id"])
            self._ids = dict(zip(listed["filename"], listed["video_id"], strict=True))
            table = read_table(boxes, ["filename", "video_id", "frame_id", "face", "x", "y", "w", "h"])
            for row in table.itertuples(index=False):
                self._frames.setdefault(row.video_id, []).append(row)

    def of_video(self, video: dict) -> list[dict]:
        """Up to three frames and a face, each {src, width, height, alt, caption}."""
        rows = self._frames.get(self._ids.get(video["filename"], ""), [])
        shown = []
        for row in spread_evenly(rows, _MOST_FRAMES):
            box = [float(row.x), float(row.y), float(row.w), float(row.h)] if row.face == "1" else None
            made = make_thumbnail(self._folder / "frames" / row.filename, box)
            score = video["frames"].get(row.frame_id)
            caption = f"frame {row.frame_id}" + ("" if score is None else f": {score:.2f}")
            shown += (
                [made | {"alt": f"Frame {row.frame_id} of {video['filename']}", "caption": caption}] if made else []
            )
        faces = [row for row in rows if row.face == "1"]
        if faces:
            row = faces[len(faces) // 2]
            made = make_thumbnail(self._folder / "faces" / "crop" / row.filename)
            alt = f"Face in frame {row.frame_id} of {video['filename']}"
            shown += [made | {"alt": alt, "caption": f"face, frame {row.frame_id}"}] if made else []
        return shown

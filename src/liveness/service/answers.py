"""The JSON object of a scored clip: its row, what decided, what the members said, and what was looked at."""

import base64
import math
from typing import Any, Protocol

from liveness.frames.boxes import Face
from liveness.frames.views import SeenFrame, VideoViews, ViewRequest
from liveness.prediction.detector import DetailedRow
from liveness.prediction.operating import Operating

MOST_SEEN = 12  # frames that are told; a plan may have more
# What to do better, by the words of frames/hints.py.
HINTS = {
    "no_face": "No face was found: look into the camera, with the whole face in the picture.",
    "rotated": "The face is not upright: turn the picture clockwise by {turned} degrees.",
    "several_faces": "There are {faces} faces in the picture: be alone in it.",
    "small": "The face is only {width:.0f} pixels wide: come nearer.",
    "close": "The face fills the picture: go back a little.",
    "dark": "The face is dark: turn towards the light.",
    "bright": "The face is overexposed: turn away from the light.",
    "blurred": "The face is blurred: hold still, and clean the lens.",
}


class Scorer(Protocol):
    """What the service asks of a ``Detector``; its methods may be called from several threads at a time."""

    name: str
    operating: Operating

    @property
    def wanted(self) -> list[ViewRequest]: ...

    def judge(self, views: VideoViews) -> DetailedRow: ...


def describe_row(row: DetailedRow, scorer: Scorer, pictures: bool) -> dict[str, Any]:
    """As page/openapi.json says; ``pictures``: with the frames' pictures as data URIs."""
    operating = scorer.operating
    low, high = row.threshold_interval
    step = max(1, -(-len(row.seen) // MOST_SEEN))
    return {
        "score": round(row.score, 9),
        "decision": row.decision,
        "status": row.status,
        "reason": row.reason,
        "frames": row.frames,
        "faces": row.faces,
        "faces_in_frame": row.faces_in_frame,
        "milliseconds": round(row.milliseconds, 1),
        "ensemble": scorer.name,
        "threshold": {
            "point": operating.point,
            "value": row.threshold,
            "low": low,
            "high": high,
            "source": operating.source,
        },
        "members": [
            {"name": name, "score": _number(operating.calibrate(name, score)), "uncalibrated": _number(score)}
            for name, score in row.members.items()
        ],
        "used": [_describe_frame(frame, pictures) for frame in row.seen[::step]],
        "hints": [{"kind": word, "text": _tell(word, row)} for word in row.hints],
    }


def _number(score: float) -> float | None:
    return round(score, 9) if math.isfinite(score) else None


def _tell(word: str, row: DetailedRow) -> str:
    turned = next((frame.turned for frame in row.seen if frame.turned), 0)
    width = (row.measures or {}).get("face_width", 0.0)
    return HINTS[word].format(turned=turned, faces=row.faces_in_frame, width=width)


def _describe_frame(frame: SeenFrame, picture: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "index": frame.index,
        "seconds": round(frame.time, 3),
        "width": frame.width,
        "height": frame.height,
        "face": None if frame.face is None else _box(frame.face),
        "other_faces": [_box(face) for face in frame.faces if face != frame.face],
    }
    if picture:
        told["picture"] = "data:image/jpeg;base64," + base64.b64encode(frame.picture).decode("ascii")
    return told


def _box(face: Face) -> list[float]:
    return [face.x, face.y, face.w, face.h]

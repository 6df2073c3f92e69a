"""How good the picture of a face is: what may decide whether a score can be trusted, and what must not tell the label.

Works on a frame's pixels (uint8 RGB, height x width x 3) and the box of its face; reads and writes nothing.
"""

from dataclasses import asdict, dataclass

import cv2
import numpy as np

from liveness.frames.boxes import Face

_SHARPNESS_SIDE = 96  # pixels of a side that the face is resampled to, so that its size does not decide


@dataclass(frozen=True)
class Quality:
    """One frame's face. ``QUALITY_COLUMNS`` has the names in this order.

    brightness, contrast: mean and standard deviation of the luma (0 to 255) inside the box; sharpness: the standard
    deviation of the Laplacian of that luma at a fixed size, over the contrast (without a unit); face_width: the box's,
    pixels; room: how many times as wide and high as its box a window can be and still fit into the frame.
    """

    brightness: float
    contrast: float
    sharpness: float
    face_width: float
    room: float


QUALITY_COLUMNS = tuple(Quality.__dataclass_fields__)


def measure_quality(rgb: np.ndarray, face: Face) -> Quality:
    """The quality of a frame's face; the part of the box outside of the frame is not looked at."""
    height, width = rgb.shape[:2]
    left, top = (int(np.clip(round(v), 0, size - 1)) for v, size in ((face.x, width), (face.y, height)))
    right, low = (
        int(np.clip(round(v), at + 1, size))
        for v, at, size in ((face.x + face.w, left, width), (face.y + face.h, top, height))
    )
    luma = cv2.cvtColor(np.ascontiguousarray(rgb[top:low, left:right]), cv2.COLOR_RGB2GRAY)
    contrast = float(luma.std())
    small = cv2.resize(luma, (_SHARPNESS_SIDE, _SHARPNESS_SIDE), interpolation=cv2.INTER_AREA)
    edges = float(cv2.Laplacian(small, cv2.CV_32F).std())
    room = min(width / max(face.w, 1.0), height / max(face.h, 1.0))
    return Quality(float(luma.mean()), contrast, edges / max(contrast, 1.0), float(face.w), float(room))


# What an operating file may limit (prediction/limits.py): the quality, and other_face, the area of the largest other
# face in the frame over that of the one that is scored (0: there is none).
MEASURES = (*QUALITY_COLUMNS, "other_face")


def measure_frame(rgb: np.ndarray, face: Face, faces: list[Face]) -> dict[str, float]:
    """MEASURES of a frame whose ``faces`` were found; ``face`` is the one of them that is scored."""
    others = [other.w * other.h for other in faces if other is not face and other != face]
    return asdict(measure_quality(rgb, face)) | {"other_face": max(others, default=0.0) / (face.w * face.h)}


def median_measures(frames: list[dict[str, float]]) -> dict[str, float] | None:
    """The median of each measure over a video's frames; None for none."""
    return {name: float(np.median([one[name] for one in frames])) for name in MEASURES} if frames else None


def median_quality(parts: list[Quality]) -> Quality | None:
    """The median of each measure over a video's frames; None for none."""
    if not parts:
        return None
    values = np.array([list(asdict(part).values()) for part in parts])
    return Quality(*(float(v) for v in np.median(values, axis=0)))

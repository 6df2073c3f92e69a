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


def median_quality(parts: list[Quality]) -> Quality | None:
    """The median of each measure over a video's frames; None for none."""
    if not parts:
        return None
    values = np.array([list(asdict(part).values()) for part in parts])
    return Quality(*(float(v) for v in np.median(values, axis=0)))

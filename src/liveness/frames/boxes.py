"""Boxes around faces: which one of a frame counts, the square cut around it, and boxes drawn for people to look at.

Works on RGB pixels (uint8, height x width x 3), whichever detector found the boxes; writes nothing.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from liveness.frames.rules import NEWEST, RULES


@dataclass(frozen=True)
class Face:
    """A box in pixels of the frame (it may reach over its borders) and the detector's confidence."""

    x: float
    y: float
    w: float
    h: float
    confidence: float


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


def find_window(face: Face, width: int, height: int, scale: float) -> tuple[int, int, int, int]:
    """The box of a face, ``scale`` times as wide and tall, inside a frame: (left, top, right, bottom) in whole pixels,
    the last two inclusive.

    Where the frame is too small for it, both sides shrink alike; where it would leave the frame, it is pushed back. So
    it is nowhere filled up, its centre may be another than the face's, and near borders more than the face's own
    surroundings is missing from it. (Minivision's networks were trained on such windows.)
    """
    scale = min((height - 1) / face.h, (width - 1) / face.w, scale)
    left, right = _push_back(face.x, face.w, scale, width)
    top, bottom = _push_back(face.y, face.h, scale, height)
    return left, top, right, bottom


def _push_back(start: float, length: float, scale: float, limit: int) -> tuple[int, int]:
    """One direction of ``find_window``: first and last pixel, truncated as there."""
    centre, half = start + length / 2, length * scale / 2
    first, last = centre - half, centre + half
    if first < 0:
        first, last = 0.0, last - first
    if last > limit - 1:
        first, last = first - (last - (limit - 1)), limit - 1.0
    return max(0, int(first)), int(last)


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

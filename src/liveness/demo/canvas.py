"""The canvas on which heads are drawn, the portrait's landmarks on it, and how paint gets there.

The portrait is ``skimage.data.astronaut()`` (NASA, public domain, in scikit-image's wheel), 512 x 512 pixels; the
canvas is CANVAS_H x CANVAS_W. Nothing is read or written.
"""

import cv2
import numpy as np

CANVAS_H, CANVAS_W = 880, 720
SCALE = 2.4  # canvas pixels per pixel of the portrait
SHIFT = np.array([360 - 222 * SCALE, 110 - 12 * SCALE])  # where the portrait's origin lies on the canvas
FACE = np.array([360.0, 390.0])  # middle of the face on the canvas
FACE_WIDTH = 206.0  # cheek to cheek on the canvas

# Points of the portrait, measured by hand (pixels of the 512 x 512 picture, x and y).
HEAD_OUTLINE = np.array([
    (153.6, 67.3), (162.4, 53.6), (178.9, 42.6), (189.9, 34.3), (200.9, 24.2), (217.4, 18.7), (231.1, 15.4),
    (244.8, 17.0), (258.6, 21.4), (272.3, 28.8), (283.3, 38.5), (292.9, 52.2), (299.0, 65.9), (301.4, 82.4),
    (300.3, 96.2), (295.7, 108.5), (288.8, 118.1), (281.9, 125.0), (277.3, 129.7), (276.2, 134.1), (272.3, 136.5),
    (267.9, 136.5), (265.7, 144.2), (261.3, 153.8), (255.8, 164.8), (247.6, 172.5), (235.2, 178.0), (221.5, 179.7),
    (206.4, 177.5), (194.0, 170.3), (188.5, 163.5), (184.9, 151.1), (182.7, 137.4), (181.6, 132.1), (176.2, 129.7),
    (171.5, 119.5), (162.4, 111.3), (156.9, 98.9), (154.7, 85.2)])  # fmt: skip
HAIR = np.r_[HEAD_OUTLINE[:19], HEAD_OUTLINE[34:]]  # the part of the outline that is hair
HAIRLINE = np.array([
    (182.7, 115.4), (183.8, 96.2), (185.5, 76.9), (200.9, 78.3), (222.9, 80.5), (239.3, 82.1), (255.8, 87.4),
    (267.6, 90.1), (269.6, 109.9)])  # fmt: skip
JAW = np.array([
    (267.9, 136.5), (265.7, 144.2), (261.3, 153.8), (255.8, 164.8), (247.6, 172.5), (235.2, 178.0), (221.5, 179.7),
    (206.4, 177.5), (194.0, 170.3), (188.5, 163.5), (184.9, 151.1), (182.7, 137.4)])  # fmt: skip
EYES = np.array([(202.6, 101.2), (247.3, 103.0)])
EYE_ROUND = np.array([(-9.0, 0.5), (9.0, 0.5), (0, -5.5), (0, 4.0)])  # lids and corners about each eye
BROWS = np.array([(190, 91.0), (200, 88.3), (213, 91.5), (238, 93.5), (250, 92.3), (264, 96.0)])
NOSE = np.array([(222, 126), (214, 127), (233, 128)])
MOUTH = np.array([(204.5, 140.5), (245, 141), (223, 139.5), (222, 153.5)])  # corners, upper and lower edge
MASK = np.array([
    (185.0, 121), (203, 114), (216, 109), (222.5, 108), (230, 109), (245, 114), (266, 122), (263, 151), (251, 171),
    (236, 181.5), (221.5, 184), (206, 181), (192, 170), (186, 150)])  # fmt: skip


def to_canvas(points: np.ndarray) -> np.ndarray:
    """Portrait pixels to canvas pixels (n x 2)."""
    return np.asarray(points, np.float64) * SCALE + SHIFT


def fill_polygon(points: np.ndarray, soft: float = 1.5) -> np.ndarray:
    """A polygon on the canvas as a soft mask, float32 0..1."""
    mask = np.zeros((CANVAS_H, CANVAS_W), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), soft).astype(np.float32) / 255


def smooth_curve(points: np.ndarray, count: int = 160) -> np.ndarray:
    """A closed smooth curve through ``points`` (periodic cubic spline)."""
    from scipy.interpolate import CubicSpline

    closed = np.r_[points, points[:1]]
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))]
    return CubicSpline(length, closed, bc_type="periodic")(np.linspace(0, length[-1], count, endpoint=False))


def paint_over(picture: np.ndarray, alpha: np.ndarray, tone: np.ndarray | tuple) -> None:
    """Paint ``tone`` (a colour or a picture) over ``picture`` (float32 HxWx3) with weight ``alpha`` (HxW), in place."""
    picture += (np.asarray(tone, np.float32) - picture) * alpha[..., None]

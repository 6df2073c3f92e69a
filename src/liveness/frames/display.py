"""How the frames of a track are meant to be seen: light, shape of the pixels, and the way up.

Writes nothing. Under contract version 1 only the last of the three is followed; what was ignored is noted.
"""

from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

from liveness.frames import colour
from liveness.frames.rules import RULES

MAX_PIXELS = 8192 * 8192  # of one frame: a damaged header must not ask for all memory
NEARLY = 0.01  # a pixel aspect nearer to 1 is a scaler's rounding (404:405), and resampling would only blur
STRETCH = 8  # a pixel aspect beyond this, or beyond its inverse, is no shape of a pixel
UNKNOWN, BT2020 = 2, 9  # FFmpeg's numbers for no colour space (or transfer function), and for BT.2020's


class Look:
    """What a track says of how to show it. ``notes``: what was found in the frames that were shown."""

    def __init__(self, stream: av.video.stream.VideoStream, version: int) -> None:
        context = stream.codec_context
        self.notes: dict[str, None] = {}
        self.displayed = RULES[version].displayed
        self.transfer = context.color_trc  # of the container: not every codec's frames repeat it
        self.aspect = Fraction(stream.sample_aspect_ratio or 1)
        if abs(self.aspect - 1) >= NEARLY:
            width, height = _square(context.width, context.height, self.aspect)
            sane = 1 / STRETCH <= self.aspect <= STRETCH and width * height <= MAX_PIXELS
            applied = self.displayed and sane
            self._note("pixel_aspect", applied, f"={self.aspect.numerator}:{self.aspect.denominator}")
            self.aspect = self.aspect if applied else Fraction(1)
        else:
            self.aspect = Fraction(1)

    def pixels(self, frame: av.VideoFrame, matrix: np.ndarray | None) -> np.ndarray:
        """A frame as it is meant to be seen: uint8 RGB, height x width x 3."""
        if frame.interlaced_frame:
            self.notes["interlaced"] = None
        return upright(self._square(self._light(frame)), matrix)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a coded frame with square pixels, not yet turned."""
        return (width, height) if self.aspect == 1 else _square(width, height, self.aspect)

    def _light(self, frame: av.VideoFrame) -> np.ndarray:
        transfer = self.transfer if frame.color_trc == UNKNOWN else frame.color_trc
        if transfer not in colour.NAMES:
            return frame.to_ndarray(format="rgb24")
        self._note(colour.NAMES[transfer], self.displayed)
        if not self.displayed:
            return frame.to_ndarray(format="rgb24")
        space = BT2020 if frame.colorspace == UNKNOWN else None
        return colour.to_sdr(frame.to_ndarray(format="rgb48le", src_colorspace=space), transfer, frame.color_primaries)

    def _square(self, rgb: np.ndarray) -> np.ndarray:
        """Resampled along the one side that gets longer, so that nothing is thrown away."""
        if self.aspect == 1:
            return rgb
        from PIL import Image

        size = _square(rgb.shape[1], rgb.shape[0], self.aspect)
        return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))

    def _note(self, kind: str, applied: bool, value: str = "") -> None:
        self.notes[f"{kind}{'' if applied else '_ignored'}{value}"] = None


def _square(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Of a frame whose pixels are ``aspect`` times as wide as high: the size in square ones."""
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def read_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The 2x2 part of a frame's display matrix as signs and zeros, or None where it changes nothing."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(bytes(cast(Any, data)), dtype=np.int32)
    if values.size < 9:
        return None
    part = values.reshape(3, 3)[:2, :2].astype(np.float64)
    largest = np.abs(part).max()
    if largest == 0 or abs(np.linalg.det(part / largest)) < 1e-3:
        return None
    part = np.rint(part / largest)  # to the nearest quarter turn
    if abs(np.linalg.det(part)) != 1 or np.array_equal(part, np.eye(2)):
        return None
    return part


def upright(rgb: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror pixels as the display matrix says: (x, y) goes to (a x + c y, b x + d y)."""
    if matrix is None:
        return rgb
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        rgb = rgb.transpose(1, 0, 2)
        along_x, along_y = c, b
    else:
        along_x, along_y = a, d
    return np.ascontiguousarray(rgb[:: -1 if along_y < 0 else 1, :: -1 if along_x < 0 else 1])


def turned(width: int, height: int, matrix: np.ndarray | None) -> tuple[int, int, int]:
    """Width, height and clockwise turn (0, 90, 180, 270 degrees) of a picture under a display matrix."""
    if matrix is None:
        return width, height, 0
    (a, b), (c, d) = matrix
    swapped = abs(b) > abs(a)
    # b and c are the sine of the clockwise turn; a mirrored picture is named by the turn of its x axis.
    turn = 90 if swapped and b > 0 else 270 if swapped else 0 if a > 0 else 180
    if a * d - b * c < 0 and not swapped:
        turn = 0 if d > 0 else 180
    return (height, width, turn) if swapped else (width, height, turn)

"""A phone camera: blur, auto exposure and white balance, tone, vignetting, noise, sharpening.

Live clips are shot by one such camera and attacks are recaptured by one, drawn from the same
distribution, so that exposure, colour, noise and sharpness of the camera tell nothing of the label.
Nothing is read or written.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_pair(values: Iterable[float]) -> tuple[float, float]:
    """Two numbers (angles, shares) as plain floats."""
    first, second = (float(value) for value in values)
    return first, second


def to_triple(values: Iterable[float]) -> tuple[float, float, float]:
    """Three numbers (a colour, gains, angles) as plain floats."""
    first, second, third = (float(value) for value in values)
    return first, second, third


@dataclass(frozen=True)
class Camera:
    """One camera's constants. Levels are shares of full scale, lengths are pixels."""

    level: float = 0.48  # the mean brightness that auto exposure aims at
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # mean colour that white balance aims at
    contrast: float = 0.22  # standard deviation of brightness that the tone curve aims at
    saturation: float = 0.08  # mean distance of a pixel from grey that the colour processing aims at
    strength: float = 0.85  # how far the automatics go; white balance half as far
    blur: float = 0.6
    sharpen: float = 0.4
    noise: float = 0.012
    vignette: float = 0.1

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Camera":
        tint = np.exp(rng.normal(0, 0.05, 3))
        return cls(
            level=float(rng.uniform(0.36, 0.58)),
            tint=to_triple(tint / tint.mean()),
            contrast=float(rng.uniform(0.17, 0.26)),
            saturation=float(rng.uniform(0.045, 0.105)),
            strength=float(rng.uniform(0.75, 0.95)),
            blur=float(rng.uniform(0.35, 1.1)),
            sharpen=float(rng.uniform(0.0, 1.2)),
            noise=float(np.exp(rng.uniform(np.log(0.005), np.log(0.032)))),
            vignette=float(rng.uniform(0.0, 0.25)),
        )

    def apply(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shoot ``picture`` (HxWx3, uint8 or float32 in 0..1): uint8 of the same size."""
        x = picture.astype(np.float32) * np.float32(1 / 255) if picture.dtype == np.uint8 else picture
        if self.blur > 0.05:
            x = cv2.GaussianBlur(x, (0, 0), self.blur)
        height, width = x.shape[:2]
        if self.vignette > 0.01:
            x = x * _vignette(height, width, round(self.vignette, 3))
        matrix = self._tone(x)
        x = cv2.transform(x, matrix)
        x = x + draw_sensor_noise(height, width, rng) * np.float32(self.noise)
        if self.sharpen > 0.05:
            x = cv2.addWeighted(x, 1 + self.sharpen, cv2.GaussianBlur(x, (0, 0), 1.2), -self.sharpen, 0)
        return to_bytes(x)

    def _tone(self, x: np.ndarray) -> np.ndarray:
        """Exposure, white balance, contrast and saturation as one 3x4 matrix, from the picture's statistics."""
        height, width = x.shape[:2]
        # Metering favours the middle, where a selfie's face is.
        middle = x[height // 5 : -height // 5 : 8, width // 5 : -width // 5 : 8].reshape(-1, 3)
        sample = np.concatenate([x[::8, ::8].reshape(-1, 3), middle])
        mean = sample.mean(0) + 1e-3
        level = float(mean @ _LUMA)
        balance = (np.asarray(self.tint, np.float32) * level / mean) ** (0.5 * self.strength)
        gain = balance * (self.level / level) ** self.strength
        sample = sample * gain
        luma = sample @ _LUMA
        stretch = np.clip((self.contrast / (luma.std() + 1e-3)) ** self.strength, 0.6, 1.6)
        spread = np.abs(sample - luma[:, None]).mean() * stretch
        vivid = np.clip((self.saturation / (spread + 1e-3)) ** self.strength, 0.5, 1.6)
        colour = vivid * np.eye(3, dtype=np.float32) + (1 - vivid) * _LUMA[None]
        matrix = (colour * stretch) @ np.diag(gain)
        centre = sample.mean(0)
        # Vividness acts round the grey axis, contrast round the mean colour.
        offset = centre - (colour * stretch) @ centre
        return np.c_[matrix, offset].astype(np.float32)


def to_bytes(x: np.ndarray) -> np.ndarray:
    """float32 in 0..1 to uint8, rounded and saturated."""
    return cv2.convertScaleAbs(np.maximum(x, 0), alpha=255.0)


@lru_cache(maxsize=8)
def _vignette(height: int, width: int, amount: float) -> np.ndarray:
    y = (np.arange(height, dtype=np.float32)[:, None] / height - 0.5) * 2
    x = (np.arange(width, dtype=np.float32)[None] / width - 0.5) * 2
    return (1 - amount * (x * x + y * y) / 2)[..., None].repeat(3, 2)


@lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    """A fixed tile of sensor noise: white, with the slight blotches that demosaicing leaves."""
    rng = np.random.default_rng(20220911)
    tile = rng.standard_normal((800, 800, 3), dtype=np.float32)
    blotch = cv2.GaussianBlur(rng.standard_normal((800, 800, 3), dtype=np.float32), (0, 0), 1.0) * 3.0
    tile = 0.75 * tile + 0.5 * blotch
    return tile / tile.std()


def draw_sensor_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit deviation, height x width x 3: a random window of a fixed tile, repeated when larger."""
    tile = _noise_tile()
    below, beside = max(0, height + 64 - tile.shape[0]), max(0, width + 64 - tile.shape[1])
    if below or beside:
        tile = cv2.copyMakeBorder(tile, 0, below, 0, beside, cv2.BORDER_WRAP)
    top = int(rng.integers(0, tile.shape[0] - height + 1))
    left = int(rng.integers(0, tile.shape[1] - width + 1))
    window = tile[top : top + height, left : left + width]
    return window[:, ::-1] if rng.random() < 0.5 else window
